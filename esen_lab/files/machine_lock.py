"""One process at a time on this machine: two notebooks that measured together would spoil each other's figures.

The lock is an advisory one of the system (`flock`) on a file that stays; it ends with the process, however that ends.
There are two files, so that everybody gets a turn:

    1. who wants the lock takes `.turn` and keeps it until it has `.lock`;
    2. then it gives `.turn` back and works;
    3. who has worked and wants to again needs `.turn` first, which a waiting process holds: that one is next.

Waiting has an end: a holder that is stopped, or keeps the lock for longer than a point takes, is left alone, and `note`
says so. A child that this process forks meanwhile does not hold the lock: it would keep it after this process.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from esen_lab.errors import Cancelled

if sys.platform != "win32":
    import fcntl

    from esen_lab.files.lock_files import is_still_at, open_lock_file
    from esen_lab.files.lock_holders import Patience

_LOOK_S = 0.02


class MachineLock:
    """The right to do one kind of thing on this machine. May be used from several threads and processes.

    Args:
        paths: The file's name without its suffix, and others in case it cannot be used. Processes that name the same
            file exclude each other.
        shared: Whether it may be held together with others who share it, but with nobody who does not.
        clock: Seconds that only grow.

    Attributes:
        note: Why the lock keeps nobody out ("this system has no file locks"), or "" as long as it does; of the last
            time that it was held.
    """

    def __init__(self, *paths: Path, shared: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._paths = paths
        self._shared = shared
        self._clock = clock
        self._given_up: dict[str, Any] = {}  # suffix -> whom it was of no use to wait for
        self.note = ""

    @contextmanager
    def held(self, cancelled: threading.Event, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold the lock, after waiting for it as long as whoever has it may be expected to let go.

        Where the system has no such lock, the file cannot be made, or its holder does not let go, go on without it and
        say so in `note`.

        Args:
            cancelled: When set, waiting ends within some hundredths of a second.
            on_wait: Called once if another one has the lock.

        Raises:
            Cancelled: `cancelled` was set while waiting.
        """
        self.note = ""
        waiting = _Once(on_wait)
        turn = lock = None
        try:
            turn = self._taken(".turn", cancelled, waiting)
            lock = self._taken(".lock", cancelled, waiting)
            _close(turn)
            turn = None
            yield
        finally:
            _close(lock)
            _close(turn)

    def _taken(self, suffix: str, cancelled: threading.Event, on_wait: Callable[[], None]) -> int | None:
        """The descriptor of a file whose lock is held, or of one that is not waited for; None where there is none."""
        while True:
            fd = self._open(suffix)
            if fd is None:
                return None
            _OPEN.add(fd)
            try:
                locked = self._take(fd, suffix, cancelled, on_wait)
            except BaseException:
                _close(fd)
                raise
            if not locked or any(is_still_at(fd, path) for path in self._named(suffix)):
                return fd
            _close(fd)  # it was removed, and others lock a new one by now

    def _named(self, suffix: str) -> tuple[Path, ...]:
        return tuple(path.with_name(path.name + suffix) for path in self._paths)

    def _open(self, suffix: str) -> int | None:
        if sys.platform == "win32":
            self.note = "this system has no file locks"
            return None
        note = "this machine has no folder where all its users can make files"
        for path in self._named(suffix):
            try:
                return open_lock_file(path)
            except OSError as problem:
                note = f"{str(path)!r} cannot be made: {problem.strerror}"
        self.note = note
        return None

    def _take(self, fd: int, suffix: str, cancelled: threading.Event, on_wait: Callable[[], None]) -> bool:
        """Wait for the lock; False if it is gone on without."""
        kind = fcntl.LOCK_SH if self._shared and suffix == ".lock" else fcntl.LOCK_EX
        patience = Patience(fd, self._clock, self._given_up.get(suffix))
        while True:
            try:
                fcntl.flock(fd, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                on_wait()
                why = patience.ended()
                if why:
                    self._given_up[suffix] = patience.holders
                    self.note = f"{why}, and is not waited for"
                    return False
                # Looking instead of blocking: a blocked flock could not be cancelled.
                if cancelled.wait(_LOOK_S):
                    raise Cancelled("Waiting for another process was stopped on request") from None
            except OSError as problem:  # some network file systems
                self.note = f"files in {str(self._paths[0].parent)!r} cannot be locked: {problem.strerror}"
                return False
            else:
                self._given_up.pop(suffix, None)
                return True


class MachineLocks:
    """Several locks, held together.

    Args:
        locks: In the order in which all processes take them; in any other, two could wait for each other.
    """

    def __init__(self, locks: Sequence[MachineLock]) -> None:
        self._locks = locks

    @property
    def note(self) -> str:
        """See `MachineLock.note`."""
        return "; ".join(dict.fromkeys(lock.note for lock in self._locks if lock.note))

    @contextmanager
    def held(self, cancelled: threading.Event, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
        """See `MachineLock.held`."""
        waiting = _Once(on_wait)
        with ExitStack() as stack:
            for lock in self._locks:
                stack.enter_context(lock.held(cancelled, waiting))
            yield


class _Once:
    """Calls a function at its first call only."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function: Callable[[], None] | None = function

    def __call__(self) -> None:
        if self._function is not None:
            function, self._function = self._function, None
            function()


# The descriptors of this process, since a fork copies them, and a lock stays until the last copy is closed.
_OPEN: set[int] = set()


def _close(fd: int | None) -> None:
    if fd is None or fd not in _OPEN:
        return  # in a forked child, where it has been closed
    _OPEN.discard(fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_UN)  # also for a copy that somebody has who was forked past Python
    except OSError:
        pass  # a file system without locks
    finally:
        os.close(fd)


def _close_in_child() -> None:
    fds = list(_OPEN)
    _OPEN.clear()
    for fd in fds:
        os.close(fd)


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_close_in_child)
