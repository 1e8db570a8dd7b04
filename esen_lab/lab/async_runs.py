"""Runs that asyncio waits for: they queue with all other calls, and one thread of the lab makes them, one at a time.

    event loop      `run`: looks at the caller's settings, takes a place in the queue, waits without blocking
    the thread      waits for the place to be first, puts the settings, runs as the caller, hands the answer back

A task that is cancelled while it waits leaves the queue at once. One that is cancelled while its lanes work lets them
finish: the answer is dropped, and the lanes stay warm.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from esen_lab.common.resources import begin
from esen_lab.common.trees import Tree
from esen_lab.errors import Cancelled, WorkerTimeout
from esen_lab.lanes.settings import Settings, with_threads_own
from esen_lab.run import Deadline
from esen_lab.run.turns import Turn

_IDLE_S = 2.0  # then the thread ends; a later run starts another
_MARGIN_S = 1.0  # beyond the deadline, for the run itself to say what it was waiting for, on a busy machine too


class AwaitedCall(Protocol):
    """What is asked for, and until when: see `RunCall`."""

    @property
    def deadline(self) -> Deadline:
        """When all of it is given up."""

    @property
    def until(self) -> Deadline:
        """How long may be waited until it begins."""

    def missed(self, problem: WorkerTimeout) -> WorkerTimeout:
        """The error of one that has not begun by then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """One run that somebody awaits."""

    call: AwaitedCall
    settings: Settings
    turn: Turn
    answer: Future[Any]
    context: contextvars.Context


class AwaitedRuns:
    """The awaited runs of one lab. May be used from several event loops."""

    def __init__(self, run: Callable[[Any, Turn], Tree]) -> None:
        self._run = run
        self._changed = threading.Condition()
        self._asked: deque[_Asked] = deque()
        self._thread: threading.Thread | None = None

    async def run(self, call: AwaitedCall, settings: Settings, turn: Turn) -> Tree:
        """Run once.

        Raises:
            UsageError: This thread has the turn, so that it would wait for itself.
            Busy: Too many calls wait.
            DeviceError: The system gives no more threads.
            WorkerTimeout: The deadline passed.
            EsenError: As `Lab.run` does.
        """
        turn.check_not_inside()  # whoever runs this event loop has the turn for as long as it runs
        answer: Future[Any] = Future()
        asked = _Asked(call=call, settings=settings, turn=turn, answer=answer, context=contextvars.copy_context())
        answer.add_done_callback(lambda done: turn.leave() if done.cancelled() else None)
        try:
            self._put(asked)
            return await self._awaited(asked)
        except BaseException:
            answer.cancel()  # where it runs already, it goes on, and nobody takes its answer
            raise

    async def _awaited(self, asked: _Asked) -> Tree:
        waiting = asyncio.wrap_future(asked.answer)
        waiting.add_done_callback(_seen)
        left_s = asked.call.until.left_s
        done, _ = await asyncio.wait({waiting}, timeout=None if math.isinf(left_s) else left_s)
        if not done and not asked.answer.cancel():
            # It has begun, and ends by itself: a call whose answer was due may only now be given it.
            left_s = max(asked.call.deadline.left_s if asked.call.until is not asked.call.deadline else 0.0, _MARGIN_S)
            done, _ = await asyncio.wait({waiting}, timeout=None if math.isinf(left_s) else left_s)
        if not done:
            raise asked.call.missed(asked.turn.too_late())
        return waiting.result()

    def _put(self, asked: _Asked) -> None:
        with self._changed:
            try:
                asked.turn.place()  # under this lock, so that both queues have one order
                if self._thread is None:
                    thread = threading.Thread(target=self._work, name="esen_lab awaited runs", daemon=True)
                    begin(thread)
                    self._thread = thread  # only now: one that never began would be waited for by all later runs
                self._asked.append(asked)
            except BaseException:
                asked.turn.leave()
                raise
            self._changed.notify()

    def close(self) -> None:
        """Runs that wait are told that the lab was closed, and the thread ends."""
        with self._changed:
            waiting, thread = list(self._asked), self._thread
            self._asked.clear()
            self._changed.notify()
        for asked in waiting:
            asked.turn.leave()
            if asked.answer.set_running_or_notify_cancel():
                asked.answer.set_exception(Cancelled("The lab was closed while this run waited for its turn"))
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=_IDLE_S + 1.0)

    def _work(self) -> None:
        while (asked := self._next()) is not None:
            try:
                came = asked.turn.wait(asked.answer.cancelled)
            except BaseException as problem:
                if asked.answer.set_running_or_notify_cancel():
                    asked.answer.set_exception(problem)
                continue
            if came and asked.answer.set_running_or_notify_cancel():
                self._make(asked)
            asked.turn.leave()

    def _make(self, asked: _Asked) -> None:
        try:
            with with_threads_own(asked.settings):
                found = asked.context.run(self._run, asked.call, asked.turn)
        except BaseException as problem:  # the caller's to see
            asked.answer.set_exception(problem)
        else:
            asked.answer.set_result(found)

    def _next(self) -> _Asked | None:
        with self._changed:
            if not self._asked:
                self._changed.wait(_IDLE_S)
            if not self._asked:
                self._thread = None
                return None
            return self._asked.popleft()


def _seen(waiting: asyncio.Future[Any]) -> None:
    """Have looked at a failure that nobody awaits any more, or asyncio would complain of it."""
    with contextlib.suppress(asyncio.CancelledError):
        waiting.exception()
