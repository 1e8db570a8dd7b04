"""From a request to its answer: the queue, the thread that runs batches, and the way back.

    event loop     `submit` puts a request into the queue; whenever the lanes are free, the batcher says what runs next
    run thread     joins tensors, runs, parts the answer; mends lanes that have ended, also while nothing is to do
    run thread     where requests wait by then, goes on with them: lanes work while answers are sent
    event loop     each request's answer is put into its future; who has left meanwhile gets none

All of it but `_run` and what that calls happens in the event loop. The queue alone is used by both, under a lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from esen_lab.common.surroundings import step
from esen_lab.common.trees import Tree, flatten, unflatten
from esen_lab.errors import EsenError, ModelError, UsageError, WorkerDied, WorkerTimeout
from esen_lab.run.report import RunReport
from esen_lab.serving.batcher import Batcher, Decision, Waiting
from esen_lab.serving.described import Described
from esen_lab.serving.headers import Headers
from esen_lab.serving.joining import BEGINS_ANEW, OTHER_ROWS, Later, RowsDiffer, joined, parted, rows_of
from esen_lab.serving.metrics import BatchRun, Metrics
from esen_lab.serving.prepared import of_size, sizes_for
from esen_lab.serving.protocol import InferRequest
from esen_lab.serving.refusal import RequestRefused, log_failure, refusal_of, too_late
from esen_lab.serving.run_thread import RunThread
from esen_lab.serving.served import PLAIN, TRIAL, AskedBatch, Served
from esen_lab.serving.service_times import BatchTimes
from esen_lab.serving.signature import ModelInfo, check_answer

if TYPE_CHECKING:
    import torch

log = logging.getLogger("esen_lab.serving")
_LOOK_S = 2.0  # after a look that failed, until the next one where no request comes
_MOST_ALONE = 32
_THREAD_ENDS_S = 10.0


@dataclass(slots=True, kw_only=True)  # frozen, one takes three times as long to make
class Answer:
    """What a request is answered.

    Attributes:
        model: Whose it is.
        outputs: In the order of the model's.
        queue_s: How long it waited for its run.
        compute_s: How long that took, with joining and parting.
        batch_rows: Rows of the batch that it was in.
        missing: Members that are not in it, where its deadline came first.
    """

    model: ModelInfo
    outputs: Sequence[torch.Tensor]
    queue_s: float
    compute_s: float
    batch_rows: int
    missing: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class _Item:
    request: InferRequest
    future: asyncio.Future[Answer]
    timer: asyncio.TimerHandle | None = None


class Dispatcher:
    """Runs the requests of one model.

    Args:
        served: What runs them.
        described: What it looks like.
        batcher: The queue.
        metrics: Told of everything.
        loop: In which all methods are called.
        around: See `RunThread`.
        max_rows: Of a batch that was joined, whatever is served.
        sizes: Of batches that engines are prepared for; run again, while nothing is to do, when lanes were started
            anew. Others, once something else is served.
        clock: Seconds, as the loop's own.
    """

    def __init__(
        self,
        served: Served,
        described: Described,
        batcher: Batcher,
        metrics: Metrics,
        *,
        loop: asyncio.AbstractEventLoop,
        around: AbstractContextManager[object],
        max_rows: int,
        sizes: Sequence[int] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._show(described.model)
        self.batcher = batcher
        self._lock = threading.Lock()  # of the queue
        self._described = described
        self._served = served
        self._metrics = metrics
        self._loop = loop
        self._clock = clock
        self._thread = RunThread(around, self._idling)
        self._max_rows = max_rows
        self._sizes = tuple(sizes)
        self._to_prepare: list[int] = []
        self._look_again_s = -math.inf
        self._alone = 0  # batches of what has not been looked at
        self._busy = False
        self._again: asyncio.TimerHandle | None = None
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.broken = ""
        """Why no lane is warm, or ""."""

    def start(self) -> None:
        """Begin; raises as `RunThread.start` does."""
        self._thread.start()

    # --- in the event loop ---------------------------------------------------------------------------------------

    def _show(self, model: ModelInfo) -> None:
        """Requests that come from now on are for this one."""
        self.model = model
        self.headers = Headers(model)

    @property
    def ready(self) -> bool:
        """Whether a request that comes now finds warm lanes."""
        return not self.broken and not self._draining

    def read(self, body: bytearray, header_bytes: int | None) -> InferRequest:
        """Read a request; see `parse_request`.

        Raises:
            Refused: It is not one of the protocol, or not one for what is served. Of what has become something else,
                and has not been looked at yet, nobody can say which requests it takes: those may come again.
        """
        try:
            return self.headers.request(body, header_bytes)
        except RequestRefused as problem:
            raise self._refused_now(problem, self.model) from None

    async def read_beside(self, body: bytearray, header_bytes: int | None) -> InferRequest:
        """The same in a thread, for a long JSON: others are read and answered meanwhile."""
        model = self.model
        try:
            return await asyncio.to_thread(self.headers.request, body, header_bytes)
        except RequestRefused as problem:
            raise self._refused_now(problem, model) from None

    def _refused_now(self, problem: RequestRefused, model: ModelInfo) -> RequestRefused:
        """Why a request is refused that was checked against a model."""
        looked_at = model is self._described.model and not self._described.outdated
        if problem.status != 400 or looked_at:
            return problem
        return _changed(f"it is not known yet which requests it takes ({problem.message})")

    def submit(self, request: InferRequest, came_s: float) -> tuple[Waiting, asyncio.Future[Answer]]:
        """Take a request.

        Args:
            request: Checked against the model.
            came_s: When it came, by the clock.

        Returns:
            What waits, and the future of its answer. Cancelled, the request leaves the queue.

        Raises:
            Refused: Too many wait, its deadline has passed while it came, or the server ends.
        """
        if self._draining:
            raise _ending("The server is ending")
        due_s = math.inf if request.timeout_s is None else came_s + request.timeout_s
        if request.timeout_s is not None and due_s <= self._clock():
            raise too_late()
        future: asyncio.Future[Answer] = self._loop.create_future()
        item = _Item(request=request, future=future)
        waiting = Waiting(
            rows=request.rows,
            look=request.look if self.model.joins else None,
            came_s=came_s,
            due_s=due_s,
            at_deadline=request.at_least is not None,
            payload=item,
        )
        with self._lock:
            self.batcher.put(waiting, self._clock())
        if request.timeout_s is not None:
            item.timer = self._loop.call_later(max(0.0, due_s - self._clock()), self._is_late, waiting)
        self._next()
        if not waiting.gone:
            future.add_done_callback(lambda done: self._left(waiting) if done.cancelled() else None)
        return waiting, future

    def _left(self, waiting: Waiting) -> None:
        """Its client has left."""
        item: _Item = waiting.payload
        if item.timer is not None:
            item.timer.cancel()
        if self._taken_out(waiting):
            self._next()

    def _taken_out(self, waiting: Waiting) -> bool:
        with self._lock:
            return self.batcher.take_out(waiting)

    def _is_late(self, waiting: Waiting) -> None:
        item: _Item = waiting.payload
        waited = self._taken_out(waiting)
        if not waited and item.request.at_least is not None:
            return  # it runs, and its lanes were told of the deadline: the answer is on its way
        self._refuse_late(waiting)
        self._next()

    def _refuse_late(self, waiting: Waiting) -> None:
        item: _Item = waiting.payload
        if item.timer is not None:
            item.timer.cancel()
        if not item.future.done():
            item.future.set_exception(too_late())

    def _next(self) -> None:
        """Run what is to run, the lanes being free."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if self._busy:
            return
        if not len(self.batcher):
            self._idle.set()
            return
        now_s = self._clock()
        late, decision = self._decided(now_s)
        for one in late:
            self._refuse_late(one)
        if decision.batch:
            self._busy = True
            self._idle.clear()
            self._thread.do(partial(self._run, decision.batch, now_s))
        elif decision.look_again_s < math.inf:
            self._again = self._loop.call_later(max(0.0, decision.look_again_s - now_s), self._next)
        else:
            self._idle.set()

    def _done(
        self,
        batch: Sequence[Waiting],
        found: Sequence[Answer | BaseException],
        runs: Sequence[BatchRun],
        late: Sequence[Waiting],
        *,
        goes_on: bool,
    ) -> None:
        """A batch has been run: its requests are answered, and the next one begins, where it has not begun already.

        Args:
            batch: What was run.
            found: What came of each request.
            runs: Of the lanes.
            late: Requests whose deadline has passed meanwhile.
            goes_on: Whether the run thread is at the next batch.
        """
        self._busy = goes_on
        for one_late in late:
            self._refuse_late(one_late)
        for waiting, one in zip(batch, found, strict=True):
            item: _Item = waiting.payload
            if item.timer is not None:
                item.timer.cancel()
            if item.future.done():
                continue  # its client has left, or its deadline has passed
            if isinstance(one, BaseException):
                item.future.set_exception(refusal_of(one))
            else:
                item.future.set_result(one)
        if not goes_on:
            self._next()
        self._loop.call_soon(self._metrics.ran, runs)  # when the answers are on their way

    async def drain(self, limit_s: float) -> None:
        """Take no more requests, run those that wait for so long at most, refuse the rest, and end the thread."""
        self._draining = True
        self._next()
        try:
            async with asyncio.timeout(limit_s):
                await self._idle.wait()
        except TimeoutError:
            with self._lock:
                left = self.batcher.take_all()
            for waiting in left:
                item: _Item = waiting.payload
                if not item.future.done():
                    item.future.set_exception(_ending("The server ended before this could run"))
        ended = asyncio.Event()
        self._thread.end(lambda: self._tell_loop(ended.set))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_THREAD_ENDS_S):
                await ended.wait()
                self._thread.join()

    # --- in the run thread ---------------------------------------------------------------------------------------

    def _run(self, batch: Sequence[Waiting], began_s: float) -> None:
        """Run a batch; then those that wait by then, as long as nothing else is to be seen to."""
        while batch:
            batch, began_s = self._run_one(batch, began_s)

    def _decided(self, now_s: float) -> tuple[Sequence[Waiting], Decision]:
        """Who is too late, and what is to run, the lanes being free. For whichever thread has them."""
        with self._lock:
            late = self.batcher.expired(now_s)  # whose timers come after what has had the lanes
            return late, self.batcher.next(now_s, draining=self._draining)

    def _run_one(self, batch: Sequence[Waiting], began_s: float) -> tuple[Sequence[Waiting], float]:
        """Run a batch, and have its requests answered; what runs next, and when that began."""
        runs: list[BatchRun] = []
        found: list[Answer | BaseException]
        try:
            found = self._answers(batch, began_s, runs)
        except BaseException as problem:  # the clients' to hear
            found = [problem] * len(batch)
            log_failure(problem)
        if self._described.model.joins and self._served.begins_anew:  # its example has not shown it
            self._join_no_more(BEGINS_ANEW, BEGINS_ANEW)
        now_s = self._clock()
        outdated = self._described.outdated
        if self.broken and any(isinstance(one, Answer) for one in found) and not outdated:
            self.broken = ""  # lanes that answer are warm
        late: Sequence[Waiting] = ()
        then: Sequence[Waiting] = ()
        if all(isinstance(one, Answer) for one in found):
            with self._lock:
                self.batcher.times.ran(sum(waiting.rows for waiting in batch), now_s - began_s)
            if not outdated:
                late, decision = self._decided(now_s)
                then = decision.batch
        self._tell_loop(partial(self._done, batch, found, runs, late, goes_on=bool(then)))
        if any(isinstance(one, (WorkerDied, WorkerTimeout)) for one in found):
            self._look_at_lanes()  # now, and not when the next request has come
        self._alone += outdated
        if self._alone >= _MOST_ALONE:  # nothing is ever idle
            self._look()
        return then, now_s

    def _answers(self, batch: Sequence[Waiting], began_s: float, runs: list[BatchRun]) -> list[Answer | BaseException]:
        """The answer to each request; every run of the lanes for them is noted in `runs`."""
        if len(batch) == 1 or self._joins:
            try:
                return self._of_batch(batch, began_s, runs)
            except RowsDiffer as problem:
                self._join_no_more(OTHER_ROWS, str(problem))
            except (ModelError, UsageError, RequestRefused) as problem:
                if len(batch) == 1:
                    raise
                log.warning("a joined batch failed; each of its requests is run alone: %s", problem)
        # What one request does to a member is not the others' fault.
        found: list[Answer | BaseException] = []
        for waiting in batch:
            try:
                found += self._answers([waiting], began_s, runs)
            except Exception as failure:
                log_failure(failure)
                found.append(failure)
        return found

    def _of_batch(self, batch: Sequence[Waiting], began_s: float, runs: list[BatchRun]) -> list[Answer | BaseException]:
        model = self._described.model
        items: list[_Item] = [waiting.payload for waiting in batch]
        if not all(_fits(item, model) for item in items):
            raise _changed("it takes other requests than when this one came")
        rows = [waiting.rows for waiting in batch]
        more = self.batcher.times.size_of(sum(rows)) - sum(rows) if self._joins else 0
        report: RunReport | None = None
        done = False
        run_s = self._clock() if runs else began_s
        try:
            x = unflatten(model.structure, joined([item.request.tensors for item in items], more))
            output, report = self._ran(x, batch)
            leaves, _ = flatten(output, "the answer")
            check_answer(leaves, model)
            parts = parted([leaf.cpu() for leaf in leaves], rows, more)
            done = True
        finally:
            ended_s = self._clock()
            took_s = ended_s - run_s
            runs.append(BatchRun(rows=sum(rows), requests=len(batch), took_s=took_s, report=report, done=done))
        answered = None if report is None else report.answered
        missing = () if answered is None else tuple(one.name for one in answered.missing if one.why != "not needed")
        return [
            Answer(
                model=model,
                outputs=outputs,
                queue_s=began_s - waiting.came_s,
                compute_s=ended_s - began_s,
                batch_rows=sum(rows),
                missing=missing,
            )
            for waiting, outputs in zip(batch, parts, strict=True)
        ]

    @property
    def _joins(self) -> bool:
        """Whether requests may be joined now: what is served may have become something else since it was looked at."""
        return self._described.model.joins and not self._described.outdated

    def _ran(self, x: Tree, batch: Sequence[Waiting]) -> tuple[Tree, RunReport | None]:
        """One run; a joined one only of what was looked at."""
        try:
            output, report = self._served.run(x, self._asked(batch))
        except EsenError as problem:
            if self._described.outdated:
                raise _changed(str(problem)) from problem
            raise
        if len(batch) > 1 and self._described.outdated:
            raise _changed("it has changed while a joined batch ran")
        return output, report

    def _asked(self, batch: Sequence[Waiting]) -> AskedBatch:
        at_least = batch[0].payload.request.at_least  # alike in all of them: it is part of their look
        if at_least is None:
            return PLAIN
        left_s = min(waiting.due_s for waiting in batch) - self._clock()
        return AskedBatch(deadline_s=max(left_s, 0.0001), at_least=at_least)

    def _idling(self) -> None:
        """While nothing is to do: look at the lanes and at what is served, and prepare what new ones have not seen."""
        self._look_at_lanes()
        if self._described.outdated:
            self._look(later=lambda: self._thread.waits)
        elif self._to_prepare and not self.broken:  # one at a time
            size = self._to_prepare.pop(0)
            try:
                self._served.run(of_size(self._described.example, size), TRIAL)
            except Exception as problem:  # the next request is told, if it is still so
                log.warning("batches of %d rows could not be prepared: %s", size, problem)

    def _look(self, later: Callable[[], bool] = lambda: False) -> None:
        """What is served has become something else: see what. Until then its requests run alone.

        Args:
            later: Whether there is something else to do first; asked before each run.
        """
        if self._clock() < self._look_again_s:
            return
        self._alone = 0
        try:
            self._described.look(later)
        except Later:
            return
        except BaseException as problem:
            self._look_again_s = self._clock() + _LOOK_S
            self._cannot(problem)
        else:
            self.broken = ""
            self._batch_as_now()
            log.info("what is served has changed", extra={"joins": self._described.model.joins})
        self._show_from_now()

    def _batch_as_now(self) -> None:
        """What is served now takes other times, and its engines have seen other sizes of a batch, if it has any."""
        plan, example = self._served.plan, self._described.example
        self._sizes = tuple(sizes_for(plan, self._described.model, example, self._max_rows))
        self._to_prepare = list(self._sizes)
        times = BatchTimes(plan.jct_s, rows_of(flatten(example)[0]) or 1, self._sizes)
        with self._lock:
            self.batcher.take(times, self._max_rows)

    def _join_no_more(self, why: str, seen: str) -> None:
        """A run has shown what the trial did not."""
        log.warning("requests are joined no more: %s", seen)
        self._described.join_no_more(why)
        self._show_from_now()

    def _show_from_now(self) -> None:
        model = self._described.model
        self._tell_loop(lambda: self._show(model))

    def _look_at_lanes(self) -> None:
        """Start anew what has ended."""
        began_s = self._clock()
        try:
            if self._served.mend():
                self._metrics.mended(self._clock() - began_s)
                self._to_prepare = list(self._sizes) if self._described.model.joins else []
                log.warning("lanes had ended and were started anew", extra={"took_s": self._clock() - began_s})
            if not self._described.outdated:  # else it is not known yet whether what is served now can be run
                self.broken = ""
        except BaseException as problem:
            self._cannot(problem)

    def _cannot(self, problem: BaseException) -> None:
        """Requests find nothing that could answer them: say why, and what to do, once."""
        why = str(problem) or type(problem).__name__
        if why != self.broken:
            self.broken = why
            expected = isinstance(problem, EsenError)
            log.error(
                "the served model cannot be run, and until it can requests are answered 503: %s To end it: %s.",
                why,
                step("lab.serve(None)", "%esen serve --stop"),
                exc_info=None if expected else problem,
            )

    def _tell_loop(self, call: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:  # the loop has ended: nobody waits any more
            log.debug("an answer came after the end of the server")


def _fits(item: _Item, model: ModelInfo) -> bool:
    """Whether a request may be run by a model that may be another one than it was checked against."""
    return model.takes_those_of(item.request.model) and (item.request.at_least or 0) <= len(model.members)


def _changed(why: str) -> RequestRefused:
    return RequestRefused(503, "changed", f"The served model has changed: {why}", retry_after_s=1.0)


def _ending(told: str) -> RequestRefused:
    return RequestRefused(503, "ending", told, retry_after_s=1.0, close=True)
