"""A lane in a thread of this process, which owns the lane's engine and the stream of its place.

For devices that share themselves inside one process (green contexts). What a thread can't do and a process can:
it can't be killed. A sub-model that hangs keeps its thread, the worker is then given up, and its message says so.

A run, step by step:

    1. `start_run` puts a number into the thread's queue and returns.
    2. The thread runs the engine, puts what came of it into `_answers`, and writes one byte to a pipe.
    3. The executor's poller sees the byte; `take_run` reads it and takes the answer.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from esen_lab.common.resources import begin, duplicate, pipe
from esen_lab.common.units import format_seconds
from esen_lab.devices import Placement
from esen_lab.errors import Cancelled, EsenError, WorkerDied, WorkerTimeout
from esen_lab.lanes.arena import Block, TreeArena
from esen_lab.lanes.dispatch import carry_out, engine_for
from esen_lab.lanes.engine import Engine, InSubModel, Timed
from esen_lab.lanes.messages import Order
from esen_lab.lanes.problems import described, error_from, lost_here
from esen_lab.lanes.settings import Settings
from esen_lab.lanes.stream import GraphLane
from esen_lab.lanes.timings import StepTold
from esen_lab.lanes.worker import Memory, Reader, Stop, Worker

_LOOK_S = 0.05
_SETTLE_S = 2.0
_MOST_ANSWERS = 4096


class ThreadWorker(Worker):
    """See `Worker`.

    Args:
        placement: Its place; applied on the lane's thread. Let go of when the lane has ended.
        label: For people.
        timeout_s: Deadline for both, in seconds.
        ended: Called when the lane has ended.
        session: What the session has set.

    Raises:
        DeviceError: The place could not be applied.
        WorkerTimeout: The deadline passed.
    """

    own_process = False

    def __init__(
        self,
        placement: Placement,
        *,
        label: str = "lane",
        timeout_s: float = 120.0,
        ended: Callable[[ThreadWorker], None] = lambda _: None,
        session: Callable[[], Settings | None] = lambda: None,
    ) -> None:
        super().__init__(label, os.getpid(), session)
        self._placement = placement
        self._engine: Engine | None = None
        self._no_outputs = TreeArena()
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._answers: deque[tuple[int, bytes | Exception]] = deque()
        self._told: deque[StepTold] = deque()
        self._stopped = 0  # the run that nobody waits for any more
        self._ended = ended
        self._closed = False
        self._ready, self._tell = pipe()
        os.set_blocking(self._ready, False)
        # A daemon: a sub-model that never returns must not keep the interpreter from ending.
        self._thread = threading.Thread(target=self._serve, name=f"esen-{label}", daemon=True)
        try:
            begin(self._thread)
        except BaseException:
            os.close(self._ready)
            os.close(self._tell)
            raise
        try:
            self._do(self._begin, "start", timeout_s)
        except BaseException:
            self.close(timeout_s=0)
            raise

    # --- requests ------------------------------------------------------------------------------------------------

    def _ask(self, order: Order, what: str, timeout_s: float, memory: Memory, cancelled: Stop, read: Reader) -> Any:
        # A view of its own, as one that has crossed to a process: the caller closes its block when it likes.
        own = Block(duplicate(memory.fd), memory.size) if isinstance(memory, Block) else memory

        def on_engine() -> Any:
            assert self._engine is not None
            try:
                return carry_out(self._engine, order, own)
            except Exception as problem:
                if (seen := self._seen(problem)) is problem:
                    raise
                raise seen from problem

        with self._lock:
            self._check_alive(what)
            return read(self._do(on_engine, what, timeout_s, cancelled))

    def _do(self, act: Callable[[], Any], what: str, timeout_s: float, cancelled: Stop = None) -> Any:
        """Have the lane's thread do something, and wait for it."""
        future: Future[Any] = Future()

        def task() -> None:
            try:
                future.set_result(act())
            except BaseException as problem:
                future.set_exception(problem)

        self._tasks.put(task)
        try:
            return self._wait_for(future, what, time.monotonic() + timeout_s, timeout_s, cancelled)
        except EsenError:
            raise
        except Exception as problem:
            if future.done() and future.exception() is problem:
                raise error_from(described(problem)) from problem
            raise

    def _wait_for(self, future: Future[Any], what: str, deadline: float, timeout_s: float, cancelled: Stop) -> Any:
        while True:
            if cancelled is not None and cancelled.is_set():
                self._give_up()
                raise Cancelled(f"{self.label} was stopped on request")
            left = deadline - time.monotonic()
            try:
                return future.result(timeout=min(max(left, 0.0), _LOOK_S if cancelled is not None else 3600.0))
            except TimeoutError:
                if future.done() or left > 0:
                    if future.done():
                        raise
                    continue
                self._give_up()
                raise WorkerTimeout(
                    f"{self.label} did not {what} within {format_seconds(timeout_s)} and was given up",
                    given="a lane in this process: its thread cannot be ended from outside and may go on",
                    hint="Allow more time; if the GPU stays busy, restart the kernel.",
                ) from None
            except BaseException:
                if not future.done():  # interrupted while it waits
                    self._give_up()
                raise

    # --- runs -----------------------------------------------------------------------------------------------------

    def fileno(self) -> int:
        """See `Worker.fileno`."""
        return self._ready

    def start_run(self, number: int, seed: int | None = None, *, stepwise: bool = False) -> None:
        """See `Worker.start_run`."""
        self._check_alive("run")
        run = self._run_stepwise if stepwise else self._run

        def task() -> None:
            assert self._engine is not None
            self._engine.seed = seed
            run(number)

        self._tasks.put(task)

    def stop_run(self, number: int) -> None:
        """See `Worker.stop_run`."""
        self._stopped = number

    def take_step(self) -> StepTold:
        """See `Worker.take_step`."""
        with contextlib.suppress(BlockingIOError):  # one byte for each: the poller announces those that are left
            if not self._closed:
                os.read(self._ready, 1)
        if self._closed or not self._told:
            raise WorkerDied(f"{self.label} ended while asked to run")
        return self._told.popleft()

    def take_run(self, number: int) -> bytes | None:
        """See `Worker.take_run`."""
        if self._closed or not self._answers:
            raise WorkerDied(f"{self.label} ended while asked to run")
        with contextlib.suppress(BlockingIOError):  # whoever was interrupted may have taken the announcement
            os.read(self._ready, _MOST_ANSWERS)
        outcome = None
        while outcome is None and self._answers:
            answered, found = self._answers.popleft()
            outcome = found if answered == number else None
        if isinstance(outcome, Exception):
            raise outcome if isinstance(outcome, EsenError) else error_from(described(outcome)) from outcome
        return outcome

    @property
    def _arena(self) -> TreeArena:
        engine = self._engine
        return self._no_outputs if engine is None else engine.outputs

    def graph_lane(self) -> GraphLane | None:
        """See `Worker.graph_lane`."""
        return None if self._engine is None else self._engine.graph_lane()

    # --- the end -------------------------------------------------------------------------------------------------

    def close(self, timeout_s: float = 2.0) -> None:
        """See `Worker.close`; a thread that hangs is left alone."""
        self._give_up()
        if threading.current_thread() is not self._thread:
            # Never less than a moment: a lane that is at rest ends at once, and its place must go after it.
            self._thread.join(max(timeout_s, _SETTLE_S))
        with self._lock:
            if self._closed or self._thread.is_alive():
                return  # it may still write to the pipe, whose number must not be another's by then
            self._closed = True
            os.close(self._ready)
            os.close(self._tell)
        self._ended(self)

    def kill(self) -> None:
        """See `Worker.kill`."""
        self._give_up()

    def _give_up(self) -> None:
        if self._alive:
            self._alive = False
            self._tasks.put(None)

    # --- on the lane's own thread --------------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            while (task := self._tasks.get()) is not None:
                task()
        finally:
            # What uses goes before what is used:
            #   1. the engine, which waits for the GPU and lets go of memory that it has pinned: by its stream;
            #   2. the outputs' memory, which was pinned until then;
            #   3. the place, and with it the stream.
            engine, self._engine = self._engine, None
            if engine is not None:
                with contextlib.suppress(Exception):
                    engine.close()
                engine.outputs.close()
            del engine
            with contextlib.suppress(EsenError):
                self._placement.release()

    def _begin(self) -> None:
        self._in_force = self._placement.apply()
        self._engine = engine_for(self._placement, self._in_force)

    def _run(self, number: int) -> None:
        assert self._engine is not None
        outcome: bytes | Exception
        try:
            outcome, changed, _ = self._engine.run()
            if changed:
                self.looks += 1
        except Exception as problem:
            outcome = self._seen(problem)
        self._answers.append((number, outcome))
        self._announce()

    def _seen(self, problem: Exception) -> Exception:
        """What went wrong: itself, or a fault after which no lane of this process can run."""
        return lost_here(problem) if self._engine is not None and self._engine.lost() else problem

    def _run_stepwise(self, number: int) -> None:
        assert self._engine is not None

        def tell(index: int, outcome: Timed | InSubModel, new: bool) -> None:
            if isinstance(outcome, InSubModel):
                failed(self._seen(outcome), outcome.name)
                return
            if new:
                self.looks += 1
            at = StepTold(number=number, index=index, start_ns=outcome.start_ns, end_ns=outcome.end_ns, nan=outcome.nan)
            self._say(at)

        def failed(problem: Exception, name: str = "") -> None:
            error = problem if isinstance(problem, EsenError) else error_from(described(problem))
            self._say(StepTold(number=number, problem=error, failed=name))

        try:
            self._engine.run_stepwise(tell, lambda: self._stopped == number or not self._alive)
        except Exception as problem:
            failed(self._seen(problem))
        self._say(StepTold(number=number, over=True))

    def _say(self, told: StepTold) -> None:
        self._told.append(told)
        self._announce()

    def _announce(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self._tell, b"!")
