"""A whole plan as one CUDA graph: it forks into the lanes' streams, joins, and combines; a call is one replay.

    main   ──fork──┬───────────────────────┬──join──combine──
    lane 1         └─ member ─ member ──────┤
    lane 2         └─ member ───────────────┘

A graph keeps the context that each of its parts was captured in, so what was captured on the stream of a green context
runs on that context's SMs. The streams must outlive the graph.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from esen_lab.common.trees import Tree, flatten, unflatten
from esen_lab.errors import DeviceError, UsageError, first_line
from esen_lab.lanes.capturing import CAPTURING, captured
from esen_lab.run.gpu_wait import wait_until

_WARM_UPS = 3


class OneGraph:
    """Capture once, replay per call. Belongs to one thread.

    Args:
        lanes: For each lane its stream (None: a new one) and its sub-models by name, each on the GPU.
        combine: Makes one output of all of them, on the GPU.
        x: An input on the GPU; every later one looks like it.
        timed: Whether each replay notes when every sub-model begins and ends (see `spans_s`).
        cuda: `torch.cuda`; tests give a double.

    Raises:
        UsageError: There is no lane, or a sub-model is in two.
        DeviceError: A sub-model or the combine rule cannot be captured; the message says why.
    """

    def __init__(
        self,
        lanes: Sequence[tuple[Any, Mapping[str, Callable[[Tree], Tree]]]],
        combine: Callable[[dict[str, Tree]], Tree],
        x: Tree,
        *,
        timed: bool = False,
        cuda: Any = None,
    ) -> None:
        if cuda is None:
            import torch

            cuda = torch.cuda
        names = [name for _, members in lanes for name in members]
        if not names or len(set(names)) < len(names):
            raise UsageError("Every sub-model of a graph is in one lane", given=", ".join(names) or "none")
        self._cuda = cuda
        self._timed = timed
        self._begin: Any = None
        self._marks: list[tuple[str, int, Any]] = []  # sub-model, the mark where it begins, the mark where it ends
        leaves, structure = flatten(x)
        self._device = leaves[0].device if leaves else None  # not whichever is the current one
        self._main = cuda.Stream(device=self._device)
        self._lasted_s = 0.0
        self._lanes = [
            (cuda.Stream(device=self._device) if stream is None else stream, members) for stream, members in lanes
        ]
        self._inputs = [leaf.clone() for leaf in leaves]
        with CAPTURING:
            self._make(unflatten(structure, self._inputs), combine)

    def _make(self, given: Tree, combine: Callable[[dict[str, Tree]], Tree]) -> None:
        cuda = self._cuda
        cuda.synchronize(self._device)  # the copies were made on another stream
        for stream, members in self._lanes:
            with cuda.stream(stream):
                for _ in range(_WARM_UPS):  # libraries take their workspaces now, which a capture forbids
                    for member in members.values():
                        member(given)
        cuda.synchronize(self._device)
        self._graph = cuda.CUDAGraph()
        try:
            with captured(cuda, self._graph, self._main):
                self.output = self._capture(given, combine)
        except (RuntimeError, TypeError, ValueError) as problem:
            raise DeviceError(
                "A plan that runs as one graph can be captured",
                given=first_line(problem),
                hint="Run it eagerly, lane by lane.",
            ) from problem

    def _capture(self, given: Tree, combine: Callable[[dict[str, Tree]], Tree]) -> Tree:
        self._begin = self._mark(self._main)
        fork = self._cuda.Event()
        fork.record(self._main)
        # Kept: memory of an output must not be given to another lane before it is combined.
        self._outputs: dict[str, Tree] = {}
        joins = []
        for stream, members in self._lanes:
            with self._cuda.stream(stream):
                stream.wait_event(fork)
                start = len(self._marks)
                self._marks.append(("", start, self._mark(stream)))
                for name, member in members.items():
                    self._outputs[name] = member(given)
                    self._marks.append((name, len(self._marks) - 1, self._mark(stream)))
                join = self._cuda.Event()
                join.record(stream)
                joins.append(join)
        for join in joins:
            self._main.wait_event(join)
        return combine(self._outputs)

    def _mark(self, stream: Any) -> Any:
        """A point in the graph whose time each replay notes; None where that is not asked for."""
        if not self._timed:
            return None
        # External: a node of the graph. An event as usual is an edge, and has no time.
        mark = self._cuda.Event(enable_timing=True, external=True)
        mark.record(stream)
        return mark

    def spans_s(self) -> dict[str, tuple[float, float]]:
        """When each sub-model began and ended in the last run, in seconds after its fork, on the GPU's own clock.

        Within a lane one begins where the one before it ended. Only of a `timed` graph, after `wait`.
        """
        begin = self._begin
        at = [begin.elapsed_time(mark) / 1000 for _, _, mark in self._marks]  # CUDA says milliseconds
        return {name: (at[before], at[own]) for own, (name, before, _) in enumerate(self._marks) if name}

    def run(self, x: Tree) -> Tree:
        """Queue one run and return at once.

        Args:
            x: An input like the first; it may be on the host.

        Returns:
            The combined output, complete after `wait`; the next run overwrites it.
        """
        leaves, _ = flatten(x)
        with self._cuda.stream(self._main):
            for there, here in zip(self._inputs, leaves, strict=True):
                there.copy_(here, non_blocking=True)
            self._graph.replay()
        return self.output

    def fetch(self, there: Sequence[Any], here: Sequence[Any]) -> None:
        """Queue copies of tensors of the last run to the host, behind it."""
        with self._cuda.stream(self._main):
            for target, source in zip(here, there, strict=True):
                target.copy_(source, non_blocking=True)

    def wait(self, timeout_s: float) -> bool:
        """Wait for the last run; whether it was done in time. An interrupt ends the waiting, not the run."""
        began = time.perf_counter()
        done = wait_until(self._main.query, self._lasted_s, timeout_s)
        if done:
            self._lasted_s = time.perf_counter() - began
        return done
