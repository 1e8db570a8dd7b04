"""The numerics check: every share of a plan, with the user's own sub-models and input, against an uncapped reference.

There is a public report that limits of NVIDIA MPS made half-precision products silently wrong at some numbers of SMs.
So a plan's answers are compared sub-model by sub-model while all its lanes work at the same time: once is not enough,
since what is wrong may be wrong only now and then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from esen_lab.common.answers import IN_PRECISION, Difference, difference, nan_told
from esen_lab.common.display import Shown
from esen_lab.common.inputs import as_input
from esen_lab.common.records import to_dict
from esen_lab.common.trees import Tree, tree_spec
from esen_lab.common.units import backend_parts, check_count, format_table, format_units
from esen_lab.devices import Device
from esen_lab.ensemble import Ensemble
from esen_lab.lanes import ForkServer
from esen_lab.planner.plan import Plan, backends_of, sequential_plan
from esen_lab.planner.steps import Step, members_of
from esen_lab.run.executor import Executor
from esen_lab.run.fidelity import Unlike, own_answers
from esen_lab.run.start import silent


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedAnswers:
    """One sub-model at its share.

    Attributes:
        name: The sub-model.
        lane: Its lane, from 0.
        units: The lane's share.
        in_force: What the lane found in force.
        worst: The worst difference of all runs.
        wrong: In how many runs the answer was not the same up to rounding.
        runs: How many runs were compared.
        backend: The backend that executed it in the lane (see `check_backend`); for a group or a part, its kind.
        repeats: Whether the whole device gave the same answer twice. One that does not can't be judged.
    """

    name: str
    lane: int
    units: int
    in_force: str
    worst: Difference
    wrong: int
    runs: int
    backend: str = "eager"
    repeats: bool = True

    @property
    def cells(self) -> Mapping[str, str]:
        """What tables show of it, by column."""
        same = f"{self.runs - self.wrong} of {self.runs} runs" + (", WRONG" if self.wrong else "")
        return {
            "sub-model": self.name,
            "lane": str(self.lane + 1),
            "share": str(self.units),
            "in force": self.in_force,
            "executed": self.backend,
            "same answer": same if self.repeats or not self.wrong else "changes each time",
            "furthest off": self.worst.amount,
            "rounding allows": self.worst.limit,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class NumericsVerdict(Shown):
    """What the numerics check says about a plan.

    Attributes:
        rows: Every sub-model of the plan, lane by lane.
        units: All that the device has.
        unit: What a unit is, such as "core".
        batch: What the input looked like.
        notes: What else the reader should know.
        unlike: Sub-models whose lanes do not answer as the notebook's own process does, a sentence each.
    """

    rows: tuple[CheckedAnswers, ...]
    units: int = 0
    unit: str = "unit"
    batch: str = ""
    notes: tuple[str, ...] = ()
    unlike: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every answer was the same up to rounding, and that of the notebook's own process."""
        return not self.unlike and not any(row.wrong for row in self.rows)

    @property
    def wrong(self) -> tuple[CheckedAnswers, ...]:
        """Sub-models that repeat their answer on the whole device, but gave another one at their share."""
        return tuple(row for row in self.rows if row.wrong and row.repeats)

    @property
    def unsteady(self) -> tuple[CheckedAnswers, ...]:
        """Sub-models whose answer changes each time, on the whole device too, or that share state with others.

        Nothing can be said of their share.
        """
        return tuple(row for row in self.rows if row.wrong and not row.repeats)

    @property
    def sentences(self) -> tuple[str, ...]:
        """The verdict, a line each: which share, which sub-model, how wrong; then who could not be judged."""
        told = [*self.unlike]
        told += [
            f"WRONG ANSWERS: {row.name} with {format_units(row.units, self.unit)}, "
            f"{row.wrong} of {row.runs} runs ({row.worst})."
            for row in self.wrong
        ]
        if self.wrong:
            told.append("Do not use these shares.")
        if self.unsteady:
            names = ", ".join(row.name for row in self.unsteady)
            why = "the answer changes each time, on the whole device too, or depends on calls of other sub-models"
            told.append(f"Not judged, since {why}: {names}.")
        nothing = nan_told({row.name: row.worst for row in self.rows})
        if told:
            return (*told, *nothing)
        furthest = max(self.rows, key=lambda row: row.worst.error)
        if not furthest.worst.error:
            return ("All answers equal those of the whole device.", *nothing)
        same = "All answers are those of the whole device up to rounding"
        return (f"{same}; furthest off is {furthest.name}: {furthest.worst}.", *nothing)

    @property
    def text(self) -> str:
        """The verdict in one line."""
        return " ".join(self.sentences)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        rows = [{**to_dict(row), **row.worst.to_dict()} for row in self.rows]
        for row in rows:
            del row["worst"]
        return {**to_dict(self), "passed": self.passed, "text": self.text, "rows": rows}

    def __str__(self) -> str:
        """For a terminal."""
        columns = ("sub-model", "share", "in force", "executed", "same answer", "furthest off", "rounding allows")
        table = format_table(columns, [[row.cells[column] for column in columns] for row in self.rows])
        return "\n".join([table, *self.sentences, *self.notes])


def judge(
    name: str,
    lane: int,
    units: int,
    in_force: str,
    found: Sequence[Difference],
    *,
    backend: str = "eager",
    repeats: bool = True,
) -> CheckedAnswers:
    """The verdict on one sub-model, from several runs.

    Args:
        name: The sub-model.
        lane: Its lane.
        units: The lane's share.
        in_force: What the lane found in force.
        found: A difference per run; at least one.
        backend: How the lane executed it.
        repeats: Whether the whole device gave the same answer twice.
    """
    # Beyond the tolerance first, since an error of 1e-3 is much for one dtype and nothing for another.
    worst = max(found, key=lambda one: (not one.agrees, one.error))
    return CheckedAnswers(
        name=name,
        lane=lane,
        units=units,
        in_force=in_force,
        worst=worst,
        wrong=sum(not one.agrees for one in found),
        runs=len(found),
        backend=backend,
        repeats=repeats,
    )


def check_numerics(
    plan: Plan,
    ensemble: Ensemble,
    device: Device,
    fork_server: ForkServer,
    *,
    x: Tree = None,
    runs: int = 5,
    executor: Executor | None = None,
    on_progress: Callable[[int, int, str], object] | None = None,
) -> NumericsVerdict:
    """Run a plan's lanes at the same time and compare every sub-model's answers with those of the whole device.

    Args:
        plan: Which shares.
        ensemble: The sub-models.
        device: Where; its whole is the reference, one sub-model after another, executed eagerly but for int8.
        fork_server: Starts the lanes.
        x: The input; None for the example.
        runs: How many runs are compared, at least 1.
        executor: Warm lanes of this plan, where there are any; they stay the caller's.
        on_progress: Called with (done, all, what is going on).

    Raises:
        UsageError: `runs` is below 1, or the input holds no tensors.
        EsenError: The reference or the plan could not be run.
    """
    check_count(runs, "The numerics check compares at least one run")
    tell = on_progress or silent
    given = as_input(ensemble.example if x is None else x)
    tell(0, runs + 1, "the whole device, one sub-model after another")
    # int8 is compared with itself: how far it is off depends on the data, which `check_precision` looks at.
    int8 = {name: how for name, how in backends_of(plan).items() if backend_parts(how)[1] == "int8"}
    reference = sequential_plan(plan.names, device.units).with_backends(int8)
    whole = Executor.start(reference, ensemble, device, fork_server)
    try:
        wanted, repeats = _reference(whole, given)
        # What state they share is moved by calls of others where these are in one lane, and not where they are not.
        repeats = {name: same and not ensemble.get(name).shares for name, same in repeats.items()}
    finally:
        whole.close()
    lanes = executor or Executor.start(plan, ensemble, device, fork_server)
    try:
        # Compared at once and let go: many runs of large answers would not fit in memory.
        found: dict[str, list[Difference]] = {name: [] for name in plan.names}
        own = own_answers(ensemble, given, fork_server, anew=True)
        others: list[Unlike] = []
        allowed = {name: IN_PRECISION[backend_parts(how)[1]] for name, how in lanes.history.executed(plan).items()}
        for number in range(1, runs + 1):
            tell(number, runs + 1, f"run {number} of {runs}, all lanes at work")
            answers = lanes.run_members(given).members
            if number == 1:
                others += lanes.fidelity.unlike_to(own, answers, ensemble, given).values()
            for name, answer in answers.items():
                found[name].append(difference(answer, wanted[name], allowed[name]))
    finally:
        if executor is None:
            lanes.close()
    notes = lanes.history.notes
    return NumericsVerdict(
        rows=_rows(plan, lanes, found, repeats),
        units=device.units,
        unit=device.identity.unit,
        batch=str(tree_spec(given)),
        notes=(*notes, *(str(item) for item in others if not item.wrong and str(item) not in notes)),
        unlike=tuple(str(item) for item in others if item.wrong),
    )


def _reference(whole: Executor, x: Tree) -> tuple[Mapping[str, Tree], Mapping[str, bool]]:
    """What sub-models answer on the whole device, and which of them answer the same twice."""
    wanted = whole.run_members(x).members
    # One that draws random numbers or keeps a state must not be taken for one that a share makes wrong.
    again = whole.run_members(x).members
    return wanted, {name: difference(again[name], wanted[name]).agrees for name in wanted}


def _rows(
    plan: Plan, lanes: Executor, found: Mapping[str, Sequence[Difference]], repeats: Mapping[str, bool]
) -> tuple[CheckedAnswers, ...]:
    executed = lanes.history.executed(plan)
    return tuple(
        judge(
            name,
            index,
            lane.units,
            lanes.in_force[index],
            found[name],
            backend=Step.of(step).kind or executed[name],
            repeats=repeats[name],
        )
        for index, lane in enumerate(plan.lanes)
        for step in lane.members
        for name in members_of([step])
    )
