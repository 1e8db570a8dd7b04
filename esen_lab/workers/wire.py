"""Frames on a private socket between the notebook's process and a worker.

    frame  :=  kind (1 byte)  pad (3)  length (4, of the body)  number (8)   body
    body   :=  b"" for RUN; packed numbers for DONE; else a pickled record of `messages.py`

The path of every call sends 16 bytes each way plus 17 per sub-model; tensors never cross here. Pickles are only
ever read from a socket pair that this package made for its own child.
"""

from __future__ import annotations

import array
import os
import pickle
import select
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

RUN, DONE, MESSAGE, REPLY, FAILED = range(1, 6)

SURE = 64  # no pickled record of `messages.py` is shorter: that many bytes of a body never belong to the next frame

_HEADER = struct.Struct("<BxxxIQ")
_MOST_FDS = 4
HEADER_BYTES = _HEADER.size
Part = tuple[bytes, list[tuple[int, int, bytes]]]  # bytes of a frame, and what came along with them
_FD_SPACE = socket.CMSG_SPACE(_MOST_FDS * array.array("i").itemsize)


class Closed(Exception):  # noqa: N818  the plain end of a conversation
    """The other side is gone."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as received; `fds` are open and belong to the receiver."""

    kind: int
    number: int
    body: bytes
    fds: tuple[int, ...] = ()

    def record(self) -> Any:
        """The pickled record in the body."""
        return pickle.loads(self.body)  # noqa: S301  from our own child or parent, see the module's docstring


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
    send(sock, kind, number, pickle.dumps(record, protocol=pickle.HIGHEST_PROTOCOL), fds)


def receive(sock: socket.socket, deadline: float | None = None, begun: Part | None = None) -> Frame:
    """Wait for one whole frame.

    Args:
        sock: A blocking socket.
        deadline: On `time.monotonic`; None waits for ever.
        begun: What `receive_part` brought of it.

    Raises:
        Closed: The other side is gone.
        TimeoutError: The deadline passed first.
    """
    fds: list[int] = []
    start = b""
    while len(start) < _HEADER.size:
        if begun is None:
            _wait(sock, deadline)
            begun = receive_part(sock, _HEADER.size - len(start))
        part, ancillary = begun
        begun = None
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                passed = array.array("i")
                passed.frombytes(data[: len(data) - len(data) % passed.itemsize])
                fds.extend(passed)
        if not part:
            for fd in fds:
                os.close(fd)
            raise Closed("end of file")
        start += part
    for fd in fds:
        os.set_inheritable(fd, False)
    kind, length, number = _HEADER.unpack_from(start)
    body = start[_HEADER.size :]
    if len(body) < length:
        body += _receive_exactly(sock, length - len(body), deadline)
    return Frame(kind, number, body, tuple(fds))


def receive_part(sock: socket.socket, most: int) -> Part:
    """What there is of a frame that a poll has announced, with what rides on it: one call of the system, no more.

    `most` is at most the header and `SURE` bytes, unless the frame is known to be that long.

    Raises:
        Closed: The other side is gone.
    """
    try:
        part, ancillary, _, _ = sock.recvmsg(most, _FD_SPACE)
    except OSError as problem:
        raise Closed(str(problem)) from problem
    return part, ancillary


def _receive_exactly(sock: socket.socket, length: int, deadline: float | None) -> bytes:
    body = bytearray(length)
    view = memoryview(body)
    position = 0
    while position < length:
        _wait(sock, deadline)
        try:
            got = sock.recv_into(view[position:])
        except OSError as problem:
            raise Closed(str(problem)) from problem
        if not got:
            raise Closed("end of file inside a frame")
        position += got
    return bytes(body)


def _wait(sock: socket.socket, deadline: float | None) -> None:
    if deadline is None:
        return
    remaining = deadline - time.monotonic()
    # poll, not select: descriptors above 1024 are common in a long-lived notebook
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    if not poller.poll(max(0.0, remaining) * 1000):
        raise TimeoutError
