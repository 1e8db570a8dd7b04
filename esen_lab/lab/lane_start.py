"""Lanes that start in a thread of their own, so that a call may stop waiting for them and the next one finds them.

The thread has a turn beside the call that began it: while lanes start, nothing is measured and nothing else runs, also
when that call has given up waiting.
"""

from __future__ import annotations

import contextvars
import math
import threading
import time
from collections.abc import Callable

from esen_lab.common.resources import begin
from esen_lab.run import Deadline, Turns
from esen_lab.run.executor import Executor
from esen_lab.run.start import GivenUp

_SLICE_S = 0.25  # of a wait: an interrupt may reach another thread


class LaneStart:
    """One start under way. Made by the call that has the turn."""

    def __init__(self, turns: Turns, start: Callable[[GivenUp], Executor]) -> None:
        self._turn = turns.beside("lanes that start")
        self._start = start
        self._given_up = GivenUp()
        self._over = threading.Event()
        self._executor: Executor | None = None
        self._problem: BaseException | None = None
        # What a network reads of context variables is what the call has set, when lanes are compared with it.
        work = contextvars.copy_context().run
        self._thread = threading.Thread(target=work, args=(self._work,), name="esen_lab start of lanes", daemon=True)

    def begin(self) -> None:
        """Start the thread.

        Raises:
            DeviceError: The system gives no more.
        """
        try:
            begin(self._thread)
        except BaseException:
            self._over.set()  # nothing is under way
            raise

    def give_up(self) -> None:
        """End it soon, whatever has been started; returns at once."""
        self._given_up.set()

    def result(self, deadline: Deadline) -> Executor:
        """Wait for the lanes. What interrupts the wait, such as Ctrl-C, gives the start up; a deadline does not.

        Raises:
            WorkerTimeout: The deadline passed. They go on starting.
            EsenError: They could not be started.
        """
        try:
            late = not self._wait(deadline)
        except BaseException:
            self.give_up()
            raise
        if late:
            raise deadline.passed(
                "its lanes, which are starting",
                hint="They go on starting, and the next call finds them. Allow more time with timeout_s.",
            )
        if self._problem is not None:
            raise self._problem
        assert self._executor is not None
        return self._executor

    def _wait(self, deadline: Deadline) -> bool:
        while not self._over.is_set():
            left_s = deadline.at_s - time.monotonic()
            if left_s <= 0:
                return False
            self._over.wait(_SLICE_S if math.isinf(left_s) else min(left_s, _SLICE_S))
        return True

    def _work(self) -> None:
        try:
            with self._turn:
                self._executor = self._start(self._given_up)
        except BaseException as problem:  # the caller's to see
            self._problem = problem
        finally:
            self._over.set()

    @property
    def done(self) -> bool:
        """Whether it is over, in whatever way."""
        return self._over.is_set()

    @property
    def executor(self) -> Executor | None:
        """The lanes of a start that is over and went well, else None."""
        return self._executor
