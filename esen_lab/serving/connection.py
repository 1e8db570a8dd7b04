"""What the application may know of a request's connection, and ask of it: beyond ASGI, and cheaper than by it.

Per request, ASGI takes a task that waits for the client's leaving, a timer for a body that is there already, and two
messages, each looked through, and two calls of the system for one small response. A scope has a `Connection` at
`CONNECTION` instead.
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
        cycle: uvicorn's record of the request and its response, once its headers have come.
        tell_when_left: Has something called when the client leaves, at once where it has; None: nothing any more.
        resume_reading: Has what comes next read, where that was put off.
        crowded: Whether there are more connections than there may be.
        whole: Whether all of the request has come.
        body: Then what nobody has received yet of its body.
        upgrades: Whether it asks for another protocol: the parser takes what follows for that, and reads no body.
    """

    transport: WatchedTransport
    tell_when_left: Callable[[Callable[[], object] | None], None]
    resume_reading: Callable[[], object]
    crowded: bool = False
    whole: bool = False
    body: bytearray | None = None
    upgrades: bool = False
    cycle: Any = None

    @property
    def slow(self) -> bool:
        """Whether it was cut because its client does not read."""
        return self.transport.slow

    def answer(self, fields: bytes, body: bytes) -> bool:
        """Send a whole response of status 200 at once: what ASGI's two messages come to, where they need not wait.

        Args:
            fields: Its headers, each with the end of its line; they say how long the body is.
            body: All of it.

        Returns:
            Whether that was done; else the client reads too slowly, and messages wait for it.
        """
        cycle = self.cycle
        if cycle.flow.write_paused:
            return False
        if not cycle.disconnected:
            cycle.response_started = cycle.response_complete = True
            kept = b"" if cycle.keep_alive else b"connection: close\r\n"
            self.transport.write(b"HTTP/1.1 200 OK\r\n%b%b\r\n%b" % (fields, kept, body))
            cycle.message_event.set()
            if not cycle.keep_alive:
                self.transport.close()
            cycle.on_response()
        return True

    def take_body(self) -> bytearray | None:
        """All of the body, where it has come whole and nothing of it was received; then nothing need be."""
        if self.body is not None:
            self.resume_reading()  # as receiving does: else nobody would notice that the client leaves
        return self.body


class WatchedTransport:
    """A transport whose client may be too slow, or not read at all.

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
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.get_extra_info = transport.get_extra_info
        self.abort = transport.abort

    def close(self) -> None:
        """Close it, once what was written has been read."""
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
