"""Reading the body of a request: never more than is allowed, never longer than is allowed, never a bomb."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, TypeAlias

from esen_lab.serving.refusal import RequestRefused, malformed

Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
_ENCODINGS: Mapping[bytes, int] = {b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}
_MOST_DROPPED_BYTES = 64 << 20
_DROPPING_S = 2.0
_KINDS = (b"", b"application/json", b"application/octet-stream")


class ClientLeft(Exception):  # noqa: N818  an event, not a fault
    """The connection was closed before an answer was there."""


class Held:
    """How many bytes of requests are in memory. Used in the event loop.

    Args:
        most: How many there may be.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.now = 0

    def take(self, count: int) -> None:
        """Take some more.

        Raises:
            Refused: There would be too many.
        """
        if self.now + count > self.most:
            told = "Requests that wait hold all the memory they may"
            raise RequestRefused(503, "memory", told, retry_after_s=1.0, close=True, unread=True)
        self.now += count


async def read_body(
    receive: Receive, headers: Mapping[bytes, bytes], *, most: int, timeout_s: float | None, held: Held
) -> bytearray:
    """The body of a request; whoever calls gives its bytes back to `held`.

    Args:
        receive: Of ASGI.
        headers: By name, in lower case.
        most: Bytes, before and after it is unpacked.
        timeout_s: For all of it; None where all of it has come.
        held: What it counts against.

    Raises:
        Refused: It is too large (413), comes too slowly (408), or is packed in another way than is read (415).
        ClientLeft: The client has.
    """
    encoding = _check_headers(headers, most)
    body = bytearray()
    counted = 0
    try:
        async with contextlib.nullcontext() if timeout_s is None else asyncio.timeout(timeout_s):
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientLeft
                chunk = message.get("body", b"")
                if len(body) + len(chunk) > most:
                    raise _too_large(most)
                held.take(len(chunk))
                counted += len(chunk)
                body += chunk
                more = message.get("more_body", False)
        if encoding in _ENCODINGS:
            body = _unpacked(body, _ENCODINGS[encoding], most)
            held.take(len(body) - counted)
            counted = len(body)
    except BaseException as problem:
        held.now -= counted
        if isinstance(problem, TimeoutError):
            told = f"A request is sent within {timeout_s:g} s"
            raise RequestRefused(408, "slow", told, close=True, unread=True) from None
        raise
    return body


def _check_headers(headers: Mapping[bytes, bytes], most: int) -> bytes:
    """How the body is packed."""
    kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
    if kind not in _KINDS:
        raise RequestRefused(415, "malformed", "A request is application/json or application/octet-stream", unread=True)
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding != b"identity" and encoding not in _ENCODINGS:
        raise RequestRefused(415, "malformed", "A request is sent as it is, or with gzip or deflate", unread=True)
    told = headers.get(b"content-length", b"")
    if told.isdigit() and int(told[:19]) > most:
        raise _too_large(most)
    return encoding


async def drop_body(receive: Receive) -> None:
    """Read what is left of a request, and keep none of it.

    A connection that is closed while bytes come in is reset, and the client may never see what it was answered.
    """
    left = _MOST_DROPPED_BYTES
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DROPPING_S):
            while left > 0:
                message = await receive()
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
                left -= len(message.get("body", b""))


def _unpacked(body: bytearray, window: int, most: int) -> bytearray:
    """The same without its compression, of which no more is made than may be."""
    unpacker = zlib.decompressobj(window)
    try:
        found = bytearray(unpacker.decompress(body, most + 1))
    except zlib.error as problem:
        raise malformed(f"The body is not packed as its headers say: {problem}") from problem
    if len(found) > most:
        raise _too_large(most)
    if not unpacker.eof:
        raise malformed("The body ends in the middle of what is packed in it")
    return found


def _too_large(most: int) -> RequestRefused:
    return RequestRefused(413, "size", f"A request has at most {most} bytes", close=True, unread=True)
