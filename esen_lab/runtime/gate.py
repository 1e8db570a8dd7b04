"""The numerics gate: every share of a plan, with the user's own sub-models and input, against an uncapped reference.

There is a public report that limits of NVIDIA MPS made half-precision products silently wrong at some numbers of SMs.
So a plan's answers are compared sub-model by sub-model while all its lanes work at the same time: once is not enough,
since what is wrong may be wrong only now and then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from esen_lab.devices import Device
from esen_lab.ensemble import Ensemble
from esen_lab.errors import UsageError
from esen_lab.planning import Plan, sequential_plan
from esen_lab.runtime.executor import Executor, example_of
from esen_lab.showing import Shown
from esen_lab.trees import Tree
from esen_lab.units import format_table, format_units
from esen_lab.workers import Nursery
from esen_lab.workers.agreement import Difference, difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Gated:
    """One sub-model at its share.

    Attributes:
        name: The sub-model.
        lane: Its lane, from 0.
        units: The lane's share.
        in_force: What the lane found in force.
        worst: The worst difference of all runs.
        wrong: In how many runs the answer was not the same up to rounding.
        runs: How many runs were compared.
    """

    name: str
    lane: int
    units: int
    in_force: str
    worst: Difference
    wrong: int
    runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GateVerdict(Shown):
    """What the gate says about a plan."""

    rows: tuple[Gated, ...]

    @property
    def passed(self) -> bool:
        """Whether every answer was the same up to rounding."""
        return not any(row.wrong for row in self.rows)

    @property
    def text(self) -> str:
        """The verdict in a sentence: which share, which sub-model, how wrong."""
        wrong = [row for row in self.rows if row.wrong]
        if not wrong:
            worst = max(self.rows, key=lambda row: row.worst.error)
            return (
                f"All answers are those of the whole device up to rounding; the worst is {worst.name}: {worst.worst}."
            )
        told = "; ".join(
            f"{row.name} with {format_units(row.units, 'unit')}, {row.wrong} of {row.runs} runs ({row.worst})"
            for row in wrong
        )
        return f"WRONG ANSWERS: {told}. Do not use these shares."

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "passed": self.passed,
            "text": self.text,
            "rows": [
                {
                    "name": row.name,
                    "lane": row.lane,
                    "units": row.units,
                    "in_force": row.in_force,
                    "wrong": row.wrong,
                    "runs": row.runs,
                    **row.worst.to_dict(),
                }
                for row in self.rows
            ],
        }

    def __str__(self) -> str:
        """For a terminal."""
        rows = [
            (row.name, str(row.units), row.in_force, f"{row.wrong} of {row.runs}", str(row.worst)) for row in self.rows
        ]
        return "\n".join([format_table(("sub-model", "share", "in force", "wrong", "worst"), rows), self.text])


def judge(name: str, lane: int, units: int, in_force: str, found: Sequence[Difference]) -> Gated:
    """What several runs of one sub-model come to.

    Args:
        name: The sub-model.
        lane: Its lane.
        units: The lane's share.
        in_force: What the lane found in force.
        found: A difference per run; at least one.
    """
    # Beyond the tolerance first, since an error of 1e-3 is much for one dtype and nothing for another.
    worst = max(found, key=lambda one: (not one.agrees, one.error))
    wrong = sum(not one.agrees for one in found)
    return Gated(name=name, lane=lane, units=units, in_force=in_force, worst=worst, wrong=wrong, runs=len(found))


def check_numerics(
    plan: Plan,
    ensemble: Ensemble,
    device: Device,
    nursery: Nursery,
    *,
    x: Tree = None,
    runs: int = 5,
    executor: Executor | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> GateVerdict:
    """Run a plan's lanes at the same time and compare every sub-model's answers with those of the whole device.

    Args:
        plan: Which shares.
        ensemble: The sub-models.
        device: Where; its whole is the reference, executed eagerly, one sub-model after another.
        nursery: Starts the lanes.
        x: The input; None for the example.
        runs: How many runs are compared, at least 1.
        executor: Warm lanes of this plan, where there are any; they stay the caller's.
        on_progress: Called with (runs done, all, what is run now).

    Raises:
        UsageError: `runs` is below 1.
        EsenError: The reference or the plan could not be run.
    """
    if runs < 1:
        raise UsageError("The gate compares at least one run", given=runs)
    given = example_of(ensemble) if x is None else x
    tell = on_progress or _silent
    tell(0, runs + 1, "the whole device, one sub-model after another")
    reference = Executor.start(sequential_plan(plan.names, device.units), ensemble, device, nursery)
    try:
        _, wanted = reference.run_members(given)
    finally:
        reference.close()
    lanes = executor or Executor.start(plan, ensemble, device, nursery)
    try:
        answers = []
        for number in range(runs):
            tell(number + 1, runs + 1, "the plan's lanes, all at once")
            answers.append(lanes.run_members(given)[1])
        in_force = lanes.in_force
    finally:
        if executor is None:
            lanes.close()
    rows = [
        judge(name, index, lane.units, in_force[index], [difference(answer[name], wanted[name]) for answer in answers])
        for index, lane in enumerate(plan.lanes)
        for name in lane.members
    ]
    return GateVerdict(rows=tuple(rows))


def _silent(done: int, total: int, words: str) -> None:
    """Progress that nobody watches."""
