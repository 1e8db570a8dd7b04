"""The plan editor of a lab: it follows the lab, and the lab is the bench where drafts are put in force and measured."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from esen_lab.common.surroundings import step
from esen_lab.common.units import whole
from esen_lab.cost_model import CostModel
from esen_lab.errors import UsageError
from esen_lab.lab.plan_checks import origin
from esen_lab.lab.runtime import Runtime
from esen_lab.lab.stages.choices import choices, take
from esen_lab.lab.stages.plans import apply, export
from esen_lab.lab.stages.run import run
from esen_lab.lab.stages.run_call import RunCall
from esen_lab.lab.stages.search import models_of
from esen_lab.lab.state import LabState
from esen_lab.planner.editor import LastRun, Offered, PlanEditor
from esen_lab.planner.plan import Plan
from esen_lab.planner.steps import members_of
from esen_lab.run import RunOptions
from esen_lab.studies.thresholds import ThresholdEditor

if TYPE_CHECKING:
    from esen_lab.export import Exported


def edit(runtime: Runtime, models: Mapping[str, CostModel]) -> PlanEditor:
    """The one plan editor, with these cost models; it follows the plan in force and what searches prove."""
    plan = runtime.state.plan_of_these
    if plan is not None and plan.staged:
        raise UsageError(
            "Lanes are moved by hand in plans without stages",
            given=f"a plan in {len(plan.reach)} stages",
            hint=f"Move its thresholds: {step('lab.studies.thresholds()', '%esen tune')}. "
            "Or search a plan without stages.",
        )
    left_out = () if plan is None else plan.left_out
    models = {name: model for name, model in models.items() if name not in left_out}
    editor = runtime.state.editor
    if editor is None:
        made = PlanEditor(models, runtime.state.device.units, start=plan, bench=_Bench(runtime))
        editor = runtime.change(lambda state: state if state.editor else replace(state, editor=made)).editor
        assert editor is not None
        if editor is made:
            runtime.followers.add(_Following(runtime, editor))
    editor.renew(models)
    proof = runtime.state.proof
    if proof is not None:
        editor.proved(*proof)
    return editor


def steps_to_edit(state: LabState) -> tuple[str, ...]:
    """Of what steps the editor makes plans: those of the plan in force, or of a draft that was moved away from it.

    A plan of other sub-models than are registered now gives none: each is a step then.
    """
    plan, editor = state.plan_of_these, state.editor
    steps = state.ensemble.names if plan is None else plan.steps
    if editor is not None and editor.moved and set(members_of(editor.models)) == set(members_of(steps)):
        return tuple(editor.models)
    return steps


class _Following:
    """Tells the plan editor what concerns it of each new state, as long as it is the lab's."""

    def __init__(self, runtime: Runtime, editor: PlanEditor) -> None:
        self._runtime = runtime
        self._editor = editor
        self._proof: object = None
        self._report: object = None
        self._front: object = None

    def __call__(self, state: LabState) -> None:
        state = self._runtime.state  # another thread's change may have overtaken this one
        if state.editor is not self._editor:
            self._runtime.followers.drop(self)
            return
        plan = state.plan_of_these
        if plan is None or plan.staged:  # of a cascade it could show neither time nor lanes
            self._editor.follow(None)
        else:
            moved = self._editor.moved
            self._editor.follow(plan)
            if not moved and set(members_of(plan.steps)) == set(members_of(self._editor.models)):
                self._take_steps(plan)
        if state.proof is not None and state.proof is not self._proof:
            self._proof = state.proof
            self._editor.proved(*state.proof)
        front, self._front = self._front, state.front
        report, self._report = self._report, state.report
        if front is not state.front or report is not state.report:
            self._editor.ran_anew(at_once=front is not state.front)

    def _take_steps(self, plan: Plan) -> None:
        """Where another plan has other groups and parts, the editor goes on with those."""
        if set(plan.steps) == set(self._editor.models):
            return
        with suppress(UsageError):  # they were not measured here: the editor keeps to what it had
            known = models_of(self._runtime, plan.steps)
            self._editor.renew({name: known[name] for name in plan.steps})


class FollowingThresholds:
    """Tells the editor of a cascade's thresholds that another plan is in force, as long as it is the lab's."""

    def __init__(self, runtime: Runtime, editor: ThresholdEditor) -> None:
        self._runtime = runtime
        self._editor = editor

    def __call__(self, state: LabState) -> None:  # noqa: ARG002  another thread's change may have overtaken this one
        """Called with each new state."""
        if self._runtime.state.thresholds is not self._editor:
            self._runtime.followers.drop(self)
        else:
            self._editor.follow()


class _Bench:
    """`esen_lab.planner.editor.Bench` on a lab."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def in_force(self) -> Plan | None:
        return self._runtime.state.plan

    def facts(self) -> dict[str, Any]:
        state = self._runtime.state
        return origin(state.ensemble, state.device)

    def apply(self, plan: Plan) -> None:
        apply(self._runtime, plan)

    def measure(self, repeats: int) -> list[float]:
        times = []
        for _ in range(repeats):
            call = RunCall.of(self._runtime.state, self._runtime.state.ensemble.example, None, RunOptions())
            run(self._runtime, call, self._runtime.turns.turn("a run", call.until))
            report = self._runtime.state.report
            assert report is not None  # a run that returned has left one
            times.append(report.jct_s)
        return times

    def far(self) -> tuple[str, ...]:
        report = self._runtime.state.report
        return () if report is None else report.far

    def ran(self) -> LastRun | None:
        report = self._runtime.state.report
        if report is None:
            return None
        return LastRun(
            jct_s=report.jct_s,
            lanes=tuple((lane.units, lane.members) for lane in report.lanes),
            spans=tuple((span.name, span.lane, span.start_s, span.end_s) for span in report.spans),
        )

    def offered(self) -> tuple[Offered, ...]:
        state = self._runtime.state
        running = () if state.plan is None else state.plan.names
        return tuple(
            Offered(
                number=number,
                members=choice.names,
                jct_s=choice.allocation.jct_s,
                accuracy=choice.accuracy,
                in_force=set(choice.names) == set(running),
            )
            for number, choice in enumerate(choices(state))
        )

    def take(self, number: int) -> None:
        known = choices(self._runtime.state)
        place = whole(number)
        if place is None or not 0 <= place < len(known):
            raise UsageError("A choice of members is named by its number on the last front", given=number)
        take(self._runtime, known[place])
        edit(self._runtime, models_of(self._runtime, steps_to_edit(self._runtime.state)))

    def export(self, plan: Plan, path: str | os.PathLike[str]) -> Exported:
        return export(self._runtime, path, plan)
