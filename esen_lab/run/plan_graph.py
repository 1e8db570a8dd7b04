"""A plan whose lanes are streams of one process, run as one graph from host memory to host memory.

A call, once the graph is there:

    1. The input is copied into pinned host memory.
    2. Queued on one stream: its way to the GPU, the replay of the graph (fork, lanes, join, combine), and the way back.
    3. One wait; the answer is copied out, and the times of the sub-models are read from marks inside the graph.

No lane's thread takes part. Whether the graph answers as the lanes do is checked when it is made. A combine function of
the user's is no part of the graph, which would freeze what it reads and which way it takes: all outputs come back, and
it is called with them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from esen_lab.common.answers import difference
from esen_lab.common.tensors import MEMORY_FORMATS, is_dense
from esen_lab.common.trees import Tree, TreeSpec, flatten, tree_spec, unflatten
from esen_lab.common.units import format_seconds
from esen_lab.ensemble import Combine, Ensemble
from esen_lab.errors import DeviceError, EsenError, WorkerTimeout, first_line
from esen_lab.lanes.kept_outputs import any_nan
from esen_lab.lanes.stream import Compute, GraphLane
from esen_lab.run.one_graph import OneGraph

MOST_GRAPHS = 4
"""Shapes of input and combine rules that a plan keeps graphs for, each with memory of its own on the GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphRun:
    """One run.

    Attributes:
        output: The combined output, the caller's own.
        copied_ns: When the input was in place, on `time.perf_counter_ns`.
        done_ns: When the GPU was done.
        nan: Sub-models whose output holds NaN.
    """

    output: Tree
    copied_ns: int
    done_ns: int
    nan: frozenset[str]


class PlanGraph:
    """One plan for inputs of one shape and one combine rule.

    Args:
        lanes: The lanes, each with its stream and sub-models.
        ensemble: Has the combine rule and the order of the sub-models.
        x: An input on the host.

    Raises:
        DeviceError: Something cannot be captured, or the output is no tree of tensors.
    """

    def __init__(self, lanes: Sequence[GraphLane], ensemble: Ensemble, x: Tree) -> None:
        import torch

        compute = lanes[0].compute
        leaves, structure = flatten(x)
        members = {name for lane in lanes for name in lane.members}
        self._names = [name for name in ensemble.names if name in members]
        self._pinned = [compute.pinned(leaf) for leaf in leaves]
        self._staging = unflatten(structure, self._pinned)
        # Not where the layout of channels belongs to the looks too.
        self._plain = self._pinned[0] if structure == ("tensor",) and leaves[0].dim() not in MEMORY_FORMATS else None
        self.batch = str(tree_spec(x))
        """What its inputs look like."""
        flags: dict[str, Any] = {}
        combine = ensemble.combine
        self._after = combine if combine.function is not None else None

        def combined(outputs: dict[str, Tree]) -> Tree:
            outputs = {name: outputs[name] for name in self._names}  # not lane by lane
            output = combine(outputs) if self._after is None else outputs
            return {"output": output, "nan": torch.stack([flags[name] for name in self._names])}

        parts = [
            (
                lane.compute.stream,
                {name: _watched(name, member, flags, compute) for name, member in lane.members.items()},
            )
            for lane in lanes
        ]
        with torch.inference_mode():
            there = unflatten(structure, [leaf.to(compute.device, copy=True) for leaf in leaves])
            self._graph = OneGraph(parts, combined, there, timed=True, cuda=compute.cuda)
            made = self._graph.output
            assert isinstance(made, dict)
            try:
                outputs, self._structure = flatten(made["output"], "the combined output")
            except EsenError as problem:
                raise DeviceError("A plan that runs as one graph combines to tensors", given=str(problem)) from problem
            self._there = [*outputs, made["nan"]]
            self._here = [compute.pinned(leaf.cpu()) for leaf in self._there]

    def takes(self, x: Tree) -> bool:
        """Whether this is known of `x` at a glance: a lone tensor that looks as the first did."""
        known = self._plain
        return known is not None and type(x) is type(known) and x.dtype is known.dtype and x.shape == known.shape

    def run(self, x: Tree, timeout_s: float, meanwhile: Callable[[], object] | None = None) -> GraphRun:
        """Run once.

        Args:
            x: An input that looks like the first.
            timeout_s: Deadline.
            meanwhile: Called while the GPU works.

        Raises:
            DeviceError: The GPU failed.
            WorkerTimeout: The deadline passed; what was begun goes on, see `settled`.
        """
        import torch

        with torch.inference_mode():
            for pinned, leaf in zip(self._pinned, flatten(x)[0], strict=True):
                pinned.copy_(leaf)
            copied = time.perf_counter_ns()
            try:
                self._graph.run(self._staging)
                self._graph.fetch(self._there, self._here)
            except RuntimeError as problem:
                raise _failed(problem) from problem
            if meanwhile is not None:
                meanwhile()
            try:
                if not self._graph.wait(timeout_s):
                    raise WorkerTimeout(
                        f"A plan that runs as one graph answers within {format_seconds(timeout_s)}",
                        given="no answer yet: what a GPU has begun cannot be ended from outside",
                        hint="Allow more time with timeout_s; if the GPU stays busy, restart the kernel.",
                    )
                done = time.perf_counter_ns()
            except RuntimeError as problem:
                raise _failed(problem) from problem
        # Outside of inference_mode: the caller may train on what it gets.
        *outputs, flags = self._here
        output = unflatten(self._structure, [leaf.clone() for leaf in outputs])
        if self._after is not None:
            assert isinstance(output, dict)
            output = self._after(output)
        nan = flags.tolist()
        found = frozenset(name for name, one in zip(self._names, nan, strict=True) if one) if True in nan else _NONE
        return GraphRun(output=output, copied_ns=copied, done_ns=done, nan=found)

    def spans_s(self) -> dict[str, tuple[float, float]]:
        """When each sub-model of the last run began and ended, in seconds after its input was in place.

        Raises:
            DeviceError: The GPU failed.
        """
        try:
            return self._graph.spans_s()
        except RuntimeError as problem:
            raise _failed(problem) from problem

    def settled(self, timeout_s: float) -> bool:
        """Whether what was begun and not waited for ends within so many seconds."""
        try:
            return self._graph.wait(timeout_s)
        except RuntimeError:  # the GPU failed
            return False


def _watched(
    name: str, member: Callable[[Tree], Tree], flags: dict[str, Any], compute: Compute
) -> Callable[[Tree], Tree]:
    """The sub-model, which also looks for NaN: in its lane, not behind the join."""

    def run(tree: Tree) -> Tree:
        output = member(tree)
        flags[name] = any_nan(flatten(output)[0], compute.device)
        return output

    return run


def _failed(problem: RuntimeError) -> DeviceError:
    return DeviceError("A captured plan can be replayed", given=first_line(problem))


_NONE: frozenset[str] = frozenset()
_Key: TypeAlias = tuple[Combine, tuple[str, ...], TreeSpec]


@dataclass(frozen=True, slots=True)
class _Last:
    """What was found the last time."""

    ensemble: Ensemble
    made: PlanGraph


class PlanGraphs:
    """The graphs of one plan: made when an input of a new shape has run lane by lane, dropped before the lanes end."""

    def __init__(self, lanes: Sequence[GraphLane]) -> None:
        self._lanes = lanes
        self._kept: list[tuple[_Key, PlanGraph | str]] = []
        self._last: _Last | None = None

    def find(self, ensemble: Ensemble, x: Tree) -> PlanGraph | str | None:
        """The graph for this combine rule and shape, why there is none, or None where that is not known yet."""
        last = self._last
        if last is not None and ensemble is last.ensemble and last.made.takes(x):
            return last.made
        key = (ensemble.combine, ensemble.names, tree_spec(x))
        made = next((made for known, made in self._kept if known == key), None)
        self._last = _Last(ensemble, made) if isinstance(made, PlanGraph) else None
        return made

    def knows(self, ensemble: Ensemble, x: object) -> bool:
        """Whether `x` looks as the last input did, so that nothing else of it has to be looked at."""
        last = self._last
        return last is not None and ensemble is last.ensemble and last.made.takes(x) and is_dense(x)  # type: ignore[arg-type]

    def make(self, ensemble: Ensemble, x: Tree, answer: Tree, timeout_s: float) -> str:
        """Capture the plan for inputs like `x`, whose answer lane by lane is known; one run must answer in time.

        Returns:
            Why it goes on lane by lane, or "".
        """
        made: PlanGraph | str
        try:
            made = PlanGraph(self._lanes, ensemble, x)
            found = difference(made.run(x, timeout_s).output, answer)
            if not found.agrees:
                made = f"as one graph it answers differently ({found})"
        except Exception as problem:  # out of memory, a rule that fails while captured: the answer is there already
            told = str(problem) if isinstance(problem, EsenError) else f"{type(problem).__name__}: {problem}"
            made = " ".join(told.split())
        key = (ensemble.combine, ensemble.names, tree_spec(x))
        self._kept = [(key, made), *self._kept][:MOST_GRAPHS]
        return made if isinstance(made, str) else ""

    def close(self) -> None:
        """Let go of all graphs: the streams that they were captured on must outlive them."""
        self._kept.clear()
        self._last = None
