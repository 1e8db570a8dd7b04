"""uvicorn's protocol of one connection, with the bounds that neither it nor its parser sets."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from collections.abc import Callable
from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from esen_lab.serving.connection import CONNECTION, Connection, WatchedTransport

log = logging.getLogger("esen_lab.serving")
MOST_HEADER_BYTES = 1 << 16
"""Of a request's address and headers, without which a client could fill the memory before anybody looks at them."""
MOST_TOLD = 64
"""Connections beyond those that there may be: their requests are told so. One more is closed before it takes what is
left of the descriptors."""
_CROWDED_S = 2.0
"""One beyond has so long to ask: else a few that never do would keep out who asks whether the server is alive."""
_LOOK_S = 1.0
"""At the end of a server: who has read nothing for so long is not waited for."""


def bounded(read_timeout_s: float, write_timeout_s: float, max_connections: int) -> type[BoundedProtocol]:
    """The protocol with these bounds, for a server of uvicorn's."""
    found = {
        "read_timeout_s": read_timeout_s,
        "write_timeout_s": write_timeout_s,
        "max_connections": max_connections,
    }
    return type(BoundedProtocol.__name__, (BoundedProtocol,), found)


class BoundedProtocol(HttpToolsProtocol):
    """One connection: its headers come within a time and a size, it can be cut, and it says when its client left.

    Something ends each of its states, whatever its client does or leaves:

        headers come                        read_timeout_s for all of them
        a request is run                    its deadline, and the time of a batch; its body: see `body.py`
        it was answered before its end      read_timeout_s for the rest of its body
        nothing comes                       uvicorn's time between two requests
        an answer is not read               write_timeout_s, also of what is closed; at the server's end `_LOOK_S`

    What the application is told in a scope is in `connection.py`.

    Attributes:
        read_timeout_s: How long headers may take.
        write_timeout_s: How long a client may take to read what it was sent.
        max_connections: How many there may be; a request of one more is told so.
    """

    read_timeout_s = 30.0
    write_timeout_s = 30.0
    max_connections = 512

    _waiting: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _looking: asyncio.TimerHandle | None = None
    _ends = False
    _in_headers = False
    _header_bytes = 0  # of this request, where they may be too many
    _chunk_bytes = 0  # that came last
    _request_bytes = 0  # since this request began, and what of its first chunk was before it
    _steps = 0  # what the parser came to
    _pending_bytes = 0  # since the last of these
    _left: Callable[[], object] | None = None

    def connection_made(self, transport: Any) -> None:
        """A client is there: its headers are waited for."""
        super().connection_made(transport)
        # Else the second part of a response waits 40 ms for the first one's acknowledgement. asyncio does so itself
        # only for sockets that were made with the protocol's number.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.transport = WatchedTransport(transport, self._wait_for_reader)  # type: ignore[assignment]
        beyond = len(self.connections) - self.max_connections
        if beyond > MOST_TOLD:
            self.transport.abort()
        else:
            self._wait_for_headers(_CROWDED_S if beyond > 0 else math.inf)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone: whoever asked to be told is."""
        self._headers_came()
        super().connection_lost(exc)
        self._was_read()
        left, self._left = self._left, None
        if left is not None:
            left()

    def data_received(self, data: bytes) -> None:
        """Parse, and cut who sends without an end."""
        steps = self._steps
        self._chunk_bytes = len(data)
        self._request_bytes += len(data)
        super().data_received(data)
        # The parser keeps a header, a trailer or a chunk's extension of any length until it has all of it.
        self._pending_bytes = self._pending_bytes + len(data) if self._steps == steps else 0
        endless = self._pending_bytes > MOST_HEADER_BYTES or (self._in_headers and self._too_many_headers())
        if endless and not self.transport.is_closing():
            self.send_400_response("")
        elif self._in_headers:  # they are rarely still to come: a timer for each request is dear
            self._wait_for_headers()
        elif self.cycle is not None and self.cycle.response_complete and self.timeout_keep_alive_task is None:
            self._wait_after_answer()

    def pause_writing(self) -> None:
        """Of the transport: more is written than the client reads."""
        super().pause_writing()
        self._wait_for_reader()

    def resume_writing(self) -> None:
        """Of the transport: it has read."""
        super().resume_writing()
        if not self.transport.is_closing():
            self._was_read()

    def shutdown(self) -> None:
        """The server ends."""
        super().shutdown()
        self._ends = True
        if self._unread is not None:
            self._wait_for_reader()

    def on_message_begin(self) -> None:
        """Of the parser."""
        super().on_message_begin()
        self._steps += 1
        self._in_headers, self._header_bytes, self._request_bytes = True, 0, self._chunk_bytes
        self.scope[CONNECTION] = Connection(  # type: ignore[literal-required]
            self.transport,  # type: ignore[arg-type]  # a `WatchedTransport`
            self._tell_when_left,
            self.flow.resume_reading,
            crowded=len(self.connections) > self.max_connections,
        )

    def on_headers_complete(self) -> None:
        """Of the parser."""
        if self._too_many_headers():
            raise ValueError("too many bytes of headers")  # the parser's to pass on: see `send_400_response`
        self._steps += 1
        self._in_headers = False
        self._headers_came()
        super().on_headers_complete()
        self.scope[CONNECTION].cycle = self.cycle  # type: ignore[literal-required]
        if self.parser.should_upgrade():
            self.scope[CONNECTION].upgrades = True  # type: ignore[literal-required]
            self.cycle.keep_alive = False  # nothing that follows would be parsed

    def on_body(self, body: bytes) -> None:
        """Of the parser."""
        self._steps += 1
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Of the parser: all of the request is there."""
        self._steps += 1
        connection: Connection = self.scope[CONNECTION]  # type: ignore[literal-required]
        connection.whole = True
        connection.body = self.cycle.body
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """As uvicorn, but in JSON like every other refusal."""
        status, told = b"400 Bad Request", msg
        if max(self._header_bytes, self._pending_bytes) > MOST_HEADER_BYTES:
            status, told = b"431 Request Header Fields Too Large", f"Headers have {MOST_HEADER_BYTES} bytes at most"
        body = msgspec.json.encode({"error": told})
        self.transport.write(
            b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
            % (status, len(body), body)
        )
        self.transport.close()

    def _tell_when_left(self, call: Callable[[], object] | None) -> None:
        if call is not None and (self.cycle is None or self.cycle.disconnected):
            call()
        else:
            self._left = call

    def _too_many_headers(self) -> bool:
        """Whether those that were parsed are: counted where so many bytes have come at all."""
        if self._request_bytes <= MOST_HEADER_BYTES:
            return False
        self._header_bytes = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        return self._header_bytes > MOST_HEADER_BYTES

    def _wait_for_headers(self, limit_s: float = math.inf) -> None:
        if self._waiting is None:
            self._waiting = self.loop.call_later(min(limit_s, self.read_timeout_s), self.transport.abort)

    def _headers_came(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _wait_after_answer(self) -> None:
        # uvicorn takes back its time between two requests at any byte, also at one that begins none.
        if self.scope[CONNECTION].whole:  # type: ignore[literal-required]
            self._headers_came()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        else:  # bytes of a body that nobody waits for
            self._wait_for_headers()

    def _wait_for_reader(self) -> None:
        if self._unread is None:
            self._unread = self.loop.call_later(self.write_timeout_s, self._cut)
        if self._ends and self._looking is None:
            self._looking = self.loop.call_later(_LOOK_S, self._look, self.transport.get_write_buffer_size())

    def _look(self, before: int) -> None:
        left = self.transport.get_write_buffer_size()
        if left and left >= before:
            self._cut()
        else:
            self._looking = self.loop.call_later(_LOOK_S, self._look, left) if left else None

    def _cut(self) -> None:
        log.warning("cut", extra={"client": self.client, "why": "it does not read what it is sent"})
        self.transport.cut_slow()  # type: ignore[attr-defined]

    def _was_read(self) -> None:
        for timer in (self._unread, self._looking):
            if timer is not None:
                timer.cancel()
        self._unread = self._looking = None
