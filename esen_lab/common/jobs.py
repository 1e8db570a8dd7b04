"""Background work: one kind of job for whatever goes on while its owner does something else.

A job works once, in a thread of its own. Whatever a look at it would show differently is a change, after which those
who listen are told. The last change is told in this order, so that what a listener does with the result is done before
anybody who waits goes on:

    1. the state is final: listeners may ask for the result;
    2. the listeners have been told: the job is `done`, `wait` and `result` return.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import StrEnum
from typing import Any, Generic, TypeVar

from esen_lab.common.bell import Listeners, dropped
from esen_lab.common.display import Shown
from esen_lab.common.locks import Lock
from esen_lab.common.resources import begin
from esen_lab.errors import Cancelled, EsenError, WorkerTimeout

Result = TypeVar("Result")
Progress = TypeVar("Progress")


class JobState(StrEnum):
    """Where a job stands."""

    RUNNING = "running"
    WAITING = "waiting"  # for something else that is under way, such as another process that is measuring
    FINISHED = "finished"
    CANCELLED = "cancelled"
    FAILED = "failed"  # it stopped before its end; `Job.result` says why

    @property
    def over(self) -> bool:
        """Whether nothing will change any more."""
        return self not in {JobState.RUNNING, JobState.WAITING}


class Job(Shown, ABC, Generic[Result, Progress]):
    """One piece of background work. All methods may be called from any thread.

    A kind of job says what is done (`_work`), how far it is (`snapshot`), and what came of it (`outcome`).

    Args:
        what: What is going on, for people: "profile".
        unfinished: The rule that `result` states when it is asked too early.
        hint: What to do then.
    """

    def __init__(self, what: str, *, unfinished: str, hint: str) -> None:
        self._what = what
        self._too_early = (unfinished, hint)
        self._lock = Lock()  # the state, and whatever a kind of job changes while it runs
        self._state = JobState.RUNNING
        self._error: Exception | None = None
        self._stop = threading.Event()
        self._over = threading.Event()
        self._told = threading.Event()
        self._listeners: Listeners[Any] = Listeners()
        # A daemon: a job holds nothing that an exit must wait for.
        self._thread = threading.Thread(target=self._run, name=f"esen_lab {what}", daemon=True)

    def start(self) -> None:
        """Begin. Called once, by whoever makes the job; one that was cancelled before stays over.

        Raises:
            DeviceError: The system gives no more threads. The job has failed.
        """
        try:
            with self._lock:
                if not self._over.is_set():
                    begin(self._thread)
        except EsenError as problem:
            self._end(JobState.FAILED, problem)
            raise

    # --- what a kind of job says ---------------------------------------------------------------------------------

    @abstractmethod
    def _work(self) -> None:
        """Do it, in the job's thread; `_stop` is set when it is to end early.

        Raises:
            Cancelled: It ended early on request.
            Exception: It failed.
        """

    @abstractmethod
    def snapshot(self) -> Progress:
        """Where it stands now: a record that does not change. Never waits."""

    @abstractmethod
    def outcome(self) -> Result:
        """What `result` gives, or raises, once the state is over: for those who listen, whom nobody waits for."""

    # --- the handle ----------------------------------------------------------------------------------------------

    @property
    def state(self) -> JobState:
        """Where it stands, in one word."""
        return self._state

    @property
    def done(self) -> bool:
        """Whether it is over, in whatever way, and those who listen know it."""
        return self._told.is_set() or (self._over.is_set() and self._is_mine)

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked it to stop."""
        return self._stop.is_set()

    @property
    def error(self) -> Exception | None:
        """What ended it, once the state is over; None where it came to its end, or still works."""
        return self._error

    def cancel(self) -> None:
        """Ask it to stop. Returns at once; what it has until then is kept, and one that is over stays as it is."""
        self._stop.set()
        with self._lock:
            never = self._thread.ident is None and not self._over.is_set()
        if never:  # whoever was to start it was interrupted, or comes too late
            self._end(JobState.CANCELLED, Cancelled(f"The {self._what} was stopped before it began"))

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is over, in whatever way, or `timeout` seconds; returns whether it is. Raises nothing of it."""
        if self._is_mine:
            return self._over.is_set()
        over = self._told.wait(timeout)
        if over and self._thread.ident is not None:
            self._thread.join(timeout=1)  # it has nothing left to do; leave no thread behind
        return over

    def result(self, timeout: float | None = None) -> Result:
        """Wait until it is over and return what came of it, also where it was cut short after there was something.

        Args:
            timeout: Seconds to wait at most; None for as long as it takes.

        Raises:
            WorkerTimeout: It is not over yet. It goes on.
            Cancelled: It was cancelled before there was anything.
            EsenError: It failed before there was anything.
        """
        if not self.wait(timeout):
            rule, hint = self._too_early
            raise WorkerTimeout(rule, given=self._standing(), hint=hint)
        return self.outcome()

    def listen(self, callback: Callable[[Any], object]) -> Callable[[], None]:
        """Call `callback(job)` after each change, from the thread that changed it: it must return soon.

        One that raises is dropped with a warning. Of the end it may be told twice, also when it begins to listen then.

        Returns:
            Call it to hear nothing more.
        """
        stop = self._listeners.add(callback)
        if self._over.is_set():
            self._changed()
        return stop

    # --- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        state = JobState.FAILED
        error: Exception | None = None
        try:
            self._work()
            state = JobState.CANCELLED if self._stop.is_set() else JobState.FINISHED
        except Cancelled as problem:
            state, error = JobState.CANCELLED, problem
        except BaseException as problem:  # kept for `result`: one in a thread would be printed into some cell
            fault = RuntimeError(f"the job was ended by {problem!r}")
            error = problem if isinstance(problem, Exception) else fault
        finally:
            self._end(state, error)

    def _end(self, state: JobState, error: Exception | None) -> None:
        with self._lock:
            self._state, self._error = state, error
            self._ending()
        self._over.set()
        try:
            self._changed()
        except BaseException as problem:  # what ends threads: it is this one's end anyway
            if not self._is_mine:
                raise
            dropped(f"a {self._what}", problem)
        finally:  # or who waits would wait for ever
            self._told.set()

    def _ending(self) -> None:
        """What else is so from now on; called once, with the lock held."""

    def _changed(self) -> None:
        """Tell those who listen. Called without the lock."""
        for problem in self._listeners.tell(self):
            dropped(f"a {self._what}", problem)

    def _check_cancelled(self) -> None:
        if self._stop.is_set():
            raise Cancelled(f"The {self._what} was stopped on request")

    def _standing(self) -> str:
        """Where it stands, for an error."""
        return f"it is {self._state}"

    @property
    def _is_mine(self) -> bool:
        return threading.current_thread() is self._thread
