"""All that a lab knows, as one record: a change makes another one, and puts it in the place of the one before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from esen_lab.common.surroundings import step
from esen_lab.cost_model import CostModel, Quantile
from esen_lab.devices import Device
from esen_lab.ensemble import Ensemble
from esen_lab.errors import UsageError
from esen_lab.lab.knowledge import Knowledge
from esen_lab.lab.lab_status import Action, NextStep, Status
from esen_lab.lab.live_modules import Originals
from esen_lab.planner import Limits, SearchJob
from esen_lab.planner.editor import PlanEditor
from esen_lab.planner.plan import Plan
from esen_lab.profiler import Profile, ProfileJob
from esen_lab.profiler.backends import BackendTable
from esen_lab.run import Comparison, Executor, RunReport, Worth
from esen_lab.run.numerics import NumericsVerdict
from esen_lab.studies import AdaptiveProfileJob, Validated
from esen_lab.studies.front import ParetoFront
from esen_lab.studies.thresholds import PlannedCascade, ThresholdEditor

if TYPE_CHECKING:
    from esen_lab.cluster import ClusterStatus, NodeReach, PlanOnNodes
    from esen_lab.serving.server import Server


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabState:
    """One moment of a lab.

    Attributes:
        device: Where it shares.
        ensemble: The registered sub-models, in order, and the combine rule.
        originals: What they were made from.
        known: What is known of them, by device: it stays when its device is left.
        put_away: By device: the plan that was in force when it was left.
        plan: The plan in force.
        previous_plan: The one before, while its lanes are the warm ones.
        proof: The cost models of the last search of all plans, and the bound in seconds that it proved for them.
        limits: What the last plan that was searched keeps to: refinement keeps to it too.
        quantile: What that plan was predicted by.
        executor: The warm lanes.
        profile_job: The last profile job.
        search_job: The last background search.
        improving: The background search that may still improve the plan in force.
        editor: The plan editor, once somebody has asked for it.
        report: What happened in the last run.
        comparison: The last comparison.
        numerics: The last check of answers.
        front: The last front of members, and the ensemble that it was found for.
        backends: What was measured of the ways to execute sub-models.
        only: The backends that plans may use besides eager; None: all that a profile tries by default.
        planned_cascade: The last cascade that was planned, with what moves its thresholds.
        thresholds: The editor of those, once somebody has asked for it.
        server: What serves its plan.
        reach: The way to the nodes of the cluster that is connected.
        cluster: What its nodes were when they were looked at last.
        on_nodes: What runs there.
        validated: What every member answered on the validation data that was last asked about, with its labels.
    """

    device: Device
    ensemble: Ensemble
    originals: Originals = field(default_factory=Originals)
    known: Mapping[str, Knowledge] = field(default_factory=dict)
    put_away: Mapping[str, Plan | None] = field(default_factory=dict)
    plan: Plan | None = None
    previous_plan: Plan | None = None
    proof: tuple[Mapping[str, CostModel], float] | None = None
    limits: Limits = field(default_factory=Limits)
    quantile: Quantile = "median"
    executor: Executor | None = None
    profile_job: ProfileJob | AdaptiveProfileJob | None = None
    search_job: SearchJob[Plan] | None = None
    improving: SearchJob[Plan] | None = None
    editor: PlanEditor | None = None
    report: RunReport | None = None
    comparison: Comparison | None = None
    numerics: NumericsVerdict | None = None
    front: tuple[Ensemble, ParetoFront] | None = None
    backends: BackendTable | None = None
    only: tuple[str, ...] | None = None
    planned_cascade: PlannedCascade | None = None
    thresholds: ThresholdEditor | None = None
    server: Server | None = None
    validated: Validated | None = None
    reach: NodeReach | None = None
    cluster: ClusterStatus | None = None
    on_nodes: PlanOnNodes | None = None

    # --- what follows from it ------------------------------------------------------------------------------------

    @property
    def here(self) -> Knowledge:
        """What is known on the device in use."""
        return self.known.get(self.device.identity.key, Knowledge())

    @property
    def measured(self) -> Profile | None:
        """All points known on the device in use that fit the registered sub-models, or None."""
        return self.here.measured(self.ensemble)

    @property
    def plan_of_these(self) -> Plan | None:
        """The plan in force, where it still is one of the registered sub-models: members come and go."""
        plan, ours = self.plan, set(self.ensemble.names)
        return plan if plan is not None and set(plan.names) <= ours <= {*plan.names, *plan.left_out} else None

    @property
    def members_to_run(self) -> tuple[str, ...]:
        """Who answers in a run: the members of the plan in force, or all."""
        return self.ensemble.names if self.plan is None else self.plan.names

    def worth_of(self, names: Sequence[str]) -> Worth | None:
        """What some members are worth on the validation data that was last asked about; None: not of these."""
        found = self.validated
        return None if found is None else found.worth(names, self.members_to_run, self.ensemble)

    @property
    def warm(self) -> Executor | None:
        """The warm lanes, where they are whole."""
        return None if self.executor is None or self.executor.broken else self.executor

    def runs_on_nodes(self, plan: Plan | None) -> bool:
        """Whether a plan is one for the nodes of the cluster that is connected."""
        return self.reach is not None and plan is not None and bool(plan.devices)

    @property
    def profiling(self) -> bool:
        """Whether something is being measured."""
        return self.profile_job is not None and not self.profile_job.state.over

    @property
    def measured_s(self) -> float | None:
        """The JCT of the last run, where it was a run of the lanes in force."""
        report, plan = self.report, self.plan
        if report is None or plan is None:
            return None
        ran = [(lane.units, lane.members) for lane in report.lanes]
        return report.jct_s if ran == [(lane.units, lane.members) for lane in plan.lanes] else None

    def status(self, *, waiting: int) -> Status:
        """Where the lab stands, while so many calls wait for their turn."""
        measured, job = self.measured, self.profile_job
        return Status(
            device=self.device.identity.to_dict(),
            device_notes=self.device.notes,
            submodels=tuple(submodel.to_dict() for submodel in self.ensemble.submodels),
            combine=self.ensemble.combine.describe(),
            profiled={name: 0 if measured is None else len(measured.of(name)) for name in self.ensemble.names},
            job="" if job is None else job.snapshot().message,
            plan=self.plan,
            waiting=waiting,
            running=self.warm is not None,
            nodes=() if self.on_nodes is None else tuple(self.on_nodes.told),
            served="" if self.server is None else self.server.in_short(),
            next_step=self.next_step,
        )

    @property
    def next_step(self) -> NextStep:
        """The next sensible thing to do."""
        names = self.ensemble.names
        if not names:
            return NextStep(action=Action.REGISTER, why="no sub-model is registered")
        if self.profiling:
            return NextStep(action=Action.WAIT, why="a profile is running")
        measured = self.measured
        missing = [name for name in names if measured is None or not measured.of(name)]
        if missing:
            return NextStep(action=Action.PROFILE, why=f"nothing is measured of {', '.join(missing)}")
        if self.plan_of_these is None:
            return NextStep(action=Action.SEARCH, why="no plan covers the registered sub-models")
        if self.report is None:
            return NextStep(action=Action.RUN, why="the plan has not been run")
        if self.comparison is None:
            return NextStep(action=Action.COMPARE, why="the plan has not been compared with how it is run today")
        return NextStep(action=Action.EXPORT, why="the plan is measured and compared")

    # --- changes -------------------------------------------------------------------------------------------------

    def knowing(self, here: Knowledge) -> LabState:
        """With other knowledge of the device in use."""
        return replace(self, known={**self.known, self.device.identity.key: here})

    # --- what is needed ------------------------------------------------------------------------------------------

    def need_submodels(self, what: str) -> None:
        """Refuse where nothing is registered.

        Raises:
            UsageError: Nothing is.
        """
        if not self.ensemble.submodels:
            raise UsageError(
                f"There is something to {what} once a sub-model is registered",
                given="zero sub-models",
                hint="Register one: "
                f"{step('lab.register(name, module, example=x)', '%esen register NAME --example x')}.",
            )

    def need_plan(self, what: str) -> Plan:
        """The plan in force.

        Raises:
            UsageError: There is none.
        """
        if self.plan is None:
            raise UsageError(
                f"There is something to {what} once there is a plan",
                given="no plan yet",
                hint="Profile and search first: "
                f"{step('lab.profile().result(); lab.search()', '%esen profile --wait, then %esen search')}.",
            )
        return self.plan
