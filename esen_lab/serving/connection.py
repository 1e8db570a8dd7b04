"""What the application may know of a request's connection, and ask of it: beyond ASGI, and cheaper than by it.

Per request, ASGI takes a task that waits for the client's leaving, a timer for a body that is there already, and two
calls of the system for one small response. A scope has a `Connection` at `CONNECTION` instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

CONNECTION = "esen_lab.connection"
"""Where it is in a scope."""


@dataclass(slots=True)
class Connection:
    """Of one request.

    Attributes:
        transport: What is written to.
        tell_when_left: Has something called when the client leaves, at once where it has; None: nothing any more.
        resume_reading: Has what comes next read, where that was put off.
        crowded: Whether there are more connections than there may be.
        whole: Whether all of the request has come.
        body: Then what nobody has received yet of its body.
        upgrades: Whether it asks for another protocol: the parser takes what follows for that, and reads no body.
    """

    transport: Any
    tell_when_left: Callable[[Callable[[], object] | None], None]
    resume_reading: Callable[[], object]
    crowded: bool = False
    whole: bool = False
    body: bytearray | None = None
    upgrades: bool = False

    @property
    def slow(self) -> bool:
        """Whether it was cut because its client does not read."""
        return bool(self.transport.slow)

    def join_next(self) -> None:
        """What is written next is sent with what is written after it."""
        self.transport.join_next()

    def take_body(self) -> bytearray | None:
        """All of the body, where it has come whole and nothing of it was received; then nothing need be."""
        if self.body is not None:
            self.resume_reading()  # as receiving does: else nobody would notice that the client leaves
        return self.body


class JoinedWrites:
    """A transport that can send two things that are written as one.

    Args:
        transport: asyncio's.
        closing: Called when it is closed while something of it is still to be read by the client.

    Attributes:
        slow: Whether it was cut because its client does not read.
    """

    def __init__(self, transport: asyncio.Transport, closing: Callable[[], object]) -> None:
        self._transport = transport
        self._closing = closing
        self.slow = False
        self._joins = False
        self._held = b""
        self.is_closing = transport.is_closing
        self.get_extra_info = transport.get_extra_info
        self.abort = transport.abort

    def join_next(self) -> None:
        """See `Connection`."""
        self._joins = True

    def write(self, data: bytes) -> None:
        """Send it, or keep it for the next."""
        if self._joins:
            self._joins, self._held = False, data
            return
        held, self._held = self._held, b""
        self._transport.write(held + data if held else data)

    def close(self) -> None:
        """Send what is kept, and close."""
        held, self._held = self._held, b""
        if held:
            self._transport.write(held)
        self._transport.close()
        if self._transport.get_write_buffer_size():  # it closes once that was read, if ever
            self._closing()

    def cut_slow(self) -> None:
        """End it at once, whatever is still to be read."""
        self.slow = True
        self._transport.abort()

    def __getattr__(self, name: str) -> Any:
        """Whatever else is asked of a transport."""
        return getattr(self._transport, name)
