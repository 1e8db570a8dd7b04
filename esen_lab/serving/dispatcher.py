"""From a request to its answer: the queue, the thread that runs batches, and the way back.

    event loop     `submit` puts a request into the queue; whenever the lanes are free, the batcher says what runs next
    run thread     joins tensors, runs, parts the answer; mends lanes that have ended, also while nothing is to do
    event loop     each request's answer is put into its future; who has left meanwhile gets none

All of it but `_run` and what that calls happens in the event loop: there is nothing to lock.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from esen_lab.common.trees import Tree, flatten, unflatten
from esen_lab.errors import EsenError, ModelError, UsageError, WorkerDied, WorkerError, WorkerTimeout
from esen_lab.run.report import RunReport
from esen_lab.serving.batcher import Batcher, Waiting
from esen_lab.serving.headers import Headers
from esen_lab.serving.joining import joined, parted
from esen_lab.serving.metrics import Metrics
from esen_lab.serving.model import ModelInfo
from esen_lab.serving.protocol import InferRequest
from esen_lab.serving.refusal import RequestRefused, refusal_of, too_late
from esen_lab.serving.run_thread import RunThread
from esen_lab.serving.served import PLAIN, AskedBatch, Served

if TYPE_CHECKING:
    import torch

log = logging.getLogger("esen_lab.serving")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a request is answered.

    Attributes:
        outputs: In the order of the model's.
        queue_s: How long it waited for its run.
        compute_s: How long that took, with joining and parting.
        batch_rows: Rows of the batch that it was in.
        missing: Members that are not in it, where its deadline came first.
    """

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
        model: What it looks like.
        batcher: The queue.
        metrics: Told of everything.
        loop: In which all methods are called.
        around: See `RunThread`.
        prepared: Inputs of the sizes that engines are prepared for; run again, while nothing is to do, when lanes were
            started anew.
        clock: Seconds, as the loop's own.
    """

    def __init__(
        self,
        served: Served,
        model: ModelInfo,
        batcher: Batcher,
        metrics: Metrics,
        *,
        loop: asyncio.AbstractEventLoop,
        around: AbstractContextManager[object],
        prepared: Sequence[Tree] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model = model
        self.headers = Headers(model)
        self.batcher = batcher
        self._served = served
        self._metrics = metrics
        self._loop = loop
        self._clock = clock
        self._thread = RunThread(around, self._idling)
        self._prepared = tuple(prepared)
        self._to_prepare: list[Tree] = []
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

    @property
    def ready(self) -> bool:
        """Whether a request that comes now finds warm lanes."""
        return not self.broken and not self._draining

    def submit(self, request: InferRequest, came_s: float) -> tuple[Waiting, asyncio.Future[Answer]]:
        """Take a request.

        Args:
            request: Checked against the model.
            came_s: When it came, by the clock.

        Returns:
            What waits, and the future of its answer. Cancelled, the request leaves the queue.

        Raises:
            Refused: Too many wait, or the server ends.
        """
        if self._draining:
            raise RequestRefused(503, "ending", "The server is ending", retry_after_s=1.0, close=True)
        future: asyncio.Future[Answer] = self._loop.create_future()
        item = _Item(request=request, future=future)
        look = (request.at_least, *(tensor.shape[1:] for tensor in request.tensors)) if self.model.joins else None
        due_s = math.inf if request.timeout_s is None else came_s + request.timeout_s
        waiting = Waiting(rows=request.rows, look=look, came_s=came_s, due_s=due_s, payload=item)
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
        if self.batcher.take_out(waiting):
            self._next()

    def _is_late(self, waiting: Waiting) -> None:
        item: _Item = waiting.payload
        waited = self.batcher.take_out(waiting)
        if not waited and item.request.at_least is not None:
            return  # it runs, and its lanes were told of the deadline: the answer is on its way
        if not item.future.done():
            item.future.set_exception(too_late())
            self._next()

    def _next(self) -> None:
        """Run what is to run, the lanes being free."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if self._busy:
            return
        now_s = self._clock()
        decision = self.batcher.next(now_s, draining=self._draining)
        if decision.batch:
            self._busy = True
            self._idle.clear()
            batch = decision.batch
            self._thread.do(lambda: self._run(batch, now_s))
        elif decision.look_again_s < math.inf:
            self._again = self._loop.call_later(max(0.0, decision.look_again_s - now_s), self._next)
        else:
            self._idle.set()

    def _done(
        self, batch: Sequence[Waiting], found: Sequence[Answer | BaseException], report: RunReport | None, took_s: float
    ) -> None:
        """A batch has been run: its requests are answered, and the next one begins."""
        rows = sum(waiting.rows for waiting in batch)
        self._busy = False
        if all(isinstance(one, Answer) for one in found):
            self.batcher.times.ran(rows, took_s)
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
        self._next()
        queue_s = [one.queue_s for one in found if isinstance(one, Answer)]
        self._loop.call_soon(self._metrics.ran, rows, queue_s, took_s, report)  # when the answers are on their way

    async def drain(self, limit_s: float) -> None:
        """Take no more requests, run those that wait for so long at most, refuse the rest, and end the thread."""
        self._draining = True
        self._next()
        try:
            async with asyncio.timeout(limit_s):
                await self._idle.wait()
        except TimeoutError:
            for waiting in self.batcher.take_all():
                item: _Item = waiting.payload
                if not item.future.done():
                    item.future.set_exception(RequestRefused(503, "ending", "The server ended before this could run"))
        await asyncio.to_thread(self._thread.end)

    # --- in the run thread ---------------------------------------------------------------------------------------

    def _run(self, batch: Sequence[Waiting], began_s: float) -> None:
        report: RunReport | None = None
        found: list[Answer | BaseException]
        try:
            found, report = self._answers(batch, began_s)
        except BaseException as problem:  # the clients' to hear
            found = [problem] * len(batch)
            self._told(problem)
        took_s = self._clock() - began_s
        self._tell_loop(lambda: self._done(batch, found, report, took_s))
        if any(isinstance(one, (WorkerDied, WorkerTimeout)) for one in found):
            self._look_at_lanes()  # now, and not when the next request has come

    def _answers(
        self, batch: Sequence[Waiting], began_s: float
    ) -> tuple[list[Answer | BaseException], RunReport | None]:
        try:
            return self._of_batch(batch, began_s)
        except (ModelError, UsageError) as problem:
            if len(batch) == 1:
                raise
            log.warning("a joined batch failed; each of its requests is run alone", extra={"problem": str(problem)})
        # What one request does to a member is not the others' fault.
        found: list[Answer | BaseException] = []
        report: RunReport | None = None
        for waiting in batch:
            try:
                answers, report = self._of_batch([waiting], began_s)
                found += answers
            except EsenError as failure:
                found.append(failure)
        return found, report

    def _of_batch(
        self, batch: Sequence[Waiting], began_s: float
    ) -> tuple[list[Answer | BaseException], RunReport | None]:
        requests: list[InferRequest] = [waiting.payload.request for waiting in batch]
        rows = [request.rows for request in requests]
        more = self.batcher.times.size_of(sum(rows)) - sum(rows) if self.model.joins else 0
        x = unflatten(self.model.structure, joined([request.tensors for request in requests], more))
        output, report = self._served.run(x, self._asked(batch))
        leaves, _ = flatten(output, "the answer")
        if len(leaves) != len(self.model.outputs):
            raise EsenError("An answer has the tensors that the model's metadata names", given=f"{len(leaves)} tensors")
        took_s = self._clock() - began_s
        answered = None if report is None else report.answered
        missing = () if answered is None else tuple(one.name for one in answered.missing if one.why != "not needed")
        parts = parted([leaf.cpu() for leaf in leaves], rows, filled=more > 0)
        answers: list[Answer | BaseException] = [
            Answer(
                outputs=outputs,
                queue_s=began_s - waiting.came_s,
                compute_s=took_s,
                batch_rows=sum(rows),
                missing=missing,
            )
            for waiting, outputs in zip(batch, parts, strict=True)
        ]
        return answers, report

    def _asked(self, batch: Sequence[Waiting]) -> AskedBatch:
        at_least = batch[0].payload.request.at_least  # alike in all of them: it is part of their look
        if at_least is None:
            return PLAIN
        left_s = min(waiting.due_s for waiting in batch) - self._clock()
        return AskedBatch(deadline_s=max(left_s, 0.0001), at_least=at_least)

    def _told(self, problem: BaseException) -> None:
        if isinstance(problem, WorkerError):
            log.error("a run failed", extra={"problem": str(problem), "details": problem.details()})
        elif isinstance(problem, EsenError):
            log.warning("a run was refused", extra={"problem": str(problem)})
        else:
            log.error("a run failed", exc_info=problem)

    def _idling(self) -> None:
        """While nothing is to do: look at the lanes, and prepare what new ones have not seen, one at a time."""
        self._look_at_lanes()
        if self._to_prepare and not self.broken:
            x = self._to_prepare.pop(0)
            try:
                self._served.run(x, PLAIN)
            except Exception as problem:  # the next request is told, if it is still so
                log.warning("a size of batches could not be prepared", extra={"problem": str(problem)})

    def _look_at_lanes(self) -> None:
        """Start anew what has ended."""
        began_s = self._clock()
        try:
            if self._served.mend():
                self._metrics.mended(self._clock() - began_s)
                self._to_prepare = list(self._prepared)
                log.warning("lanes had ended and were started anew", extra={"took_s": self._clock() - began_s})
            self.broken = ""
        except EsenError as problem:
            if not self.broken:
                log.error("lanes have ended and could not be started anew", extra={"problem": str(problem)})
            self.broken = str(problem)
        except BaseException as problem:
            self.broken = str(problem) or type(problem).__name__
            log.error("lanes could not be looked at", exc_info=problem)

    def _tell_loop(self, call: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:  # the loop has ended: nobody waits any more
            log.debug("an answer came after the end of the server")
