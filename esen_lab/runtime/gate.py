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
from esen_lab.runtime.executor import Executor, as_tensors, example_of
from esen_lab.showing import Shown
from esen_lab.trees import Tree, tree_spec
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
        mechanism: How the lane executed it: "eager", "compile" or "graph".
        repeats: Whether the whole device gave the same answer twice. One that does not can't be judged.
    """

    name: str
    lane: int
    units: int
    in_force: str
    worst: Difference
    wrong: int
    runs: int
    mechanism: str = "eager"
    repeats: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class GateVerdict(Shown):
    """What the gate says about a plan.

    Attributes:
        rows: Every sub-model of the plan, lane by lane.
        units: All that the device has.
        unit: What a unit is, such as "core".
        batch: What the input looked like.
        notes: What else the reader should know.
    """

    rows: tuple[Gated, ...]
    units: int = 0
    unit: str = "unit"
    batch: str = ""
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every answer was the same up to rounding."""
        return not any(row.wrong for row in self.rows)

    @property
    def wrong(self) -> tuple[Gated, ...]:
        """Sub-models that repeat their answer on the whole device, but gave another one at their share."""
        return tuple(row for row in self.rows if row.wrong and row.repeats)

    @property
    def unsteady(self) -> tuple[Gated, ...]:
        """Sub-models whose answer changes each time, on the whole device too: nothing can be said of their share."""
        return tuple(row for row in self.rows if row.wrong and not row.repeats)

    @property
    def sentences(self) -> tuple[str, ...]:
        """The verdict, a line each: which share, which sub-model, how wrong; then who could not be judged."""
        told = [
            f"WRONG ANSWERS: {row.name} with {format_units(row.units, self.unit)}, "
            f"{row.wrong} of {row.runs} runs ({row.worst})."
            for row in self.wrong
        ]
        if told:
            told.append("Do not use these shares.")
        if self.unsteady:
            names = ", ".join(row.name for row in self.unsteady)
            told.append(f"Not judged, since the answer changes each time, on the whole device too: {names}.")
        if told:
            return tuple(told)
        furthest = max(self.rows, key=lambda row: row.worst.error)
        if not furthest.worst.error:
            return ("All answers equal those of the whole device.",)
        same = "All answers are those of the whole device up to rounding"
        return (f"{same}; furthest off is {furthest.name}: {furthest.worst}.",)

    @property
    def text(self) -> str:
        """The verdict in one line."""
        return " ".join(self.sentences)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "passed": self.passed,
            "text": self.text,
            "units": self.units,
            "unit": self.unit,
            "batch": self.batch,
            "notes": list(self.notes),
            "rows": [
                {
                    "name": row.name,
                    "lane": row.lane,
                    "units": row.units,
                    "in_force": row.in_force,
                    "wrong": row.wrong,
                    "runs": row.runs,
                    "mechanism": row.mechanism,
                    "repeats": row.repeats,
                    **row.worst.to_dict(),
                }
                for row in self.rows
            ],
        }

    def __str__(self) -> str:
        """For a terminal."""
        rows = [
            (
                row.name,
                str(row.units),
                row.in_force,
                row.mechanism,
                f"{row.wrong} of {row.runs}",
                row.worst.amount,
                row.worst.limit,
            )
            for row in self.rows
        ]
        columns = ("sub-model", "share", "in force", "executed", "wrong", "furthest off", "rounding allows")
        table = format_table(columns, rows)
        return "\n".join([table, *self.sentences, *self.notes])


def judge(
    name: str,
    lane: int,
    units: int,
    in_force: str,
    found: Sequence[Difference],
    *,
    mechanism: str = "eager",
    repeats: bool = True,
) -> Gated:
    """What several runs of one sub-model come to.

    Args:
        name: The sub-model.
        lane: Its lane.
        units: The lane's share.
        in_force: What the lane found in force.
        found: A difference per run; at least one.
        mechanism: How the lane executed it.
        repeats: Whether the whole device gave the same answer twice.
    """
    # Beyond the tolerance first, since an error of 1e-3 is much for one dtype and nothing for another.
    worst = max(found, key=lambda one: (not one.agrees, one.error))
    return Gated(
        name=name,
        lane=lane,
        units=units,
        in_force=in_force,
        worst=worst,
        wrong=sum(not one.agrees for one in found),
        runs=len(found),
        mechanism=mechanism,
        repeats=repeats,
    )


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
        on_progress: Called with (done, all, what is going on).

    Raises:
        UsageError: `runs` is below 1, or the input holds no tensors.
        EsenError: The reference or the plan could not be run.
    """
    if runs < 1:
        raise UsageError("The gate compares at least one run", given=runs)
    tell = on_progress or _silent
    given = as_tensors(example_of(ensemble) if x is None else x)
    tell(0, runs + 1, "the whole device, one sub-model after another")
    reference = Executor.start(sequential_plan(plan.names, device.units), ensemble, device, nursery)
    try:
        _, wanted = reference.run_members(given)
        # Twice: one that draws random numbers or keeps a state must not be taken for one that a share makes wrong.
        _, again = reference.run_members(given)
    finally:
        reference.close()
    repeats = {name: difference(again[name], wanted[name]).agrees for name in plan.names}
    lanes = executor or Executor.start(plan, ensemble, device, nursery)
    try:
        # Compared at once and let go: many runs of large answers would not fit in memory.
        found: dict[str, list[Difference]] = {name: [] for name in plan.names}
        for number in range(1, runs + 1):
            tell(number, runs + 1, f"run {number} of {runs}, all lanes at work")
            for name, answer in lanes.run_members(given)[1].items():
                found[name].append(difference(answer, wanted[name]))
        in_force, executed, notes = lanes.in_force, lanes.executed, lanes.notes
    finally:
        if executor is None:
            lanes.close()
    rows = [
        judge(
            name,
            index,
            lane.units,
            in_force[index],
            found[name],
            mechanism=executed[name],
            repeats=repeats[name],
        )
        for index, lane in enumerate(plan.lanes)
        for name in lane.members
    ]
    return GateVerdict(
        rows=tuple(rows),
        units=device.units,
        unit=device.identity.unit,
        batch=str(tree_spec(given)),
        notes=notes,
    )


def _silent(done: int, total: int, words: str) -> None:
    """Progress that nobody watches."""
