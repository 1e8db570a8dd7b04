"""`lab.studies`: what goes beyond one search: plans corrected by runs, members to leave out, devices, cascades."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from esen_lab.common.trees import Tree
from esen_lab.cost_model import Quantile
from esen_lab.lab.plan_checks import members_run_by, now, origin
from esen_lab.lab.runtime import Runtime
from esen_lab.lab.search_binding import Asked
from esen_lab.lab.stages.choices import plan_of, take
from esen_lab.lab.stages.plans import put_in_force
from esen_lab.lab.stages.search import models, models_of, search
from esen_lab.planner import Limits
from esen_lab.planner.fits import check_fits
from esen_lab.planner.plan import Plan
from esen_lab.planner.ways import limits_of_steps
from esen_lab.studies import (
    Answers,
    Refined,
    Round,
    answers,
    cascade_of_members,
    device_tables,
    front_of_members,
    labels_of,
    placed,
    refine_plan,
    with_memory,
)
from esen_lab.studies.cascade import Cascade
from esen_lab.studies.front import Choice, ParetoFront
from esen_lab.studies.placement import DevicePlacement


class Studies:
    """The studies of one lab."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

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

        Without a plan, one is searched first. Ctrl-C, and `stop`, keep the best plan measured until then.

        Args:
            x: The input to run; None for the example.
            rounds: At most so many plans are run.
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
        state = runtime.state
        ensemble = state.ensemble if state.plan is None else members_run_by(state.plan, state.ensemble)
        asked = state.limits if limits is None else Limits.of(limits)
        held, notes = with_memory(asked, ensemble, state.measured)
        held.check(ensemble.names, state.device.units)
        lanes = runtime.lane_runs(ensemble, x, runs)
        first = state.plan or search(runtime, Asked(limits=asked, quantile=state.quantile))
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

        refined = refine_plan(
            first,
            known_models,
            lanes,
            as_plan,
            most_rounds=rounds,
            least_gain=least_gain,
            limits=held,
            stop=stop,
            on_round=on_round,
        )
        put_in_force(runtime, refined.plan)
        return refined

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
        known = models(self._runtime, quantile)
        found = self._answers(x, batch)
        units = self._runtime.state.device.units
        ensemble = self._runtime.state.ensemble
        front = front_of_members(known, units, found, labels_of(y, found.samples), seed=seed)
        self._runtime.set(front=(ensemble, front))
        return front

    def _answers(self, x: Tree, batch: int | None) -> Answers:
        runtime = self._runtime
        state = runtime.state
        return answers(state.ensemble, state.device, runtime.fork_server, runtime.measured_plan, x, batch=batch)

    def place(self, devices: int | Mapping[str, Any], *, quantile: Quantile = "median") -> DevicePlacement:
        """Spread the sub-models over several devices: placement, lanes and shares together. Planned, not run.

        Args:
            devices: How many devices like this one; or, by name, what is known of each: a `Profile` (such as another
                lab's `measurements`), or for each sub-model its seconds at 1..units units.
            quantile: As for `Lab.search`.

        Raises:
            UsageError: Something is not profiled, or a device does not know every sub-model.
        """
        known = models(self._runtime, quantile)
        return placed(device_tables(devices, known, self._runtime.state.device.units, quantile))

    def cascade(
        self,
        x: Tree,
        y: Any = None,
        *,
        threshold: float = 0.9,
        order: Sequence[str] | None = None,
        stage_overhead_s: float | None = None,
        batch: int | None = None,
        quantile: Quantile = "median",
    ) -> Cascade:
        """Run some members first, the others only while the answer is not sure: expected JCT. Planned, not run.

        Args:
            x: Validation data, samples along the first dimension; decides how many inputs stay open.
            y: The right class of each sample, to say what leaving early costs in accuracy; None: not said.
            threshold: The probability of the likeliest class at which an input is done.
            order: Who is asked first; None tries the fastest first and, with labels, the most accurate first.
            stage_overhead_s: What one more stage costs; None for what the last run cost besides its slowest lane.
            batch: As for `members`.
            quantile: As for `Lab.search`.

        Raises:
            UsageError: Something is not profiled, an argument is not possible, or the combine rule gives no scores.
            EsenError: A member could not be run.
        """
        known = models(self._runtime, quantile)
        found = self._answers(x, batch)
        state = self._runtime.state
        if stage_overhead_s is None:
            stage_overhead_s = 0.0 if state.report is None else max(0.0, state.report.overhead_s)
        return cascade_of_members(
            known,
            state.device.units,
            found,
            threshold,
            order=order,
            labels=None if y is None else labels_of(y, found.samples),
            stage_overhead_s=stage_overhead_s,
        )

    def plan_of(self, found: Choice | DevicePlacement | Cascade) -> Plan:
        """The plan of a point of a front, of a placement or of a cascade; it is not put in force.

        Raises:
            UsageError: It is none of these, or one of other sub-models.
        """
        return plan_of(self._runtime, found)

    def take(self, choice: Choice) -> Plan:
        """Put a point of a front in force: from now on only its members run.

        Raises:
            UsageError: It is no choice of members of this ensemble.
        """
        return take(self._runtime, choice)
