"""A lane in this process: one thread that owns the lane's engine, on the stream of its place.

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

from esen_lab.devices import InForce, Placement
from esen_lab.devices.in_process import InProcess
from esen_lab.errors import Cancelled, EsenError, WorkerDied, WorkerTimeout
from esen_lab.trees import Tree
from esen_lab.units import format_seconds
from esen_lab.workers.arena import Block, Layout
from esen_lab.workers.child import described, engine_for, on_gpu
from esen_lab.workers.device_engine import DeviceEngine, GraphLane
from esen_lab.workers.engine import Engine
from esen_lab.workers.kept_outputs import Lent, Rule
from esen_lab.workers.process import error_from

EngineMaker = Callable[[Placement, InForce], Engine]
_LOOK_S = 0.05
_SETTLE_S = 2.0


class LocalWorker:
    """A lane in a thread of this process; see `Worker` for what its methods promise.

    Args:
        placement: Its place; applied on the lane's thread. Let go of when the lane has ended.
        label: For people.
        engine: Makes the engine, on the lane's thread, once the place is applied.
        timeout_s: Deadline for both, in seconds.

    Raises:
        DeviceError: The place could not be applied.
        WorkerTimeout: The deadline passed.
    """

    def __init__(
        self,
        placement: Placement,
        *,
        label: str = "lane",
        engine: EngineMaker = engine_for,
        timeout_s: float = 120.0,
        ended: Callable[[LocalWorker], None] | None = None,
    ) -> None:
        self._placement = placement
        self._label = label
        self._make = engine
        self._engine: Engine | None = None
        self._in_force: InForce | None = None
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._answers: deque[tuple[int, bytes | Exception]] = deque()
        self._lock = threading.RLock()
        self._alive = True
        self._ended = ended
        self._closed = False
        self.looks = 0  # counts the changes of where and how outputs lie
        self._ready, self._tell = os.pipe()
        # A daemon: a sub-model that never returns must not keep the interpreter from ending.
        self._thread = threading.Thread(target=self._serve, name=f"esen-{label}", daemon=True)
        self._thread.start()
        try:
            self._do(self._begin, "start", timeout_s)
        except BaseException:
            self.close(timeout_s=0)
            raise

    @property
    def label(self) -> str:
        """For people."""
        return self._label

    @property
    def pid(self) -> int:
        """This process."""
        return os.getpid()

    @property
    def in_force(self) -> InForce:
        """What the lane found in force."""
        assert self._in_force is not None
        return self._in_force

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._alive

    # --- requests ------------------------------------------------------------------------------------------------

    def load(
        self,
        name: str,
        payload: bytes,
        example: Tree,
        *,
        active_units: int | None = None,
        timeout_s: float = 300.0,
    ) -> None:
        """See `Worker.load`."""
        active = self.in_force.units if active_units is None else active_units
        self._ask(lambda engine: engine.load(name, memoryview(payload), example, active), f"load {name!r}", timeout_s)

    def unload(self, name: str) -> None:
        """See `Worker.unload`."""
        self._ask(lambda engine: engine.unload(name), f"unload {name!r}", 30)

    def call(
        self,
        function: str,
        name: str,
        *,
        timeout_s: float,
        cancelled: threading.Event | None = None,
        **kwargs: Any,
    ) -> Any:
        """See `Worker.call`."""
        return self._ask(lambda engine: engine.call(function, name, kwargs), f"run {name!r}", timeout_s, cancelled)

    def arrange(self, members: tuple[str, ...], mode: str) -> None:
        """See `Worker.arrange`."""
        self._ask(lambda engine: engine.arrange(members, mode), "arrange its sub-models", 300)
        self.looks += 1

    def set_input(self, layout: Layout, block: Block | None) -> None:
        """See `Worker.set_input`."""
        own = None if block is None else _own(block)
        self._ask(lambda engine: engine.set_input(layout, own), "take a new input", 30)

    def keep_outputs(self) -> Lent:
        """See `DeviceEngine.keep_outputs`."""
        lent: Lent = self._ask(lambda engine: on_gpu(engine).keep_outputs(to_processes=False), "keep its outputs", 30)
        return lent

    def combine_outputs(
        self, rule: Rule, order: tuple[str, ...], others: tuple[Lent, ...], layout: Layout, block: Block
    ) -> None:
        """See `DeviceEngine.combine_outputs`; the caller closes its block when it likes."""
        own = _own(block)
        self._ask(
            lambda engine: on_gpu(engine).combine_outputs(rule, order, others, layout, own),
            "take the others' outputs",
            30,
        )

    def combine(self, timeout_s: float) -> None:
        """See `DeviceEngine.combine`."""
        self._ask(lambda engine: on_gpu(engine).combine(), "combine", timeout_s)

    def bring_outputs(self, *, stay: bool) -> None:
        """See `DeviceEngine.bring_outputs`."""
        self._ask(lambda engine: on_gpu(engine).bring_outputs(stay=stay), "bring its outputs", 30)

    def _ask(
        self,
        act: Callable[[Engine], Any],
        what: str,
        timeout_s: float,
        cancelled: threading.Event | None = None,
    ) -> Any:
        def on_engine() -> Any:
            assert self._engine is not None
            return act(self._engine)

        with self._lock:
            self._check_alive(what)
            return self._do(on_engine, what, timeout_s, cancelled)

    def _do(self, act: Callable[[], Any], what: str, timeout_s: float, cancelled: threading.Event | None = None) -> Any:
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

    def _wait_for(
        self, future: Future[Any], what: str, deadline: float, timeout_s: float, cancelled: threading.Event | None
    ) -> Any:
        while True:
            if cancelled is not None and cancelled.is_set():
                self._give_up()
                raise Cancelled(f"{self._label} was stopped on request")
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
                    f"{self._label} did not {what} within {format_seconds(timeout_s)} and was given up",
                    given="a lane in this process: its thread cannot be ended from outside and may go on",
                    hint="Allow more time; if the GPU stays busy, restart the kernel.",
                ) from None
            except BaseException:
                if not future.done():  # interrupted while it waits
                    self._give_up()
                raise

    # --- runs ----------------------------------------------------------------------------------------------------

    def fileno(self) -> int:
        """The descriptor that becomes readable when a run has an answer."""
        return self._ready

    def start_run(self, number: int) -> None:
        """Wake the lane; returns at once.

        Raises:
            WorkerDied: It has ended.
        """
        self._check_alive("run")
        self._tasks.put(lambda: self._run(number))

    def take_run(self, number: int) -> bytes | None:
        """Take one answer that `fileno` announced; None when it belongs to an earlier, abandoned run.

        Returns:
            What `RunTimings.unpack` reads.

        Raises:
            ModelError: A sub-model raised; the lane is fine.
            WorkerDied: It has ended.
        """
        if self._closed or not self._answers:
            raise WorkerDied(f"{self._label} ended while asked to run")
        os.read(self._ready, 1)
        answered, outcome = self._answers.popleft()
        if answered != number:
            return None
        if isinstance(outcome, Exception):
            raise outcome if isinstance(outcome, EsenError) else error_from(described(outcome)) from outcome
        return outcome

    @property
    def has_outputs(self) -> bool:
        """Whether a run of the present arrangement has left outputs."""
        return self._engine is not None and bool(self._engine.outputs.layouts)

    def outputs(self) -> list[Tree]:
        """Each member's output of the last run, as views into memory that the next run overwrites."""
        assert self._engine is not None
        arena = self._engine.outputs
        return [arena.read(index) for index in range(len(arena.layouts))]

    def graph_lane(self) -> GraphLane | None:
        """The lane for a graph of the whole plan, where it is one of a GPU whose sub-models are executed as graphs."""
        return self._engine.graph_lane() if isinstance(self._engine, DeviceEngine) else None

    # --- the end -------------------------------------------------------------------------------------------------

    def log(self) -> str:
        """What it prints goes where this process prints; nothing is kept."""
        return ""

    def close(self, timeout_s: float = 2.0) -> None:
        """End the lane: ask, and wait for what it is at. A thread that hangs is left alone. May be called again."""
        self._give_up()
        if threading.current_thread() is not self._thread:
            # Never less than a moment: a lane that is at rest ends at once, and its place must go after it.
            self._thread.join(max(timeout_s, _SETTLE_S))
        with self._lock:
            if self._closed or self._thread.is_alive():
                return
            self._closed = True
            os.close(self._ready)
            os.close(self._tell)
        if self._ended is not None:
            self._ended(self)

    def kill(self) -> None:
        """Give it up at once; its thread ends when it comes back from what it is at."""
        self._give_up()

    def _give_up(self) -> None:
        if self._alive:
            self._alive = False
            self._tasks.put(None)

    def _check_alive(self, what: str) -> None:
        if not self._alive:
            raise WorkerDied(f"{self._label} cannot {what}: it has ended", hint="Take a new worker.")

    # --- on the lane's own thread --------------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            while (task := self._tasks.get()) is not None:
                task()
        finally:
            # The engine first: what it pinned must be let go before the stream that uses it.
            engine, place = self._engine, self._placement
            with contextlib.suppress(Exception):
                close = getattr(engine, "close", None)
                if close is not None:
                    close()
            if engine is not None:
                engine.outputs.close()
            self._engine = None
            if isinstance(place, InProcess):
                with contextlib.suppress(EsenError):
                    place.release()

    def _begin(self) -> None:
        self._in_force = self._placement.apply()
        self._engine = self._make(self._placement, self._in_force)

    def _run(self, number: int) -> None:
        assert self._engine is not None
        outcome: bytes | Exception
        try:
            outcome, changed, _ = self._engine.run()
            if changed:
                self.looks += 1
        except Exception as problem:
            outcome = problem
        self._answers.append((number, outcome))
        with contextlib.suppress(OSError):
            os.write(self._tell, b"!")


def _own(block: Block) -> Block:
    """The lane's own view of the same memory: the caller closes its block when it likes."""
    return Block(os.dup(block.fd), block.size)
