"""Frames on a private socket between the notebook's process and a worker.

    frame  :=  kind (1 byte)  pad (3)  length (4, of the body)  number (8)   body
    body   :=  b"", or a seed of 8 bytes, for RUN and STEPWISE; packed numbers for DONE and STEP; b"" for STOP and LOOK,
               whose number says which (`known_looks.py`); else a record of `messages.py`

The path of every call sends 16 bytes each way plus 17 per sub-model; tensors never cross here. Records to a child are
pickled, and only children read them so (`orders.py`); records from a child are plain data (`messages.py`).

Every conversation has a number, which its answer repeats: the answer to a question that nobody waits for any more is
dropped. A conversation that was interrupted where no number helps (half a frame was written or read) is ended by
whoever uses the socket next: see `Underway`.
"""

from __future__ import annotations

import array
import io
import os
import pickle
import select
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from esen_lab.common.resources import above_standard
from esen_lab.common.tensors import reduced
from esen_lab.common.trees import reduced_named

RUN, DONE, MESSAGE, REPLY, FAILED, STEPWISE, STEP, STOP, LOOK = range(1, 10)

SURE = 64  # no record of `messages.py` is shorter: that many bytes of a body never belong to the next frame
MOST_ANSWER = 8 << 20  # bytes of a body from a child: layouts of as many tensors as a tree may have

_HEADER = struct.Struct("<BxxxIQ")
SEED = struct.Struct("<Q")
_MOST_FDS = 4
_LONGEST_POLL_MS = 3_600_000.0
HEADER_BYTES = _HEADER.size
Part = tuple[bytes, list[tuple[int, int, bytes]], int]  # bytes of a frame, what came along with them, flags
FD_SPACE = socket.CMSG_SPACE(_MOST_FDS * array.array("i").itemsize)
_CLOSED_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
AT_ONCE = socket.MSG_DONTWAIT | _CLOSED_ON_EXEC


class Closed(Exception):  # noqa: N818  the plain end of a conversation
    """The other side is gone."""


class Garbled(Closed):
    """The other side sent what nobody sends: the conversation is over."""


class NoRoom(Exception):  # noqa: N818  what there is none of
    """Descriptors came along with frame `number`, and this process may open no more."""

    def __init__(self, number: int) -> None:
        super().__init__("not all descriptors came through")
        self.number = number


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as received; `fds` are open and belong to the receiver."""

    kind: int
    number: int
    body: bytes
    fds: tuple[int, ...] = ()

    def drop(self) -> None:
        """Close the descriptors."""
        for fd in self.fds:
            os.close(fd)


def header(kind: int, number: int, length: int = 0) -> bytes:
    """What a frame with a body of `length` bytes begins with."""
    return _HEADER.pack(kind, length, number)


def send(sock: socket.socket, kind: int, number: int = 0, body: bytes = b"", fds: Sequence[int] = ()) -> None:
    """Send one frame; descriptors ride on its first byte.

    Raises:
        Closed: The other side is gone.
    """
    data = _HEADER.pack(kind, len(body), number) + body if body else _HEADER.pack(kind, 0, number)
    try:
        if fds:
            sent = socket.send_fds(sock, [data], list(fds))
            data = data[sent:]
        if data:
            sock.sendall(data)
    except OSError as problem:
        raise Closed(str(problem)) from problem


def send_record(sock: socket.socket, kind: int, record: object, number: int = 0, fds: Sequence[int] = ()) -> None:
    """Send one pickled record."""
    body = io.BytesIO()
    _Pickler(body, pickle.HIGHEST_PROTOCOL).dump(record)
    send(sock, kind, number, body.getvalue(), fds)


class _Pickler(pickle.Pickler):
    """Pickles tensors of every dtype: torch reads those of its newer ones only from files of its own.

    And named tuples of the notebook, whose classes a lane does not have before it has loaded the network.
    """

    def reducer_override(self, value: Any) -> Any:
        """How a tensor, or a named tuple, is made again; everything else as usual."""
        if isinstance(value, tuple) and type(value) is not tuple:
            return reduced_named(value)
        if type(value).__name__ != "Tensor" or type(value).__module__ != "torch":
            return NotImplemented
        return reduced(value)


def receive(
    sock: socket.socket, deadline: float | None = None, begun: Part | None = None, *, most: int = (1 << 32) - 1
) -> Frame:
    """Wait for one whole frame.

    Args:
        sock: A blocking socket.
        deadline: On `time.monotonic`; None waits for ever.
        begun: What `receive_part` brought of it.
        most: The longest body.

    Raises:
        Closed: The other side is gone; `Garbled`: it sends something else.
        NoRoom: Descriptors were lost on the way; the frame has been read.
        TimeoutError: The deadline passed first.
    """
    fds: list[int] = []
    start = b""
    lost = False
    try:
        while len(start) < _HEADER.size:
            if begun is None:
                wait(sock, deadline)
                begun = receive_part(sock, _HEADER.size - len(start))
            part, ancillary, flags = begun
            begun = None
            fds += _passed(ancillary)
            lost = lost or bool(flags & socket.MSG_CTRUNC)
            if not part:
                raise Closed("end of file")
            start += part
        kind, length, number = _HEADER.unpack_from(start)
        if not RUN <= kind <= LOOK or length > most:
            raise Garbled(f"a frame of kind {kind} with {length:,} bytes")
        body = start[_HEADER.size :]
        if len(body) < length:
            body += _receive_exactly(sock, length - len(body), deadline)
        if lost:
            raise NoRoom(number)
        for index, fd in enumerate(fds):
            fds[index] = above_standard(fd)
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    return Frame(kind, number, body, tuple(fds))


def receive_part(sock: socket.socket, most: int) -> Part:
    """What there is of a frame that a poll has announced, with what rides on it: one call of the system, no more.

    `most` is at most the header and `SURE` bytes, unless the frame is known to be that long.

    Raises:
        Closed: The other side is gone.
    """
    try:
        part, ancillary, flags, _ = sock.recvmsg(most, FD_SPACE, _CLOSED_ON_EXEC)
    except OSError as problem:
        raise Closed(str(problem)) from problem
    return part, ancillary, flags


def _passed(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)


def _receive_exactly(sock: socket.socket, length: int, deadline: float | None) -> bytes:
    body = bytearray(length)
    view = memoryview(body)
    position = 0
    while position < length:
        wait(sock, deadline)
        try:
            got = sock.recv_into(view[position:])
        except OSError as problem:
            raise Closed(str(problem)) from problem
        if not got:
            raise Closed("end of file inside a frame")
        position += got
    return bytes(body)


def wait(sock: socket.socket, deadline: float | None) -> None:
    """Wait until there is something to read.

    Raises:
        TimeoutError: The deadline passed first.
    """
    if deadline is None:
        return
    # poll, not select: descriptors above 1024 are common in a long-lived notebook
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    while not poller.poll(poll_ms(deadline - time.monotonic())):
        if time.monotonic() >= deadline:
            raise TimeoutError


def poll_ms(left_s: float) -> float:
    """How long to wait at once of so many seconds, in milliseconds: `poll` takes no more than 2^31."""
    return min(max(0.0, left_s) * 1000, _LONGEST_POLL_MS)
