"""One process at a time on this machine: two notebooks that measured together would spoil each other's figures.

The lock is an advisory one of the system (`flock`) on a file that stays; it ends with the process, however that ends.
There are two files, so that everybody gets a turn:

    1. who wants the lock takes `.turn` and keeps it until it has `.lock`;
    2. then it gives `.turn` back and works;
    3. who has worked and wants to again needs `.turn` first, which a waiting process holds: that one is next.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from esen_lab.errors import Cancelled

if sys.platform != "win32":
    import fcntl

_LOOK_S = 0.02


class MachineLock:
    """The right to do one kind of thing on this machine. May be used from several threads and processes.

    Args:
        path: The file's name without its suffix. Processes that name the same file exclude each other.

    Attributes:
        note: Why the lock keeps nobody out ("this system has no file locks"), or "" as long as it does.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.note = ""

    @contextmanager
    def held(self, cancelled: threading.Event, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold the lock, after waiting for it as long as it takes.

        Where the system has no such lock or the file cannot be made, go on without it and say so in `note`.

        Args:
            cancelled: When set, waiting ends within some hundredths of a second.
            on_wait: Called once if another one has the lock.

        Raises:
            Cancelled: `cancelled` was set while waiting.
        """
        waiting = _Once(on_wait)
        turn = lock = None
        try:
            turn, lock = self._open(".turn"), self._open(".lock")
            if turn is not None and lock is not None:
                self._take(turn, cancelled, waiting)
                self._take(lock, cancelled, waiting)
                _close(turn)
                turn = None
            yield
        finally:
            _close(lock)
            _close(turn)

    def _open(self, suffix: str) -> int | None:
        if sys.platform == "win32":
            self.note = "this system has no file locks"
            return None
        path = self._path.with_name(self._path.name + suffix)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # For everybody: a lock file holds nothing, and a reader's lock works as well as a writer's.
            return os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as problem:
            self.note = f"{str(path)!r} cannot be made: {problem.strerror}"
            return None

    def _take(self, fd: int, cancelled: threading.Event, on_wait: Callable[[], None]) -> None:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_wait()
                # Looking instead of blocking: a blocked flock could not be cancelled.
                if cancelled.wait(_LOOK_S):
                    raise Cancelled("Waiting for another process was stopped on request") from None
            except OSError as problem:  # some network file systems
                self.note = f"files in {str(self._path.parent)!r} cannot be locked: {problem.strerror}"
                return
            else:
                return


class _Once:
    """Calls a function at its first call only."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function: Callable[[], None] | None = function

    def __call__(self) -> None:
        if self._function is not None:
            function, self._function = self._function, None
            function()


def _close(fd: int | None) -> None:
    if fd is not None:
        os.close(fd)
