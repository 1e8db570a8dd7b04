"""Descriptors, sockets and threads: where the system has none left, an error says which limit it is.

Descriptors are opened above 2 and closed on exec: 0 to 2 are the program's standard streams even where it has closed
them. Whatever came to lie there would get what is printed, and a child would have it for its own input or output.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

from esen_lab.errors import DeviceError

_FIRST = 3
_SCARCE = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC)
_P = ParamSpec("_P")
_R = TypeVar("_R")


def above_standard(fd: int) -> int:
    """The same file at a descriptor above 2, which is closed on exec; the one given is closed where it is another."""
    if fd >= _FIRST:
        os.set_inheritable(fd, False)
        return fd
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST)
    finally:
        os.close(fd)


@contextlib.contextmanager
def standard_kept() -> Iterator[None]:
    """Whatever is opened inside lies above 2, also where others open it; 0 to 2 are free again after, where they were.

    Raises:
        OSError: There is no descriptor left.
    """
    kept: list[int] = []
    try:
        while not kept or kept[-1] < _FIRST:
            kept.append(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
        os.close(kept.pop())
        yield
    finally:
        for fd in kept:
            os.close(fd)


def duplicate(fd: int) -> int:
    """Another descriptor of the same file, above 2.

    Raises:
        DeviceError: There is none.
    """
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST)
    except OSError as problem:
        raise short_of(problem) from problem


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """A pair of connected sockets.

    Raises:
        DeviceError: There are no descriptors for it.
    """
    try:
        ours, theirs = socket.socketpair()
        return _raised(ours), _raised(theirs)
    except OSError as problem:
        raise short_of(problem) from problem


def _raised(sock: socket.socket) -> socket.socket:
    if sock.fileno() >= _FIRST:
        return sock
    with sock:
        return socket.socket(sock.family, sock.type, sock.proto, fileno=duplicate(sock.fileno()))


def log_file() -> int:
    """A file without a name, written at its end, whoever writes.

    Raises:
        DeviceError: There is no descriptor or no room for it.
    """
    try:
        with tempfile.TemporaryFile() as log:
            fd = fcntl.fcntl(log.fileno(), fcntl.F_DUPFD_CLOEXEC, _FIRST)
        # Appending: a worker's two streams and its cutting of the file must not overwrite each other.
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_APPEND)
    except OSError as problem:
        raise short_of(problem) from problem
    return fd


def pipe() -> tuple[int, int]:
    """The reading and the writing end of a pipe.

    Raises:
        DeviceError: There are no descriptors for it.
    """
    try:
        read, write = os.pipe()
    except OSError as problem:
        raise short_of(problem) from problem
    try:
        read = above_standard(read)
        return read, above_standard(write)
    except OSError as problem:
        for fd in (read, write):
            if fd >= _FIRST:
                os.close(fd)
        raise short_of(problem) from problem


def begin(thread: threading.Thread) -> None:
    """Start a thread.

    Raises:
        DeviceError: The system gives no more.
    """
    try:
        thread.start()
    except RuntimeError as problem:
        raise _no_threads(problem) from problem


def aside(function: Callable[[], object], name: str) -> None:
    """Call a function in a thread of its own that nobody waits for; here and now, where the system gives no more."""
    try:
        begin(threading.Thread(target=function, name=name, daemon=True))
    except DeviceError:
        function()


def submit(pool: Executor, function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> Future[_R]:
    """Have a pool call a function.

    Raises:
        DeviceError: The pool needs another thread, and the system gives no more.
    """
    try:
        return pool.submit(function, *args, **kwargs)
    except RuntimeError as problem:
        raise _no_threads(problem) from problem


def short_of(problem: OSError) -> DeviceError:
    """What the system refused, with the limit that it has and what to do."""
    if problem.errno not in _SCARCE:
        return DeviceError("The system gives what lanes are made of", given=str(problem))
    if problem.errno in (errno.EMFILE, errno.ENFILE):
        return no_descriptors(str(problem))
    return DeviceError(
        "The system gives a process and memory to each lane",
        given=f"{problem}; {_limit('RLIMIT_NPROC')} processes and threads are allowed to this user",
        hint="Close other programs, use fewer lanes, or raise the limit (ulimit -u).",
    )


def no_descriptors(why: str) -> DeviceError:
    """Descriptors have run out in this process."""
    return DeviceError(
        "Lanes need descriptors (sockets and memory files), six at a time and five for each",
        given=f"{why}; {_open_now()} are open and {_limit('RLIMIT_NOFILE')} are allowed",
        hint="Close files that nobody needs, or raise the limit (ulimit -n) before the kernel starts.",
    )


def _no_threads(problem: RuntimeError) -> DeviceError:
    return DeviceError(
        "The system gives this process the threads it needs",
        given=f"{problem}; {threading.active_count()} run, "
        f"and {_limit('RLIMIT_NPROC')} processes and threads are allowed to this user",
        hint="End other threads and programs, or raise the limit (ulimit -u).",
    )


def _limit(name: str) -> Any:
    import resource

    soft = resource.getrlimit(getattr(resource, name))[0]
    return "any number of" if soft == resource.RLIM_INFINITY else soft


def _open_now() -> Any:
    most = _limit("RLIMIT_NOFILE")
    if not isinstance(most, int):
        return "many"
    count = 0
    for fd in range(min(most, 65_536)):  # not a listing of a folder: that needs a descriptor
        try:
            os.fstat(fd)
            count += 1
        except OSError:
            continue
    return count
