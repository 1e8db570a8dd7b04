"""Locks that an interrupt cannot keep closed, and the mark that something was left in the middle.

Ctrl-C raises `KeyboardInterrupt` between any two steps, also between the end of a `with` block and the release of its
lock. So nothing here relies on a clean-up being reached. What relies on being at a place is known by the place itself:
a frame of Python that is no longer on its thread's stack has been left, whatever it had meant to do before.

    Lock      a lock that threads take by turns; one whose holder has left without giving it back is free
    Place     where a thread is, and whether it is still there
    Underway  set while a state is being changed; one that is still set when nobody is inside was cut off: the state is
              in doubt, and whoever comes next builds it anew instead of going on with it

Not built on the queue of `run/turns.py`: a lock is taken again by who holds it, and costs a microsecond.
"""

from __future__ import annotations

import contextlib
import re
import sys
import threading
from sys import _getframe
from threading import get_ident
from types import FrameType

_LOOK_FROM_S = 0.02
_LOOK_EVERY_S = 0.25
_GENERATORS = 0x20 | 0x80 | 0x200  # flags of code: of generators, coroutines, asynchronous generators
_OWNER = re.compile(r"owner=(\d+)")
_PASSING = contextlib.ExitStack.__enter__.__code__.co_filename  # whose frames only pass on that a block begins
_REPLACING = threading.Lock()


class _Inside:
    """Where a thread has its turn, or waits for it: the outermost function, and how many of its blocks are open."""

    __slots__ = ("blocks", "frame")

    def __init__(self, frame: FrameType) -> None:
        self.frame = frame
        self.blocks = 0


class Lock:
    """A reentrant lock, for `with` in plain functions."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._inside: dict[int, _Inside] = {}  # by thread

    def __enter__(self) -> Lock:
        self._take(_getframe(1), -1)
        return self

    def __exit__(self, *problem: object) -> None:
        self._give(_getframe(1))

    def within(self, timeout_s: float) -> Within:
        """For `with ... as taken`: the lock, waited for so long at most; `taken` says whether it is had."""
        return Within(self, timeout_s)

    def _take(self, frame: FrameType, timeout: float) -> bool:
        me = get_ident()
        inside = self._inside
        before = inside.get(me)
        if before is not None and not _is_on(before.frame, frame):
            self._give_back_all()
        held = holder(frame)
        mine = inside.get(me)
        if mine is None:
            mine = inside[me] = _Inside(held)
        if self._lock.acquire(False) or self._wait(timeout):
            if mine.frame is held:
                mine.blocks += 1
            return True
        if not self._lock._is_owned():  # type: ignore[attr-defined]
            inside.pop(me, None)
        return False

    def _give(self, frame: FrameType) -> None:
        # Released first: a record of who has left does no harm, a lock without one could never be taken over.
        self._lock.release()
        mine = self._inside.get(get_ident())
        if mine is None or mine.frame is not holder(frame):
            return
        mine.blocks -= 1
        if mine.blocks <= 0:  # the outermost: an interrupt may have kept blocks within from giving back theirs
            self._give_back_all()

    def locked(self) -> bool:
        """Whether a thread has its turn now."""
        lock = self._lock
        if lock._is_owned():  # type: ignore[attr-defined]
            mine = self._inside.get(get_ident())
            return mine is None or _is_on(mine.frame, _getframe(1))
        if lock.acquire(blocking=False):
            lock.release()
            return False
        return not self._is_left(lock)

    def _wait(self, timeout: float) -> bool:
        pause = _LOOK_FROM_S
        left = timeout
        while True:
            lock = self._lock
            if lock.acquire(timeout=pause if timeout < 0 else max(0.0, min(pause, left))):
                if lock is self._lock:
                    return True
                lock.release()  # it was replaced meanwhile
                continue
            left -= pause
            if self._is_left(lock):
                with _REPLACING:
                    if self._lock is lock:
                        self._lock = threading.RLock()
                continue
            if timeout >= 0 and left <= 0:
                return False
            pause = min(2 * pause, _LOOK_EVERY_S)

    def _is_left(self, lock: object) -> bool:
        """Whether the thread that owns `lock` has left the place where it had its turn."""
        owner = _OWNER.search(repr(lock))
        if owner is None or int(owner[1]) == 0:
            return False
        thread = int(owner[1])
        inside = self._inside.get(thread)
        return inside is not None and not _is_on(inside.frame, sys._current_frames().get(thread))

    def _give_back_all(self) -> None:
        # The record goes last: a lock that is held without one could never be taken over.
        while self._lock._is_owned():  # type: ignore[attr-defined]
            self._lock.release()
        self._inside.pop(get_ident(), None)


class Within:
    """A context; see `Lock.within`."""

    def __init__(self, lock: Lock, timeout_s: float) -> None:
        self._lock = lock
        self._timeout_s = timeout_s
        self._taken = False

    def __enter__(self) -> bool:
        self._taken = self._lock._take(_getframe(1), self._timeout_s)
        return self._taken

    def __exit__(self, *problem: object) -> None:
        if self._taken:
            self._lock._give(_getframe(1))


class Underway:
    """What is said to be in the middle of: `with underway:`.

    A block that ends, or ends by an ordinary exception, has said what is so. One that an interrupt ended has not: `cut`
    is then true for ever.
    """

    def __init__(self) -> None:
        self.cut = False
        """Whether somebody is inside, or was interrupted inside. Look at it where nobody else can be inside."""
        self._depth = 0

    def __enter__(self) -> None:
        self.cut = True
        self._depth += 1

    def __exit__(self, kind: type[BaseException] | None, *problem: object) -> None:
        if kind is None or issubclass(kind, Exception):
            self._depth -= 1
            self.cut = self._depth > 0


class Place:
    """Where a thread is: the function that asks for it, or one `above` it."""

    def __init__(self, above: int = 0) -> None:
        self._thread = get_ident()
        self._frame = holder(_getframe(above + 1))

    @property
    def left(self) -> bool:
        """Whether the thread has left that function, or has ended."""
        return not _is_on(self._frame, sys._current_frames().get(self._thread))


def holder(frame: FrameType) -> FrameType:
    """Where a `with` that begins in `frame` is held: a generator of `contextlib` stands for who called it."""
    at: FrameType | None = frame
    while at is not None and (at.f_code.co_flags & _GENERATORS or at.f_code.co_filename == _PASSING):
        at = at.f_back
    return at or frame


def _is_on(frame: FrameType, top: FrameType | None) -> bool:
    while top is not None:
        if top is frame:
            return True
        top = top.f_back
    return False
