"""What one run is asked for: what an executor hands to whichever of its runners is to do it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from esen_lab.common.trees import Tree
from esen_lab.ensemble import Ensemble
from esen_lab.errors import EsenError
from esen_lab.planner.plan import Plan
from esen_lab.run.deadline import Deadline
from esen_lab.run.options import RunOptions
from esen_lab.run.outcome import Run

PLAIN = RunOptions()
"""Nothing is asked for besides the answer of all members."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunRequest:
    """One run.

    Attributes:
        plan: Of the lanes.
        ensemble: Its sub-models and combine rule.
        x: The input.
        deadline: Of the whole call: lanes that are at work then are ended.
        seed: Of random numbers; None where no sub-model draws any.
        begin_ns: When the call came here, on `time.perf_counter_ns`.
        meanwhile: Called while the lanes work.
        options: What is asked for besides the answer of all members; checked. Runners of whole answers have no use for
            it.
        due: When the answer is due, or None.
        failed: Members that are left out from the start, and why: what their lanes hold is not what they are now.
    """

    plan: Plan
    ensemble: Ensemble
    x: Tree
    deadline: Deadline
    seed: int | None
    begin_ns: int
    meanwhile: Callable[[], object] | None = None
    options: RunOptions = PLAIN
    due: Deadline | None = None
    failed: Mapping[str, EsenError] = field(default_factory=dict)


class Runner(Protocol):
    """Does one run at a time, under the executor's lock."""

    def run(self, asked: RunRequest) -> Run:
        """Run once; raises as `Executor.run` does."""
