"""Taking turns: one call at a time has the device, and those that wait get it in the order in which they came.

    queue     who has the turn is first, the others wait behind
    held      a lock of each turn, locked from its coming to its going

    1. A call comes: it locks its own `held`, then appends itself to the queue.
    2. While a live turn is ahead of it, it waits for the `held` of the nearest one.
    3. It goes: `held` is unlocked, which wakes the next one. That takes it out of the queue.

Not built on `locks.Lock`: that belongs to one function of one thread and goes to whoever comes first, while a turn is
placed in one thread, waited for in another, left from anywhere, and keeps its place in the queue.

Ctrl-C may come between any two instructions. So the queue and the locks are changed by single calls of C alone, what a
`with` statement calls at its end is the lock's own method, and whoever looks takes those that have gone out of the way.
One may have gone without any end, where the interrupt came before a block had begun or after it was done: its frame is
no longer on its thread's stack then.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Any

from esen_lab.common.locks import holder
from esen_lab.errors import Busy, UsageError, WorkerTimeout
from esen_lab.run.deadline import NEVER, Deadline

MOST_WAITING = 64
"""How many calls may wait for their turn, where nobody says otherwise."""

_SLICE_S = 0.25  # of a wait: an interrupt may reach another thread
_new_lock = threading.Lock
_this_thread = threading.get_ident


class Turns:
    """A fair queue with deadlines. All methods may be called from any thread.

    Args:
        most_waiting: How many calls may wait; one more is refused.
    """

    def __init__(self, most_waiting: int = MOST_WAITING) -> None:
        self.most_waiting = most_waiting
        self.queue: deque[Turn] = deque()

    def turn(self, what: str, deadline: Deadline = NEVER, *, refused: bool = True) -> Turn:
        """One call's turn: a context manager that waits when it is entered. Use it once.

        Args:
            what: The call, for people.
            deadline: Until when it waits.
            refused: Whether it may be refused for too many that wait: background work of the lab itself is not.
        """
        return Turn(self, what, deadline, refused)

    def beside(self, what: str) -> Turn:
        """A turn of work that the call in turn has begun in another thread, and may leave behind.

        It is entered at once, in that thread; whoever comes next waits until both have gone.
        """
        turn = Turn(self, what, NEVER, False)
        turn.beside = True
        return turn

    @property
    def locked(self) -> bool:
        """Whether some call has the turn."""
        return bool(self.live())

    @property
    def waiting(self) -> int:
        """How many calls wait for their turn."""
        return sum(not turn.beside for turn in self.live()[1:])

    def live(self, *, look: bool = False) -> list[Turn]:
        """The turns in the queue, in order; those whose callers have gone are taken out.

        Args:
            look: Whether to look where the other threads with a turn are; a call that waits for long does.
        """
        found = []
        me = _this_thread()
        for turn in list(self.queue):
            if turn.gone or not turn.held.locked():
                self.take_out(turn)
            elif (look or turn.thread == me) and turn.left:
                turn.leave()
            else:
                found.append(turn)
        return found

    def take_out(self, turn: Turn) -> None:
        """Take one that has gone out of the queue, where nobody else has."""
        try:  # noqa: SIM105  on the path of every call
            self.queue.remove(turn)
        except ValueError:
            pass  # somebody else has


class _Ends:
    """Holds `__exit__` in the object itself, where a `with` statement finds it as if it were a method."""

    __slots__ = ("__exit__",)
    __exit__: Callable[..., None]


class Turn(_Ends):
    """See `Turns.turn`.

    Attributes:
        what: The call, for people.
        held: Locked while it is in the queue.
        gone: Whether it has left, where that is known otherwise.
        beside: See `Turns.beside`.
        waited_s: How long it waited.
        thread: The thread that has it, 0 before.
    """

    beside = False
    gone = False
    waited_s = 0.0
    thread = 0
    _placed = False
    # Of the frame that has it: identity, code, instruction. A reference would keep alive all that a call holds.
    _frame: tuple[int, object, int] = (0, None, 0)

    def __init__(self, turns: Turns, what: str, deadline: Deadline, refused: bool) -> None:
        self._turns = turns
        self.what = what
        self._deadline = deadline
        self._refused = refused
        self.held = held = _new_lock()
        # In C: a function in Python could be interrupted before its first line, and the turn would never end.
        self.__exit__ = held.__exit__

    def place(self) -> Turn:
        """Come, without waiting: `with` then waits. `leave` is the way out of it.

        Raises:
            Busy: As many wait as may.
        """
        turns = self._turns
        queue = turns.queue
        if self._refused and queue and len(queue) > turns.most_waiting:
            self._check_room()
        self._placed = True
        self.held.acquire()
        if self.beside:
            queue.insert(1, self)
        else:
            queue.append(self)
        return self

    def __enter__(self) -> Turn:
        """Wait for the turn.

        Raises:
            Busy: As many wait as may.
            WorkerTimeout: The deadline passed. It has left the queue.
        """
        try:
            if not self._placed:
                self.place()
            queue = self._turns.queue
            first = queue[0]
            if first is not self and not self.beside:
                if not first.held.locked():  # most often the last call, which has gone
                    self._turns.take_out(first)
                if queue[0] is not self:
                    self._wait(None)
            frame = holder(sys._getframe(1))
            self._frame = id(frame), frame.f_code, frame.f_lasti
            self.thread = _this_thread()
            return self
        except BaseException:
            self.gone = True  # nothing is called before this, so nothing comes between
            self.leave()
            raise

    @property
    def left(self) -> bool:
        """Whether its thread is no longer where it had the turn."""
        if not self.thread:
            return False
        number, code, began_at = self._frame
        own = self.thread == _this_thread()
        frame: FrameType | None = sys._getframe(1) if own else sys._current_frames().get(self.thread)
        while frame is not None:
            if id(frame) == number and frame.f_code is code:
                # The next call of the same function has the same identity often. It is where the block begins, where
                # this thread cannot be while it is inside the block; another thread may be there still.
                return own and frame.f_lasti == began_at
            frame = frame.f_back
        return True

    def wait(self, given_up: Callable[[], bool]) -> bool:
        """Wait for a turn that has its place; returns whether it came, False once `given_up` says so.

        Raises:
            WorkerTimeout: The deadline passed. It has left the queue.
        """
        try:
            return self._wait(given_up)
        except BaseException:
            self.leave()
            raise

    def check_not_inside(self) -> None:
        """Refuse a call that is made from inside another one, by a combine rule perhaps: both would wait for ever.

        Raises:
            UsageError: This thread has the turn.
        """
        me = _this_thread()
        if any(turn.thread == me for turn in self._turns.live()):
            raise UsageError(
                "A call that uses the lanes is not made from inside another one, which would wait for itself",
                given=f"{self.what}, called while this thread has the turn",
                hint="Call it when the other one has returned.",
            )

    def leave(self) -> None:
        """Leave the queue, from wherever one is in it. May be called again, and from any thread."""
        self.gone = True
        self._turns.take_out(self)
        if self._placed and self.held.locked():
            with contextlib.suppress(RuntimeError):  # it has just been
                self.held.release()

    def _wait(self, given_up: Callable[[], bool] | None) -> bool:
        began = time.monotonic()
        self.check_not_inside()
        look = False
        while not self.gone:
            ahead = self._ahead(look=look)
            if ahead is None:
                if self._turns.queue[0] is self:
                    self.waited_s = time.monotonic() - began
                    return True
                continue  # somebody came beside the one at work meanwhile
            if given_up is not None and given_up():
                return False
            left_s = self._deadline.at_s - time.monotonic()
            if left_s <= 0:
                raise self.too_late()
            _until_gone(ahead, min(left_s, _SLICE_S))
            look = True
        return False

    def _ahead(self, *, look: bool) -> Turn | None:
        """The nearest live turn before this one."""
        nearest = None
        for turn in self._turns.live(look=look):
            if turn is self:
                return nearest
            nearest = turn
        return nearest

    def _check_room(self) -> None:
        waiting = self._turns.waiting
        if waiting >= self._turns.most_waiting and self._turns.locked:
            first = self._turns.live()[:1]
            raise Busy(
                f"At most {self._turns.most_waiting} calls wait for their turn",
                given=f"one more ({self.what}), while {waiting} wait for {_words(first)}",
                hint="Call again when some are done, call from fewer threads, or allow more: Lab(most_waiting=...).",
            )

    def too_late(self) -> WorkerTimeout:
        """The error of a call whose deadline has passed while it waited for its turn."""
        before = self._turns.live()
        if self in before:
            before = before[: before.index(self)]
        calls = [turn for turn in before if not turn.beside]
        if not calls:
            return self._deadline.passed(_words(before))
        others = f"{len(calls)} other call{'s' if len(calls) > 1 else ''}"
        return self._deadline.passed(
            f"its turn behind {others} ({_words(before[:1])} has it)",
            hint="Nothing of it has run. Allow more time with timeout_s, or wait until the others are done.",
        )


def _words(turns: list[Turn]) -> str:
    return turns[0].what if turns else "a call that has just ended"


def _until_gone(ahead: Turn, seconds: float) -> None:
    """Wait until a turn has gone, or for so long."""
    got: list[Any] = []
    try:
        # One call of C: an interrupt comes before the lock is had, or after that is written down.
        got.extend(map(ahead.held.acquire, (True,), (max(seconds, 0.0),)))
    finally:
        if True in got:
            ahead.gone = True
            with contextlib.suppress(RuntimeError):  # `leave` has done so
                ahead.held.release()
