"""One lane alive, seen from the notebook: the process or thread that holds loaded sub-models and runs them on request.

Everything that a lane is told stands here once, as an order of `messages.py`. A process (`process_worker.py`) and a
thread (`thread_worker.py`) differ in how an order and its answer cross, how a run is woken, and how they end.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

from esen_lab.common.locks import Lock
from esen_lab.common.trees import Tree
from esen_lab.devices import InForce
from esen_lab.ensemble.traits import Traits
from esen_lab.errors import WorkerDied
from esen_lab.lanes.arena import Block, Layout, TreeArena
from esen_lab.lanes.engine import Engine
from esen_lab.lanes.gpu_memory import GpuMemory
from esen_lab.lanes.messages import MEMORY, Order, order
from esen_lab.lanes.plain import as_kind
from esen_lab.lanes.settings import Settings
from esen_lab.lanes.stream import GraphLane
from esen_lab.lanes.timings import StepTold

_ORDER_S = 30.0  # the deadline of orders that build and compute nothing
_LONG_ORDER_S = 300.0
NEW_INPUT = "take a new input"

Memory: TypeAlias = Block | bytes | None
"""What goes along with an order: bytes to read, or a block that the lane gets its own view of, so that the caller may
close its own as soon as the answer is there."""
Stop: TypeAlias = threading.Event | None
"""Set by another thread to end the wait, and the worker."""
Reader: TypeAlias = Callable[[Any], Any]
"""Makes of an answer what the caller expects, or raises `NotPlain`."""


class Worker(ABC):
    """One lane's home, seen from outside. Made by `ForkServer.worker`.

    A request waits for its answer up to a deadline. A worker that died, or was ended because a deadline passed or a
    request was cancelled, is not `alive` any more and answers nothing again: take a new one from the fork server. All
    methods may be called from any thread; requests of one worker are answered one at a time.

    Every method that asks something raises `WorkerDied` when the worker is gone, `WorkerTimeout` when the deadline
    passes, and `UsageError` when the order does not fit the lane.

    Attributes:
        label: For people.
        pid: The process that the lane lives in.
        own_process: Whether it is a process of its own, or else a thread of this one.
        process_fd: The descriptor that becomes readable when its process has ended; -1 where there is none.
        looks: Another number whenever outputs lie elsewhere, or otherwise; the same one where they lie as before.
    """

    own_process: ClassVar[bool]
    process_fd = -1

    def __init__(
        self, label: str, pid: int, session: Callable[[], Settings | None], settings: Settings | None = None
    ) -> None:
        """Begin as alive; `session` tells what the session has set, `settings` is what the lane has of that already."""
        self.label = label
        self.pid = pid
        self.looks = 0
        self._session = session
        self._settings = settings
        self._in_force: InForce | None = None
        self._alive = True
        self._lock = Lock()  # whose request it is

    @property
    def in_force(self) -> InForce:
        """The limits that the worker found in force."""
        assert self._in_force is not None
        return self._in_force

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._alive

    # --- requests ------------------------------------------------------------------------------------------------

    @abstractmethod
    def _ask(self, order: Order, what: str, timeout_s: float, memory: Memory, cancelled: Stop, read: Reader) -> Any:
        """Send an order and wait for its answer.

        Args:
            order: What the lane's engine is to do.
            what: The same in words, after "did not" or "asked to".
            timeout_s: The deadline.
            memory: See `Memory`.
            cancelled: See `Stop`.
            read: See `Reader`.
        """

    def _order(self, order: Order, what: str, timeout_s: float = _ORDER_S, memory: Memory = None) -> None:
        self._ask(order, what, timeout_s, memory, None, _anything)

    def load(
        self,
        name: str,
        payload: bytes,
        example: Tree,
        *,
        active_units: int | None = None,
        traits: Traits | None = None,
        timeout_s: float = _LONG_ORDER_S,
    ) -> tuple[str, ...]:
        """Build a sub-model in the worker and run it once on its example. A loaded one of that name is replaced.

        The worker has what the session has set (see `settings.py`), as of the fork server's last look at it. What the
        run changes in the sub-model is put back.

        Args:
            name: How it is called from now on.
            payload: A cloudpickle of a callable without arguments that returns the module.
            example: Its input; when it is a dict, its keys choose what the sub-model takes of a run's input.
            active_units: How many units of the share it uses; None: all.
            traits: How it is called; None: as a network without any.
            timeout_s: The deadline.

        Returns:
            Functions that are other code in the worker than in the session, as "module:name".

        Raises:
            ModelError: Building or running it raised.
        """
        self.take_settings()
        units = self.in_force.units if active_units is None else active_units
        told = order(Engine.load, name, MEMORY, example, units, traits)
        other: tuple[str, ...] = self._ask(told, f"load {name!r}", timeout_s, payload, None, _names_in)
        return other

    def unload(self, name: str) -> None:
        """Forget a sub-model; unknown names are fine."""
        self._order(order(Engine.unload, name), f"unload {name!r}")

    def call(
        self,
        function: str,
        name: str,
        *,
        timeout_s: float,
        cancelled: threading.Event | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run "package.module:function" in the worker as `function(step, **kwargs)` and return its result.

        `step()` runs sub-model `name` once on its example as a run would: forward, outputs checked for NaN and written
        to shared memory. Arguments and result are plain data.

        Raises:
            ModelError: The function or the sub-model raised.
            Cancelled: `cancelled` was set; the worker is ended at once.
        """
        told = order(Engine.call, function, name, kwargs)
        return self._ask(told, f"run {name!r}", timeout_s, None, cancelled, _anything)

    def arrange(self, members: tuple[str, ...], mode: str) -> None:
        """Choose what a run runs: loaded sub-models, in order, and how ("serial", "threads", "async", "vmap")."""
        self._order(order(Engine.arrange, members, mode), "arrange its sub-models", _LONG_ORDER_S)
        self.looks += 1

    def take_settings(self) -> None:
        """Have what the session has set, as of the fork server's last look at it, where that is something else now."""
        settings = self._session()
        if settings is not None and settings is not self._settings:
            told = order(Engine.take_settings, settings, whole_process=self.own_process)
            self._order(told, "take the session's settings")
            self._settings = settings

    def put_state(self, how: str) -> Mapping[str, tuple[str, ...]]:
        """Put back what calls have changed in sub-models: see `Engine.put_state`."""
        told = order(Engine.put_state, how)
        found: Mapping[str, tuple[str, ...]] = self._ask(
            told, "put its sub-models' state back", _LONG_ORDER_S, None, None, _changes_in
        )
        return found

    def set_input(self, layout: Layout, block: Block | None, *, wait: bool = True) -> None:
        """Say where the input of runs lies.

        Args:
            layout: What it looks like there.
            block: The memory; None when it is the one from before.
            wait: Whether to wait until the lane has taken it. Otherwise a run comes next: where the lane could not take
                it, what takes its answer says so. A look that the lane knows is then told by its number alone.
        """
        told = order(Engine.set_input, layout, MEMORY)
        if wait or not self._send_along(told, block):
            self._order(told, NEW_INPUT, memory=block)

    def _send_along(self, order: Order, block: Block | None) -> bool:  # noqa: ARG002  what processes do
        """Send an order without waiting for its answer, where that can be; whether it was."""
        return False

    @property
    def gpu(self) -> GpuMemory:
        """What it shares of a GPU's memory with other lanes."""
        return GpuMemory(self._ask, to_processes=self.own_process)

    def _check_alive(self, what: str) -> None:
        if not self._alive:
            raise WorkerDied(f"{self.label} cannot {what}: it has ended", hint="Take a new worker.")

    # --- runs: no request waits here, the executor watches all lanes at once --------------------------------------

    @abstractmethod
    def fileno(self) -> int:
        """The descriptor that becomes readable when a run has an answer."""

    @abstractmethod
    def start_run(self, number: int, seed: int | None = None, *, stepwise: bool = False) -> None:
        """Wake the lane; returns at once.

        Args:
            number: Of the run.
            seed: Where sub-models draw random numbers: what those are made of.
            stepwise: Whether it tells each step as it is done: `take_step` takes what it tells, not `take_run`.

        Raises:
            WorkerDied: It is gone.
        """

    @abstractmethod
    def take_run(self, number: int) -> bytes | None:
        """Take one answer that `fileno` announced; None when it belongs to an earlier, abandoned run.

        Returns:
            What `RunTimings.unpack` reads.

        Raises:
            ModelError: A sub-model raised; the worker is fine.
            WorkerDied: It is gone.
        """

    @abstractmethod
    def take_step(self) -> StepTold:
        """Take one message of a stepwise run, which `fileno` announced; it may belong to an earlier run.

        Raises:
            WorkerDied: It is gone.
        """

    @abstractmethod
    def stop_run(self, number: int) -> None:
        """Nobody waits for the rest of a run step by step: steps that have not begun do not. Returns at once."""

    @property
    @abstractmethod
    def _arena(self) -> TreeArena:
        """Where its outputs lie, as this process sees them."""

    @property
    def has_outputs(self) -> bool:
        """Whether a run of the present arrangement has left outputs."""
        return bool(self._arena.layouts)

    def outputs(self, indices: Sequence[int] | None = None) -> list[Tree]:
        """What the last run has put out, as views into memory that the next run overwrites.

        Args:
            indices: Of which steps, where a run step by step has told of those alone; None: of all.
        """
        arena = self._arena  # once: a lane of this process may lay out its outputs anew meanwhile
        return [arena.read(index) for index in (range(len(arena.layouts)) if indices is None else indices)]

    def graph_lane(self) -> GraphLane | None:
        """The lane for a graph of the whole plan; None where it is a process, or a sub-model of it is no graph."""
        return None

    # --- the end -------------------------------------------------------------------------------------------------

    @abstractmethod
    def kill(self) -> None:
        """End it at once, even while another thread waits for its answer: that wait then fails.

        A lane in a thread of this process is given up instead: nothing else of this process is touched.
        """

    @abstractmethod
    def close(self, timeout_s: float = 2.0) -> None:
        """End it: ask, and wait so long for what it is at; a process is then terminated, then killed. Once or often."""


def _names_in(answer: Any) -> tuple[str, ...]:
    return as_kind(answer, tuple[str, ...])


def _changes_in(answer: Any) -> dict[str, tuple[str, ...]]:
    return as_kind(answer, dict[str, tuple[str, ...]])


def _anything(answer: Any) -> Any:
    return answer
