"""What a worker promises: it holds loaded sub-models, held to one share of a device, and runs them on request."""

from __future__ import annotations

import struct
import threading
from dataclasses import dataclass
from typing import Any, Protocol

from esen_lab.devices import InForce
from esen_lab.trees import Tree
from esen_lab.workers.arena import Block, Layout

TIMING = struct.Struct("<QQB")  # start and end in ns on the system-wide monotonic clock, and whether NaN came out


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTimings:
    """When each sub-model of one lane ran, on `time.perf_counter_ns` of every process of this machine."""

    start_ns: tuple[int, ...]
    end_ns: tuple[int, ...]
    nan: tuple[bool, ...]

    @classmethod
    def unpack(cls, packed: bytes) -> RunTimings:
        """Read what a worker packed: `TIMING` once per member."""
        rows = list(TIMING.iter_unpack(packed))
        return cls(
            start_ns=tuple(row[0] for row in rows),
            end_ns=tuple(row[1] for row in rows),
            nan=tuple(bool(row[2]) for row in rows),
        )


class Worker(Protocol):
    """One lane's home, seen from outside.

    A request waits for its answer up to a deadline. A worker that died, or was ended because a deadline passed or a
    request was cancelled, is not `alive` any more and answers nothing again: take a new one from the nursery. All
    methods may be called from any thread; requests of one worker are answered one at a time.

    Every method that asks something raises `WorkerDied` when the process is gone and `WorkerTimeout` when the
    deadline passes.
    """

    @property
    def label(self) -> str:
        """For people."""

    @property
    def pid(self) -> int:
        """The process."""

    @property
    def in_force(self) -> InForce:
        """The limits that the worker found in force."""

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""

    def load(
        self,
        name: str,
        payload: bytes,
        example: Tree,
        *,
        active_units: int | None = None,
        timeout_s: float = 300.0,
    ) -> None:
        """Build a sub-model in the worker and run it once on its example. A loaded one of that name is replaced.

        Args:
            name: How it is called from now on.
            payload: A cloudpickle of a callable without arguments that returns the module.
            example: Its input; when it is a dict, its keys choose what the sub-model takes of a run's input.
            active_units: How many units of the share it uses; None: all.
            timeout_s: The deadline.

        Raises:
            ModelError: Building or running it raised.
        """

    def unload(self, name: str) -> None:
        """Forget a sub-model; unknown names are fine."""

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

    def arrange(self, members: tuple[str, ...], mode: str) -> None:
        """Choose what a run runs: loaded sub-models, in order, and how ("serial", "threads", "vmap")."""

    def set_input(self, layout: Layout, block: Block | None) -> None:
        """Say where the input of runs lies; `block` is None when it is the one from before."""

    def close(self, timeout_s: float = 2.0) -> None:
        """End the process: ask, then terminate, then kill. May be called again."""
