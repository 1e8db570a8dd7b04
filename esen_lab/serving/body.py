"""Reading the body of a request: never more than is allowed, never longer than is allowed, never a bomb."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from typing import Any, TypeAlias

from esen_lab.serving.refusal import RequestRefused, malformed

Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
_ENCODINGS: Mapping[bytes, int] = {b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}
_ALSO = {b"x-gzip": b"gzip", b"": b"identity"}
"""Other names of the same, by RFC 9110; an empty header names none."""
IDENTITY = b"identity"
_STEP_BYTES = 1 << 16
_MADE_BYTES = 1 << 18
"""At most in one step of unpacking."""
_MOST_MEMBERS = 1 << 14
_MOST_DROPPED_BYTES = 64 << 20
_DROPPING_S = 2.0
_KINDS = (b"", b"application/json", b"application/octet-stream")


class ClientLeft(Exception):  # noqa: N818  an event, not a fault
    """The connection was closed before an answer was there."""


class Held:
    """How many bytes of requests are in memory. Used in the event loop."""

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
    receive: Receive,
    headers: Mapping[bytes, bytes],
    *,
    most: int,
    timeout_s: float | None,
    held: Held,
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
    encoding = encoding_of(headers, most)
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
            packed, body = body, bytearray()
            for _ in _unpacking(packed, encoding, body, most):
                more_bytes = len(packed) + len(body) - counted
                held.take(more_bytes)
                counted += more_bytes
                await asyncio.sleep(0)  # others are read and answered meanwhile
            held.now -= len(packed)
            counted -= len(packed)
    except BaseException as problem:
        held.now -= counted
        if isinstance(problem, TimeoutError):
            told = f"A request is sent within {timeout_s:g} s"
            raise RequestRefused(408, "slow", told, close=True, unread=True) from None
        raise
    return body


def whole_body(came: bytearray, most: int, held: Held) -> bytearray:
    """A body that has come whole, and is not packed, as it is; otherwise as `read_body`."""
    if len(came) > most:
        raise _too_large(most)
    held.take(len(came))
    return came


def encoding_of(headers: Mapping[bytes, bytes], most: int) -> bytes:
    """How the body of a request is packed, by its headers; raises as `read_body`, as far as they tell."""
    kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
    if kind not in _KINDS:
        given = kind[:80].decode("latin-1")
        rule = f"A request is application/json or application/octet-stream, not {given!r}: say so in its Content-Type"
        raise RequestRefused(415, "malformed", rule, unread=True)
    encoding = encoding_named(headers.get(b"content-encoding", b""))
    told = headers.get(b"content-length", b"")
    if told.isdigit() and int(told[:19]) > most:
        raise _too_large(most)
    return encoding


def encoding_named(told: bytes) -> bytes:
    """What `Content-Encoding` says, as `unpacked` takes it.

    Raises:
        Refused: Bodies that are packed so are not read (415).
    """
    name = told.strip().lower()
    encoding = _ALSO.get(name, name)
    if encoding != IDENTITY and encoding not in _ENCODINGS:
        given = name[:80].decode("latin-1")
        rule = f"A request is sent as it is, or packed with gzip or deflate, not with {given!r}"
        raise RequestRefused(415, "malformed", rule, unread=True)
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


def unpacked(body: bytes | bytearray, encoding: bytes, most: int) -> bytearray:
    """A body without its compression, of which no more is made than may be.

    gzip's may be several, one behind the other: what they hold is joined. Nothing else follows the end.

    Args:
        body: As it came.
        encoding: See `encoding_named`.
        most: Bytes.

    Raises:
        Refused: It is too large (413), or not packed as it says.
    """
    if encoding == IDENTITY:
        if len(body) > most:
            raise _too_large(most)
        return bytearray(body)
    found = bytearray()
    for _ in _unpacking(body, encoding, found, most):
        pass
    return found


def _unpacking(body: bytes | bytearray, encoding: bytes, found: bytearray, most: int) -> Iterator[None]:
    """Unpack a body, one of those that are read, and append it to `found`: in steps that are short."""
    view, at, members = memoryview(body), 0, 0
    while at < len(body) or not members:
        if members and (encoding != b"gzip" or members == _MOST_MEMBERS):
            raise malformed(f"{len(body) - at} bytes follow the end of what is packed in the body")
        members += 1
        unpacker = zlib.decompressobj(_ENCODINGS[encoding])
        while not unpacker.eof:
            part = view[at : at + _STEP_BYTES]  # not all: what is behind the end is copied each time
            try:
                made = unpacker.decompress(part, min(_MADE_BYTES, most + 1 - len(found)))
            except zlib.error as problem:
                raise malformed(f"The body is not packed as its headers say: {problem}") from problem
            if not (part or made or unpacker.eof):
                raise malformed("The body ends in the middle of what is packed in it")
            found += made
            if len(found) > most:
                raise _too_large(most)
            at += len(part) - len(unpacker.unused_data if unpacker.eof else unpacker.unconsumed_tail)
            yield


def _too_large(most: int) -> RequestRefused:
    return RequestRefused(413, "size", f"A request has at most {most} bytes", close=True, unread=True)
