"""`lab.studies`: what goes beyond one search: plans corrected by runs, members to leave out, devices, cascades."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from esen_lab.common.surroundings import step
from esen_lab.common.trees import Tree, tree_spec
from esen_lab.common.units import backend_parts, check_seed, now
from esen_lab.cost_model import CostModel, Quantile
from esen_lab.ensemble import Ensemble, SubModel
from esen_lab.errors import UsageError
from esen_lab.lab.backend_choice import allowed
from esen_lab.lab.plan_checks import members_run_by, origin
from esen_lab.lab.runtime import Runtime
from esen_lab.lab.search_binding import SearchRequest
from esen_lab.lab.stages.choices import plan_of, take
from esen_lab.lab.stages.edit import FollowingThresholds
from esen_lab.lab.stages.members import follow
from esen_lab.lab.stages.plans import apply, put_in_force
from esen_lab.lab.stages.rate import search_for_rate
from esen_lab.lab.stages.search import models, models_of, search
from esen_lab.lab.state import LabState
from esen_lab.lanes.arena import bytes_of
from esen_lab.planner import Limits
from esen_lab.planner.fits import check_fits, check_members
from esen_lab.planner.nodes import NodeLink
from esen_lab.planner.plan import Plan
from esen_lab.planner.ways import limits_of_steps
from esen_lab.run import at_once
from esen_lab.run.options import weightless
from esen_lab.studies import (
    Answers,
    Refined,
    Round,
    Validated,
    answers,
    cascade_of_members,
    device_tables,
    front_of_members,
    place_stages,
    placed,
    refine_plan,
    replicated,
    with_memory,
)
from esen_lab.studies.batch_times import RowTimes
from esen_lab.studies.best import (
    best_within,
    check_loss,
    check_weights,
    check_within,
    fastest_within,
    front_of_choices,
)
from esen_lab.studies.cascade import Cascade
from esen_lab.studies.exits import Exits
from esen_lab.studies.front import Choice, ParetoFront
from esen_lab.studies.members import check_cascade
from esen_lab.studies.placed_stages import PlacedCascade
from esen_lab.studies.placement import DevicePlacement, DeviceTables
from esen_lab.studies.rate import BATCHES, RatePlan
from esen_lab.studies.replicas import BUSY, Replication
from esen_lab.studies.thresholds import PlannedCascade, ThresholdEditor
from esen_lab.studies.validation import check_labelled


class Studies:
    """The studies of one lab."""

    last_front: ParetoFront | None = None
    """What `best_within` and `fastest_within` chose from last."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._row_times: tuple[object, RowTimes] | None = None  # of what, and what fewer rows take of it

    def refine(
        self,
        x: Tree = None,
        *,
        rounds: int = 4,
        runs: int = 9,
        least_gain: float = 0.01,
        limits: Limits | Mapping[str, Any] | None = None,
        on_round: Callable[[tuple[Round, ...]], None] | None = None,
        stop: threading.Event | None = None,
    ) -> Refined:
        """Run the plan, correct the cost models by what it took, search again, and so on; the best becomes `plan`.

        At the end, where limits allow one lane that has the whole device, all sub-models are run at once by engines
        that overlap them (OpenVINO, ONNX Runtime), if the profile tried these and plans may use them. Without a plan,
        one is searched first. Ctrl-C, and `stop`, keep the best plan measured until then.

        Args:
            x: The input to run; None for the example.
            rounds: At most so many searched plans are run.
            runs: How many runs of each plan its median is taken from.
            least_gain: It ends when a round gains less than this fraction.
            limits: As for `Lab.search`; None for those of the last search that found a plan.
            on_round: Called with all rounds so far whenever one is done.
            stop: Set it, from another thread, to end early.

        Raises:
            UsageError: Something is not profiled, or a number is not possible.
            EsenError: The plan could not be run.
        """
        runtime = self._runtime
        follow(runtime)
        state = runtime.state
        ensemble = state.ensemble if state.plan is None else members_run_by(state.plan, state.ensemble)
        if state.plan is not None and state.plan.staged:
            raise UsageError(
                "Refinement corrects plans without stages: how long a cascade takes is up to its input",
                given=f"a plan in {len(state.plan.reach)} stages",
                hint=f"Measure the cascade with {step('lab.compare(x)', '%esen compare x')}. "
                "To refine, search a plan without stages first.",
            )
        asked = state.limits if limits is None else Limits.of(limits)
        held, notes = with_memory(asked, ensemble, state.measured)
        held.check(ensemble.names, state.device.units)
        lanes = runtime.lane_runs(ensemble, x, runs)
        first = state.plan or search(runtime, SearchRequest(limits=asked, quantile=state.quantile))
        check_fits(first, state.ensemble, state.device)
        # The rounds keep to the groups and parts that the plan has.
        steps = first.steps if first.names != first.steps else ensemble.names
        by_step = models_of(runtime, steps, state.quantile)
        known_models = {name: by_step[name] for name in steps}
        held = limits_of_steps(held, steps)
        known = {**origin(ensemble, state.device), "left_out": first.left_out}

        def as_plan(plan: Plan) -> Plan:
            told = (*notes, "predicted by cost models corrected by measured runs")
            return plan.with_origin(notes=told, created_at=now(), **known)

        def others(best: Plan) -> Sequence[Plan]:
            if not held.allows_one_lane(steps, state.device.units):
                return ()
            measured = runtime.state.measured
            tried = {backend_parts(point.backend)[0] for point in measured.backend_points} if measured else set()
            may = {
                name: [way for way in ways if backend_parts(way)[0] in tried]
                for name, ways in allowed(runtime.state).items()
            }
            plans = at_once(best, ensemble, state.device, may)
            return [plan.with_origin(created_at=now(), **known) for plan in plans]  # its own note stays the last

        refined = refine_plan(
            first,
            known_models,
            lanes,
            as_plan,
            most_rounds=rounds,
            least_gain=least_gain,
            limits=held,
            others=others,
            stop=stop,
            on_round=on_round,
        )
        put_in_force(runtime, refined.plan)
        return refined

    def rate(
        self,
        rate_per_s: float,
        p99_s: float,
        *,
        x: Tree = None,
        batches: Sequence[int] = BATCHES,
        runs: int = 9,
        limits: Limits | Mapping[str, Any] | None = None,
        on_progress: Callable[[int, int, str], object] | None = None,
    ) -> RatePlan:
        """Which plan, and which largest batch, for requests that come at random; it becomes `plan`.

        The plan with the shortest JCT, the one in force and, without limits, the usual ways are run at several batches.
        From their times the queue in front of each is computed (docs/load.md), and the one with the lowest 99th
        percentile is taken.

        Args:
            rate_per_s: Requests of one row a second.
            p99_s: Within what 99 % of them are to be answered, in seconds.
            x: An input, of any number of rows along dimension 0 of every tensor; None for the example.
            batches: The rows to measure at; requests are joined up to the largest.
            runs: How many runs of each candidate at each batch count.
            limits: As for `Lab.search`.
            on_progress: Called with (done, all, what is going on).

        Raises:
            UsageError: Something is not profiled, or a number is not possible.
            InfeasibleError: The rate is not held; the message says why, and which one is. The plan in force stays.
            EsenError: A candidate could not be run.
        """
        asked = SearchRequest(limits=limits, x=x, runs=runs)
        return search_for_rate(
            self._runtime, asked, rate_per_s=rate_per_s, p99_s=p99_s, batches=batches, on_progress=on_progress
        )

    def members(
        self, x: Tree, y: Any, *, batch: int | None = None, quantile: Quantile = "median", seed: int = 0
    ) -> ParetoFront:
        """Which members at all: the subsets that no other beats in accuracy and predicted JCT at once.

        Every member runs once on the validation data. Exact up to 12 members, NSGA-II beyond. `take` puts one of
        `choices` in force; its plan leaves the other members out.

        Args:
            x: Validation data, samples along the first dimension.
            y: The right class of each sample.
            batch: How many samples at once; None for as many as the example holds, at least 64.
            quantile: As for `Lab.search`.
            seed: Of NSGA-II.

        Raises:
            UsageError: Something is not profiled, data and labels do not fit, or the outputs or the combine rule are
                not those of a classifier.
            EsenError: A member could not be run.
        """
        check_seed(seed)  # not after all members have run
        known = self._models(quantile)
        check_labelled(x, y)
        found = self._answers(x, batch)
        units = self._runtime.state.device.units
        labels = found.labels(y)
        ensemble = self._runtime.state.ensemble
        front = front_of_members(known, units, found, labels, seed=seed)
        self._runtime.set(validated=Validated(answers=found, labels=labels), front=(ensemble, front))
        return front

    def _models(self, quantile: Quantile) -> dict[str, CostModel]:
        """The cost models of the sub-models as the networks are now: every study begins with them."""
        follow(self._runtime)
        return models(self._runtime, quantile)

    def _answers(self, x: Tree, batch: int | None, *, fewer_rows: bool = False) -> Answers:
        runtime = self._runtime
        state = runtime.state
        settings = runtime.fork_server.session_here()
        of = (state.device.identity.key, settings.key, [_timed_as(member) for member in state.ensemble.submodels])
        known = self._row_times
        found = answers(
            state.ensemble,
            state.device,
            runtime.fork_server,
            runtime.measured_plan,
            x,
            batch=batch,
            fewer_rows=fewer_rows,
            row_times=known[1] if fewer_rows and known is not None and known[0] == of else None,
            settings=settings,
        )
        if fewer_rows:
            self._row_times = (of, found.rows)
        return found

    def place(
        self,
        devices: int | Mapping[str, Any],
        *,
        links: Mapping[str, NodeLink] | None = None,
        quantile: Quantile = "median",
    ) -> DevicePlacement:
        """Spread the sub-models over several devices or nodes: placement, lanes and shares together. Planned, not run.

        Args:
            devices: How many devices like this one; or, by name, what is known of each: a `Profile` (such as another
                lab's `measurements`), or for each sub-model its seconds at 1..units units.
            links: By name, what lies between here and a node (docs/nodes.md): it gets something to do only where that
                is faster with the transfers, whose outputs are as large as those of the examples. None: nothing does.
            quantile: As for `Lab.search`.

        Raises:
            UsageError: Something is not profiled, a device does not know every sub-model, or a link is of no device.
        """
        return placed(self._devices(devices, links, quantile), output_bytes(self._runtime.state.ensemble))

    def place_cascade(
        self,
        cascade: Cascade,
        devices: int | Mapping[str, Any],
        *,
        links: Mapping[str, NodeLink] | None = None,
        quantile: Quantile = "median",
    ) -> PlacedCascade:
        """Spread each stage of a cascade over several devices or nodes; `plan_of` makes a plan of it. Nothing is run.

        Args:
            cascade: Such as `cascade(x, y)` plans: its stages, thresholds and reach stay.
            devices: As for `place`.
            links: As for `place`.
            quantile: As for `Lab.search`.

        Raises:
            UsageError: As for `place`, or the cascade asks for what is not registered.
        """
        if not isinstance(cascade, Cascade):
            raise UsageError(
                "What is placed stage by stage is a cascade",
                given=type(cascade).__name__,
                hint=f"Such as {step('lab.studies.cascade(x_val, y_val)', 'what %esen cascade returns')}.",
            )
        kept = self._runtime.state.planned_cascade
        known = kept is not None and kept.cascade is cascade
        row_times = kept.row_times if kept is not None and known else RowTimes(rows=cascade.rows)
        tables = self._devices(devices, links, quantile)
        return place_stages(cascade, tables, output_bytes(self._runtime.state.ensemble), row_times)

    def replicate(
        self,
        devices: int | Mapping[str, Any],
        *,
        rate_per_s: float | None = None,
        busy: float = BUSY,
        within_s: float | None = None,
        links: Mapping[str, NodeLink] | None = None,
        quantile: Quantile = "median",
        time_limit_s: float = 5.0,
    ) -> Replication:
        """How many replicas of the whole ensemble to run, on one node or a group of nodes each. Planned, not run.

        Args:
            devices: As for `place`.
            rate_per_s: Calls a second that are to be held, with as few nodes as possible; None for as many calls as
                possible with all nodes.
            busy: With a rate: the part of the time that replicas may be busy, above 0 and at most 1.
            within_s: Replicas that take longer for a call do not count; None: all do.
            links: As for `place`.
            quantile: As for `Lab.search`.
            time_limit_s: Wall time after which no other group of nodes is looked at.

        Raises:
            UsageError: As for `place`, or a number is not possible.
            InfeasibleError: The rate is not held, or no replica is as fast as asked; the message says what is possible.
        """
        return replicated(
            self._devices(devices, links, quantile),
            rate_per_s=rate_per_s,
            busy=busy,
            within_s=within_s,
            output_bytes=output_bytes(self._runtime.state.ensemble),
            time_limit_s=time_limit_s,
        )

    def _devices(
        self, devices: int | Mapping[str, Any], links: Mapping[str, NodeLink] | None, quantile: Quantile
    ) -> list[DeviceTables]:
        known = self._models(quantile)
        return device_tables(devices, known, self._runtime.state.device.units, quantile, links)

    def cascade(
        self,
        x: Tree,
        y: Any = None,
        *,
        threshold: float = 0.9,
        order: Sequence[str] | None = None,
        stages: Sequence[Sequence[str]] | None = None,
        stage_overhead_s: float | None = None,
        batch: int | None = None,
        quantile: Quantile = "median",
        deadline_s: float | None = None,
    ) -> Cascade:
        """Run some members first, the others only while the answer is not sure: expected and worst JCT.

        It is planned here; `take` puts it in force. What members answered is kept, for `thresholds`. Where the example
        holds several rows, each member is also timed with fewer of them, in 2 s for all; what is known of that from an
        earlier call is not measured again.

        Args:
            x: Validation data, samples along the first dimension; decides how many inputs stay open.
            y: The right class of each sample, to say what leaving early costs in accuracy; None: not said.
            threshold: The probability of the likeliest class at which an input is done.
            order: Who is asked first; None tries the fastest first and, with labels, the most accurate first.
            stages: Who is asked in which stage, such as [["small"], ["middle", "large"]]; None cuts the order where
                that is fastest.
            stage_overhead_s: What one more stage costs; None for what the last run cost besides its slowest lane.
            batch: As for `members`.
            quantile: As for `Lab.search`.
            deadline_s: When answers are wanted, in seconds: the cascade then says how many are expected later.

        Raises:
            UsageError: Something is not profiled, an argument is not possible, or the combine rule gives no scores.
            EsenError: A member could not be run.
        """
        known = self._models(quantile)
        ensemble = self._runtime.state.ensemble
        check_cascade(  # now, not after all members have run
            ensemble.names,
            weightless(ensemble.combine, ensemble.names),
            threshold=threshold,
            order=order,
            stages=stages,
            stage_overhead_s=stage_overhead_s,
            deadline_s=deadline_s,
        )
        if y is not None:
            check_labelled(x, y)
        found = self._answers(x, batch, fewer_rows=True)
        state = self._runtime.state
        if stage_overhead_s is None:
            stage_overhead_s = overhead_of_a_stage(state)
        labels = None if y is None else found.labels(y)
        if labels is not None:
            self._runtime.set(validated=Validated(answers=found, labels=labels))
        planned = cascade_of_members(
            known,
            state.device.units,
            found,
            threshold,
            order=order,
            stages=stages,
            labels=labels,
            stage_overhead_s=stage_overhead_s,
            deadline_s=deadline_s,
        )
        kept = PlannedCascade(
            cascade=planned,
            exits=Exits.of([stage.names for stage in planned.stages], found, labels),
            row_times=found.rows,
            stage_overhead_s=stage_overhead_s,
        )
        self._runtime.set(planned_cascade=kept)
        return planned

    def thresholds(self) -> ThresholdEditor:
        """The thresholds of the last cascade that was planned here: move one, and see time and accuracy at once.

        Every call gives the same object, until another cascade is planned.

        Raises:
            UsageError: None was planned here, it has one stage, or the plan in force has other stages, or members that
                are no longer registered.
        """
        runtime = self._runtime
        planned, plan, editor = runtime.state.planned_cascade, runtime.state.plan, runtime.state.thresholds
        way = step("lab.studies.take(lab.studies.cascade(x_val, y_val))", "%esen cascade x_val y_val --take")
        hint = f"Plan one with labels: {way}."
        if planned is None or len(planned.cascade.stages) < 2:
            what = "no cascade was planned here" if planned is None else "a cascade of one stage"
            raise UsageError("Thresholds are moved on the validation answers of a cascade", given=what, hint=hint)
        if plan is not None and plan.staged and not planned.is_of(plan):
            raise UsageError(
                "Thresholds are moved on the validation answers of the plan in force",
                given="those of other stages, or of stages on this machine for a plan over nodes",
                hint=hint,
            )
        if plan is not None and plan.staged:
            check_members(plan, runtime.state.ensemble)
        if editor is not None and editor.planned is planned:
            return editor
        made = ThresholdEditor(planned, lambda: runtime.state.plan_of_these, partial(apply, runtime))
        runtime.set(thresholds=made)
        runtime.followers.add(FollowingThresholds(runtime, made))
        return made

    def front(
        self,
        x: Tree,
        y: Any,
        *,
        cascade: bool = False,
        weights: str | None = None,
        batch: int | None = None,
        quantile: Quantile = "median",
        seed: int = 0,
    ) -> ParetoFront:
        """The front of accuracy against expected JCT that `best_within` and `fastest_within` choose from.

        Args:
            x: Validation data, samples along the first dimension.
            y: The right class of each sample.
            cascade: Whether cascades are tried too: of up to six sets of members, at several thresholds.
            weights: "greedy": members are weighted by greedy selection with replacement on one half of the data, and
                accuracies are those of the other half. None: by the combine rule, on all the data.
            batch: As for `members`.
            quantile: As for `Lab.search`.
            seed: Of the halves; beyond 12 members of NSGA-II too.

        Raises:
            UsageError: As `members` does, or an option is unknown.
            EsenError: A member could not be run.
        """
        check_seed(seed)  # not after all members have run
        check_weights(weights)
        known = self._models(quantile)
        check_labelled(x, y)
        found = self._answers(x, batch, fewer_rows=cascade)
        labels = found.labels(y)
        state = self._runtime.set(validated=Validated(answers=found, labels=labels))
        front = front_of_choices(
            known,
            state.device.units,
            found,
            labels,
            cascades=cascade,
            weights=weights,
            stage_overhead_s=overhead_of_a_stage(state),
            seed=seed,
        )
        self.last_front = front
        return front

    def best_within(self, within_s: float, x: Tree, y: Any, **options: Any) -> Plan:
        """See `Lab.best_within`."""
        check_within(within_s)  # not after all members have run
        return self.take(best_within(self.front(x, y, **options), within_s))

    def fastest_within(self, loss: float, x: Tree, y: Any, **options: Any) -> Plan:
        """The fastest way to run this ensemble that loses at most so much accuracy; it becomes `plan`.

        Data, labels, options and what is raised are those of `best_within`. `loss` is below the accuracy of all members
        on the same data, 0 to 1: 0.005 is half a percent of the samples.
        """
        check_loss(loss)
        return self.take(fastest_within(self.front(x, y, **options), loss))

    def plan_of(self, found: Choice | DevicePlacement | Cascade | PlacedCascade) -> Plan:
        """The plan of a point of a front, of a placement or of a cascade, placed or not; it is not put in force.

        Raises:
            UsageError: It is none of these, or one of other sub-models.
        """
        return plan_of(self._runtime, found)

    def take(self, found: Choice | Cascade) -> Plan:
        """Put a point of a front, or a cascade, in force: from now on only its members run.

        Learned weights of a choice become the combine rule.

        Raises:
            UsageError: It is none of this ensemble.
        """
        return take(self._runtime, found)


def _timed_as(member: SubModel) -> tuple[str, ...]:
    """What the latency of a sub-model depends on: not on its weights."""
    return member.name, member.code_fingerprint or member.fingerprint, str(tree_spec(member.example))


def overhead_of_a_stage(state: LabState) -> float:
    """What one more stage of a cascade is taken to cost, in seconds: what the last run cost besides its lanes.

    Where nothing ran yet: 0.
    """
    report = state.report
    if report is None:
        return 0.0
    ran = sum(1 for stage in report.stages if stage.rows) or 1
    return max(0.0, report.overhead_s) / ran


def output_bytes(ensemble: Ensemble) -> dict[str, int]:
    """How much each sub-model answers with for its example, in bytes."""
    return {
        one.name: sum(bytes_of(tensor.dtype, tensor.shape) for tensor in one.output_spec.tensors)
        for one in ensemble.submodels
    }
