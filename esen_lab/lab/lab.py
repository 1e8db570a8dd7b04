"""The lab itself: one short method per stage.

    register -> profile -> fit -> search -> run / compare -> save / export

Every method works from plain Python and from several threads; the notebook's magics call nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esen_lab.choosing import (
    AdaptiveProfileJob,
    Answers,
    LaneRuns,
    Refined,
    Round,
    answers,
    cascade_of_members,
    device_tables,
    executed,
    front_of_members,
    labels_of,
    plan_of_allocation,
    plan_of_cascade,
    plan_of_choice,
    plan_of_placement,
    refine_plan,
    with_memory,
)
from esen_lab.devices import Device, MarkLog, Offer, Sampler, offers, open_device
from esen_lab.ensemble import Combine, Ensemble, SubModel, make_combine, make_submodel
from esen_lab.errors import EsenError, StoreError, UsageError
from esen_lab.fitting import CostModel, Quantile
from esen_lab.lab.bench import LabBench
from esen_lab.lab.knowledge import Knowledge, fit_so_far
from esen_lab.lab.originals import Originals
from esen_lab.lab.plans import changed_since, check_fits, differences, fits, members_run_by, now, origin, same_work
from esen_lab.lab.records import DeviceChange, Status, meaning_of_change
from esen_lab.lab.searching import Asked, bind_search
from esen_lab.lab.watching import Watching
from esen_lab.planning import Lane, Plan, sequential_plan
from esen_lab.profiling import (
    Profile,
    ProfileJob,
    ProfileStore,
    default_shares,
    default_store_path,
    start_profile,
    stored_profile,
)
from esen_lab.profiling.mechanisms import MechanismTable, measure_mechanisms
from esen_lab.profiling.store import device_key
from esen_lab.runtime import Comparison, Executor, Nursery, RunReport, compare
from esen_lab.runtime.executor import DEFAULT_TIMEOUT_S
from esen_lab.runtime.gate import GateVerdict, check_numerics
from esen_lab.search import Cascade, Choice, Front, Limits, Placement, SearchJob, place
from esen_lab.showing import Shown
from esen_lab.trees import Tree
from esen_lab.tuning import Tuning
from esen_lab.units import MECHANISMS, format_units

if TYPE_CHECKING:
    from types import TracebackType

    from esen_lab.export import Exported
    from esen_lab.search import Allocation, Progress

BACKGROUND_SEARCH_S = 60.0
"""For how long the exact searcher improves and proves in the background."""


class Lab(Shown):
    """One ensemble on one device.

    Args:
        device: A device's name ("cpu", "cuda:0 mps"), a `Device`, or None for the best one that passes its self-test.
        store: Where measured points are kept (a file); None: the user's cache folder.
        combine: The combine rule, see `combine`.

    Raises:
        UsageError: The device or the rule is unknown.
    """

    def __init__(
        self,
        device: str | Device | None = None,
        *,
        store: str | os.PathLike[str] | None = None,
        combine: str | Callable[..., Any] = "mean",
    ) -> None:
        self.device = open_device(device)
        self._ensemble = Ensemble(submodels=(), combine=make_combine(combine))
        self._store_path = store
        self._store: ProfileStore | None = None
        self._nursery = Nursery()  # starts nothing yet
        self._lock = threading.RLock()  # the fields below
        self._gate = threading.Lock()  # the device: a measured point and a run exclude each other
        self._job: ProfileJob | AdaptiveProfileJob | None = None
        self._knowledge: dict[str, Knowledge] = {}  # by device: what is known stays when its device is left
        self._kept: tuple[object, object, object] = (
            None,
            None,
            None,
        )  # (job, ensemble, knowledge) merged last
        self._plan: Plan | None = None
        self._previous_plan: Plan | None = None
        self._proof: tuple[Mapping[str, CostModel], float] | None = None  # the last bound for all plans, and of what
        self._search_job: SearchJob[Plan] | None = None
        self._last_limits = Limits()  # of the last plan that was searched: what it keeps to, refinement keeps to
        self._last_quantile: Quantile = "median"
        self._plan_from_job: object = None  # the background search that may still improve the plan in force
        self._executor: Executor | None = None
        self._report: RunReport | None = None
        self._comparison: Comparison | None = None
        self._numerics: GateVerdict | None = None
        self._mechanisms: MechanismTable | None = None
        self.marks = MarkLog()
        self._watching = Watching(lambda: self.device, self._workers_now)
        self._unmarked: Any = None  # the profile job whose end has no mark yet
        self._tuning: Tuning | None = None
        self._originals = Originals()
        self._put_away: dict[str, Plan | None] = {}  # by device: the plan that was in force when it was left

    # --- where ---------------------------------------------------------------------------------------------------

    def offers(self, *, test: bool = True) -> tuple[Offer, ...]:
        """What this machine could share, the best first: see `esen_lab.offers`."""
        return offers(test=test)

    def use_device(self, device: str | Device | None) -> DeviceChange:
        """Go on with another device. Its lanes end, the sub-models stay.

        Measurements hold for the device they were made on: those of the new one come from the store as far as it has
        them. A plan for another device is put away, and is there again when its device is chosen again.

        Args:
            device: As for `Lab`.

        Raises:
            UsageError: The device is unknown, or something is still being measured.
            DeviceError: Something that it needs is missing. The lab stays on the device it had.
        """
        if self._job is not None and not self._job.done:
            raise UsageError(
                "The device is changed while nothing is being measured on it",
                given="a profile that is still running",
                hint="Wait for it, or cancel it: %esen cancel, or job.cancel().",
            )
        chosen = open_device(device)
        with self._gate:
            searching = self._search_job
            if searching is not None:
                searching.cancel()
            with self._lock:
                before = self.device
                same = before.identity == chosen.identity
                plan = self._put_away[device_key(before.identity)] = self._plan
                self._keep_finished()
                executor, self._executor = self._executor, None
            if executor is not None:
                executor.close()
            self._watching.close()
            if before is not chosen:
                before.close()
            with self._lock:
                self.device = chosen
                self._plan_from_job = self._previous_plan = None
                self._report = self._comparison = self._numerics = self._mechanisms = None
                if not same:
                    self._job = None
                    self._tuning = self._proof = None
                    if self._keep_finished() is None and self._ensemble.submodels:
                        stored = stored_profile(self._ensemble, chosen, self._opened_store())
                        self._here.merge(self._ensemble, stored)
                    back = self._put_away.get(device_key(chosen.identity))
                    self._plan = back if back is not None and fits(back, self._ensemble, chosen) else None
        known = self.measurements
        profiled = {name: 0 if known is None else len(known.of(name)) for name in self._ensemble.names}
        put_away = plan if not same and plan is not None else None
        return DeviceChange(
            before=before.identity.to_dict(),
            after=chosen.identity.to_dict(),
            device_notes=chosen.notes,
            profiled=profiled,
            plan=self._plan,
            put_away=put_away,
            notes=tuple(meaning_of_change(profiled, put_away, self._plan, same=same)),
        )

    def _opened_store(self) -> ProfileStore:
        if self._store is None:
            self._store = ProfileStore(self._store_path or default_store_path())
        return self._store

    def leave_gpu(self) -> tuple[str, ...]:
        """Move the notebook's own registered modules from GPUs to the CPU; lanes have copies of their own.

        What the notebook computes on a GPU is time-sliced against all lanes there. Memory that this frees is given
        back; the CUDA context itself (some hundred megabytes) goes with a restart of the kernel.

        Returns:
            The names of the sub-models whose modules were moved.
        """
        return self._originals.leave_gpu()

    # --- who -----------------------------------------------------------------------------------------------------

    @property
    def ensemble(self) -> Ensemble:
        """The registered sub-models, in order, and the combine rule."""
        return self._ensemble

    def register(
        self,
        name: str,
        source: Any,
        example: Tree = None,
        *,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        namespace: Mapping[str, Any] | None = None,
    ) -> SubModel:
        """Add a sub-model; one of the same name is replaced, in its place.

        Args:
            name: How it is called; see `esen_lab.units.NAME_RULE`.
            source: An `nn.Module`, a callable that returns one, "package.module:factory", or the text of a cell.
            example: An input it takes (tensor; tuple or list by position; dict by keyword). None: the example of the
                first registered sub-model.
            args: Positional arguments of a factory.
            kwargs: Keyword arguments of a factory.
            namespace: The names that the text of a cell may use.

        Raises:
            UsageError: The name, source or example is unfit; the message says how.
            ModelError: Building the module, or running it on the example, raised.
        """
        if example is None:
            if not self._ensemble.submodels:
                raise UsageError(
                    "The first sub-model needs an example input",
                    given=f"none for {name!r}",
                    hint="Pass example=..., a tensor, or a tuple or dict of tensors.",
                )
            example = self._ensemble.submodels[0].example
        submodel = make_submodel(name, source, example, args=args, kwargs=kwargs, namespace=namespace)
        with self._lock:
            self._ensemble = self._ensemble.with_submodel(submodel)
            self._originals.replace(name, source)
        self._nursery.warm()  # imports torch in the background while the user goes on
        return submodel

    def unregister(self, name: str) -> None:
        """Remove a sub-model.

        Raises:
            UsageError: There is none of that name.
        """
        with self._lock:
            self._ensemble = self._ensemble.without(name)
            self._originals.replace(name)

    def combine(self, rule: str | Callable[..., Any], weights: Any = None) -> Combine:
        """Choose how outputs become one.

        Args:
            rule: "mean", "softmax-mean", "weighted", "majority", "stack", a callable, or "package.module:function".
            weights: For "weighted": one number per sub-model, by name or in order.

        Raises:
            UsageError: The rule is unknown or the weights do not fit.
        """
        chosen = make_combine(rule, weights=weights)
        with self._lock:
            self._ensemble = self._ensemble.with_combine(chosen)
        return chosen

    # --- measure -------------------------------------------------------------------------------------------------

    def profile(
        self,
        names: Sequence[str] | None = None,
        *,
        shares: Sequence[int] | None = None,
        budget_s: float = 1.0,
        point_timeout_s: float = 60.0,
        fresh: bool = False,
        adaptive: bool = False,
        within: float = 0.02,
        limits: Limits | Mapping[str, Any] | None = None,
    ) -> ProfileJob | AdaptiveProfileJob:
        """Measure sub-models at several shares, in the background; returns at once.

        Args:
            names: Which; None: all.
            shares: At how many units; None: all shares of a small device, a choice of a large one.
            budget_s: Time for each point after its warm-up; less is used once the median is known to 2 %.
            point_timeout_s: A point that takes longer is given up, and says so.
            fresh: Measure again what the store has.
            adaptive: Measure three shares of each, then only what the best plan rests on or could rest on, until no
                further point can make the plan better by more than `within`. `shares` are then those that may be
                measured.
            within: See `adaptive`, as a fraction.
            limits: With `adaptive`, what the plan will have to keep to; see `search`.

        Returns:
            The job: `snapshot()`, `result(timeout=...)`, `cancel()`.

        Raises:
            UsageError: Nothing is registered, a name or share is unknown, or a job is still running.
        """
        with self._lock:
            self._need_submodels("profile")
            if self._job is not None and not self._job.done:
                raise UsageError(
                    "One profile job runs at a time",
                    given="a second one",
                    hint="Wait for the first (job.result()) or cancel it (job.cancel()).",
                )
            self._keep_finished()

            def start(names: Sequence[str] | None, shares: Sequence[int] | None) -> ProfileJob:
                return start_profile(
                    ensemble,
                    self.device,
                    self._nursery,
                    store,
                    names=names,
                    shares=shares,
                    budget_s=budget_s,
                    point_timeout_s=point_timeout_s,
                    fresh=fresh,
                    gate=lambda: self._gate,
                )

            ensemble, store = self._ensemble, self._opened_store()
            if adaptive:
                self._job = AdaptiveProfileJob(
                    lambda names, share: start(names, [share]),
                    ensemble.names if names is None else [ensemble.get(name).name for name in names],
                    self.device.units,
                    default_shares(self.device.units) if shares is None else shares,
                    within=within,
                    limits=limits,
                )
            else:
                self._job = start(names, shares)
            self.marks.add("profile", "begin")
            self._unmarked = self._job
            return self._job

    @property
    def job(self) -> ProfileJob | AdaptiveProfileJob | None:
        """The last profile job."""
        return self._job

    @property
    def measurements(self) -> Profile | None:
        """All points of finished jobs that still fit the registered sub-models, or None."""
        return self._keep_finished()

    @property
    def _here(self) -> Knowledge:
        """What is known on the device in use."""
        with self._lock:
            return self._knowledge.setdefault(device_key(self.device.identity), Knowledge())

    def _keep_finished(self) -> Profile | None:
        """All points that are known here, those of a finished job among them."""
        with self._lock:
            job = self._job if self._job is not None and self._job.done else None
            state = job, self._ensemble, self._here
            if any(new is not old for new, old in zip(state, self._kept, strict=True)):  # asked at every look
                self._here.merge(self._ensemble, _result_of(job))
                self._kept = state
            return self._here.measured

    # --- choose --------------------------------------------------------------------------------------------------

    def fit(self, quantile: Quantile = "median") -> dict[str, CostModel]:
        """A cost model per sub-model, from the measured points.

        Args:
            quantile: "median", or "q90" to plan noisy sub-models with their 90th percentile.

        Raises:
            UsageError: Some sub-model has not been measured, or the quantile is unknown.
        """
        self._need_submodels("fit")
        profile = self.measurements
        measured = set() if profile is None else set(profile.names)
        missing = [name for name in self._ensemble.names if name not in measured]
        if profile is None or missing:
            busy = self._job is not None and not self._job.done
            raise UsageError(
                "Every sub-model is profiled before a plan is searched",
                given=f"no finished measurement of {', '.join(missing)}",
                hint="Profiling is still running: wait for it." if busy else "Run lab.profile(), or %esen profile.",
            )
        return self._here.fit(profile, self._ensemble, self.device, self._opened_store(), quantile)

    def _models(self, quantile: Quantile = "median") -> dict[str, CostModel]:
        """What plans are made from: the cost models of sub-models as they are executed."""
        self._need_submodels("plan")
        return self._here.executed(self.fit(quantile), self._ensemble)

    def _as_executed(self, plan: Plan) -> Plan:
        return plan.with_mechanisms({name: way for name, (way, _, _) in self._here.ways(self._ensemble).items()})

    def fit_so_far(self) -> dict[str, CostModel]:
        """Cost models of the sub-models that two points or more are known of, those of a running job included."""
        measured, job = self.measurements, self._job
        points = [] if measured is None else list(measured.points)
        points += [] if job is None else job.snapshot().points
        return fit_so_far(points, self._ensemble, self.device.units)

    def search(
        self,
        searcher: str = "exact",
        *,
        limits: Limits | Mapping[str, Any] | None = None,
        quantile: Quantile = "median",
        objective: str = "predicted",
        x: Tree = None,
        runs: int = 9,
        on_progress: Callable[[Progress], None] | None = None,
        **options: Any,
    ) -> Plan:
        """Find a plan for the measured sub-models; it becomes `plan`. `start_search` does it in the background.

        Args:
            searcher: "exact", "optuna", ...; see `esen_lab.search.SEARCHERS`.
            limits: What the plan must keep to: an `esen_lab.search.Limits`, or a mapping of its attributes. Under a
                memory limit, what the sub-models take comes from the profile.
            quantile: Plan with the "median" latency, or with "q90", the 90th percentile.
            objective: "predicted" by the cost models, or "measured": every candidate is run, as nothing else runs. Only
                searchers that try plans can, such as "optuna" (40 trials if you name no number).
            x: The input to measure with; None for the example.
            runs: How many runs of a candidate its median is taken from; hopeless ones get fewer.
            on_progress: Called with a `Progress` whenever the search gets further.
            **options: The searcher's own.

        Raises:
            UsageError: Something is not profiled, or the searcher, an option or a limit is unknown.
            InfeasibleError: No plan keeps every limit; the message says which one fails, and by how much.
            KeyboardInterrupt: It came before there was any plan; later, the best so far is returned, and says so.
        """
        asked = Asked(
            searcher=searcher, limits=limits, quantile=quantile, objective=objective, x=x, runs=runs, options=options
        )
        plan = self._bound(asked)(on_progress=on_progress)
        self._take_found(plan, asked)
        return plan

    def start_search(
        self,
        searcher: str = "exact",
        *,
        limits: Limits | Mapping[str, Any] | None = None,
        quantile: Quantile = "median",
        objective: str = "predicted",
        x: Tree = None,
        runs: int = 9,
        **options: Any,
    ) -> SearchJob[Plan]:
        """Search in the background; returns at once. Arguments and what is raised now are those of `search`.

        The first plan found becomes `plan` as soon as it is there, every better one takes its place, and so does what
        the proof ends with. A plan that is set by hand meanwhile stays; a second search ends the first.
        The exact searcher goes on for a minute unless `time_limit_s` says otherwise.

        Returns:
            The job: `snapshot()`, `best`, `result(timeout=...)`, `cancel()`. An `InfeasibleError` comes with `result`.
        """
        if searcher == "exact":
            options = {"time_limit_s": BACKGROUND_SEARCH_S, **options}
        asked = Asked(
            searcher=searcher, limits=limits, quantile=quantile, objective=objective, x=x, runs=runs, options=options
        )
        run = self._bound(asked)
        mine = object()

        def keep(plan: Plan) -> None:
            with self._lock:
                if self._plan_from_job is mine:
                    self._take_found(plan, asked)
                    self._plan_from_job = mine

        def work(on_better: Callable[[Plan], None], **watched: Any) -> Plan:
            def better(plan: Plan) -> None:
                keep(plan)
                on_better(plan)

            plan = run(on_better=better, **watched)
            keep(plan)
            return plan

        with self._lock:
            before, self._plan_from_job = self._search_job, mine
            if before is not None:
                before.cancel()
            self._search_job = SearchJob(work)
            return self._search_job

    def _take_found(self, plan: Plan, asked: Asked) -> None:
        with self._lock:
            self.plan = plan
            self._last_limits, self._last_quantile = Limits.of(asked.limits), asked.quantile

    def _bound(self, asked: Asked) -> Callable[..., Plan]:
        """The search with everything bound; what it proves of all plans is kept for the sliders."""
        models = self._models(asked.quantile)
        run = bind_search(asked, models, self._ensemble, self.device, self.measurements, self._lane_runs)

        def proving(**watched: Any) -> Plan:
            plan = run(**watched)
            if asked.free and plan.bound_s is not None:
                with self._lock:
                    self._proof, tuning = (models, plan.bound_s), self._tuning
                if tuning is not None:
                    tuning.proved(models, plan.bound_s)
            return plan

        return proving

    def _lane_runs(self, ensemble: Ensemble, x: Tree, runs: int) -> LaneRuns:
        """What runs plans to measure them, as nothing else runs."""
        return LaneRuns(ensemble, self.device, self._nursery, lambda: self._gate, x=x, runs=runs)

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
            limits: As for `search`; None for those of the last search that found a plan.
            on_round: Called with all rounds so far whenever one is done.
            stop: Set it, from another thread, to end early.

        Raises:
            UsageError: Something is not profiled, or a number is not possible.
            EsenError: The plan could not be run.
        """
        models = self._models(self._last_quantile)
        ensemble = self._ensemble if self.plan is None else members_run_by(self.plan, self._ensemble)
        models = {name: models[name] for name in ensemble.names}
        asked = self._last_limits if limits is None else Limits.of(limits)
        held, notes = with_memory(asked, ensemble, self.measurements)
        held.check(ensemble.names, self.device.units)
        lanes = self._lane_runs(ensemble, x, runs)
        first = self.plan or self.search(limits=asked, quantile=self._last_quantile)
        self._check_fits(first)
        known = {**origin(ensemble, self.device), "left_out": first.left_out}

        def as_plan(found: Allocation, corrected: Mapping[str, CostModel]) -> Plan:
            told = (*notes, "predicted by cost models corrected by measured runs")
            return plan_of_allocation(found, corrected, self.device.units, notes=told, created_at=now(), **known)

        refined = refine_plan(
            first,
            models,
            lanes,
            as_plan,
            most_rounds=rounds,
            least_gain=least_gain,
            limits=held,
            stop=stop,
            on_round=on_round,
        )
        self.plan = refined.plan
        return refined

    def members(
        self, x: Tree, y: Any, *, batch: int | None = None, quantile: Quantile = "median", seed: int = 0
    ) -> Front:
        """Which members at all: the subsets that no other beats in accuracy and predicted JCT at once.

        Every member runs once on the validation data. Exact up to 12 members, NSGA-II beyond. `take` puts one of
        `choices` in force; its plan leaves the other members out.

        Args:
            x: Validation data, samples along the first dimension.
            y: The right class of each sample.
            batch: How many samples at once; None for as many as the example holds, at least 64.
            quantile: As for `search`.
            seed: Of NSGA-II.

        Raises:
            UsageError: Something is not profiled, data and labels do not fit, or the outputs or the combine rule are
                not those of a classifier.
            EsenError: A member could not be run.
        """
        models = self._models(quantile)
        found = self._answers(x, batch)
        return front_of_members(models, self.device.units, found, labels_of(y, found.samples), seed=seed)

    def _answers(self, x: Tree, batch: int | None) -> Answers:
        return answers(self._ensemble, self.device, self._nursery, lambda: self._gate, x, batch=batch)

    def place(self, devices: int | Mapping[str, Any], *, quantile: Quantile = "median") -> Placement:
        """Spread the sub-models over several devices: placement, lanes and shares together. Planned, not run.

        Args:
            devices: How many devices like this one; or, by name, what is known of each: a `Profile` (such as another
                lab's `measurements`), or for each sub-model its seconds at 1..units units.
            quantile: As for `search`.

        Raises:
            UsageError: Something is not profiled, or a device does not know every sub-model.
        """
        models = self._models(quantile)
        return place(device_tables(devices, models, self.device.units, quantile))

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
            quantile: As for `search`.

        Raises:
            UsageError: Something is not profiled, an argument is not possible, or the combine rule gives no scores.
            EsenError: A member could not be run.
        """
        models = self._models(quantile)
        found = self._answers(x, batch)
        if stage_overhead_s is None:
            stage_overhead_s = 0.0 if self._report is None else max(0.0, self._report.overhead_s)
        return cascade_of_members(
            models,
            self.device.units,
            found,
            threshold,
            order=order,
            labels=None if y is None else labels_of(y, found.samples),
            stage_overhead_s=stage_overhead_s,
        )

    def plan_of(self, found: Choice | Placement | Cascade) -> Plan:
        """The plan of a point of a front, of a placement or of a cascade; it is not put in force.

        Raises:
            UsageError: It is none of these, or one of other sub-models.
        """
        names = self._ensemble.names
        if isinstance(found, Choice):
            known = {**origin(self._ensemble.only(found.names), self.device), "created_at": now()}
            return self._as_executed(plan_of_choice(found, names, self.device.units, **known))
        known = {**origin(self._ensemble, self.device), "created_at": now()}
        if isinstance(found, Placement):
            return self._as_executed(plan_of_placement(found, **known))
        if isinstance(found, Cascade):
            return self._as_executed(plan_of_cascade(found, self.device.units, **known))
        raise UsageError(
            "A plan is made of a choice of members, a placement or a cascade",
            given=type(found).__name__,
            hint="Such as lab.members(x, y).choices[0].",
        )

    def take(self, choice: Choice) -> Plan:
        """Put a point of a front in force: from now on only its members run.

        Raises:
            UsageError: It is no choice of members of this ensemble.
        """
        self.plan = plan = self.plan_of(choice)
        return plan

    @property
    def search_job(self) -> SearchJob[Plan] | None:
        """The last background search."""
        return self._search_job

    @property
    def plan(self) -> Plan | None:
        """The plan in force. Setting one swaps it in at the next run; if its lanes cannot start, the old one stays."""
        return self._plan

    @plan.setter
    def plan(self, plan: Plan) -> None:
        if not isinstance(plan, Plan):
            raise UsageError("A lab's plan is a Plan", given=type(plan).__name__)
        self._check_fits(plan)
        with self._lock:
            if self._executor is not None and not self._executor.broken:
                self._previous_plan = self._executor.plan
            self._plan = plan
            self._plan_from_job = None
            tuning = self._tuning
        self.marks.add("plan")
        if tuning is not None:
            tuning.follow(plan)

    def tune(self) -> Tuning:
        """The lab's one tuning: move shares and sub-models, see the predicted JCT at once, propose, apply, measure.

        Every call gives the same object, so that all panels and magics show the same; it follows new measurements.
        What the plan in force leaves out stays out.

        Raises:
            UsageError: Some sub-model has not been measured.
        """
        models = self._models()
        with self._lock:
            left_out = () if self._plan is None else self._plan.left_out
            models = {name: model for name, model in models.items() if name not in left_out}
            tuning = self._tuning
            if tuning is None:
                tuning = self._tuning = Tuning(models, self.device.units, start=self._plan, bench=LabBench(self))
            proof = self._proof
        tuning.renew(models)
        if proof is not None:
            tuning.proved(*proof)
        return tuning

    def apply(self, plan: Plan) -> None:
        """Put a plan in force and have its lanes running, in the place of those that run now.

        Raises:
            UsageError: It covers other sub-models, or needs a larger device.
            EsenError: Its lanes could not start. The plan before it stays in force.
        """
        self._check_fits(plan)
        with self._gate:
            before = self._plan
            self.plan = plan
            try:
                self._ready_executor()
            except BaseException:
                with self._lock:
                    if self._plan is plan:
                        self._plan = before
                raise

    def _check_fits(self, plan: Plan) -> None:
        check_fits(plan, self._ensemble, self.device)

    # --- run -----------------------------------------------------------------------------------------------------

    def run(self, x: Tree, timeout_s: float | None = None) -> Tree:
        """Run the ensemble on one batch under the plan; without a plan, one sub-model after another.

        Args:
            x: The input, as the examples; NumPy arrays are welcome.
            timeout_s: Deadline; None: ten minutes.

        Returns:
            The combined output. What happened is in `report`.

        Raises:
            UsageError: Nothing is registered, or the input does not fit.
            EsenError: A lane failed. A later run starts afresh what is broken.
        """
        self._need_submodels("run")
        limit = DEFAULT_TIMEOUT_S if timeout_s is None else timeout_s
        with self._gate:
            executor, notes = self._ready_executor()
            self.marks.add("run", pause_s=1.0)
            output, report = executor.run(x, timeout_s=limit)
        self._report = replace(report, notes=(*notes, *report.notes)) if notes else report
        return output

    @property
    def report(self) -> RunReport | None:
        """What happened in the last run."""
        return self._report

    def wrong_answers(self, plan: Plan) -> tuple[str, ...]:
        """For each sub-model that a plan gives a share at which its answers were found wrong, a sentence."""
        self._keep_finished()
        unit = self.device.identity.unit
        return tuple(
            f"WRONG ANSWERS were found for {name} with {format_units(units, unit)}: search again, or move it."
            for name, units in self._here.wrong_in(plan, self._ensemble)
        )

    def _ready_executor(self) -> tuple[Executor, tuple[str, ...]]:
        """Warm lanes for the plan in force, started or swapped in as needed, and remarks for the report.

        The caller holds the gate, so only one thread at a time is in here; the lock is not held while lanes start, so
        that status and sliders stay live.
        """
        with self._lock:
            ensemble = self._ensemble
            plan = self._plan
            current = self._executor
        notes: tuple[str, ...] = ()
        if plan is None:
            plan = sequential_plan(ensemble.names, self.device.units)
            notes = ("No plan yet: the sub-models run one after another. Profile and search for a better one.",)
        else:
            self._check_fits(plan)
            changed = changed_since(plan, ensemble)
            ensemble = members_run_by(plan, ensemble)
            if changed:
                notes = (f"The plan was made before {', '.join(changed)} changed: profile and search again.",)
        notes = (*notes, *self.wrong_answers(plan))
        if current is not None and current.broken:
            current.close()
            current = None
        if current is not None and same_work(current, plan, ensemble):
            current.ensemble = ensemble  # the combine rule may be another
            current.plan = plan
            return current, notes
        try:
            started = Executor.start(plan, ensemble, self.device, self._nursery)
        except EsenError as problem:
            with self._lock:
                if current is not None and self._plan is plan and self._previous_plan is not None:
                    self._plan = self._previous_plan
                    problem.add_note("The plan before it stays in force, its lanes warm.")
            raise
        with self._lock:
            self._executor = started
            self._previous_plan = None
        if current is not None:
            current.close()
        return started, notes

    def compare(
        self,
        x: Tree,
        *,
        rounds: int = 20,
        strategies: Sequence[str] | None = None,
        plans: Mapping[str, Plan | str | os.PathLike[str]] | None = None,
        budget_s: float = 120.0,
        on_progress: Callable[[int, int, str], None] | None = None,
    ) -> Comparison:
        """Run the plan and the usual ways to run an ensemble on the same input, in the same rounds.

        Args:
            x: The input.
            rounds: How many rounds.
            strategies: Which baselines (see `esen_lab.runtime.STRATEGIES`); None: all.
            plans: Further plans to compare with, by names of your own: a draft of `tune`, one of another searcher, or
                the path of one that was saved.
            budget_s: No further round starts after this many seconds.
            on_progress: Called with (done, all, what is going on).

        Raises:
            UsageError: A strategy is unknown, there is nothing to compare, or a plan is not one for these sub-models.
            EsenError: The plan could not be run.
        """
        self._need_submodels("compare")
        others = {name: p if isinstance(p, Plan) else Plan.load(p) for name, p in (plans or {}).items()}
        for other in others.values():
            self._check_fits(other)
        with self._gate, self.marks.around("compare"):
            executor, notes = self._ready_executor()
            found = compare(
                x,
                executor.plan,
                executor.ensemble,
                self.device,
                self._nursery,
                rounds=rounds,
                strategies=strategies,
                plans=others,
                budget_s=budget_s,
                chosen=executor,
                on_progress=on_progress,
            )
        self._comparison = replace(found, notes=(*notes, *found.notes))
        return self._comparison

    @property
    def comparison(self) -> Comparison | None:
        """The last comparison."""
        return self._comparison

    def choose_mechanisms(
        self,
        *,
        mechanisms: Sequence[str] | None = None,
        budget_s: float = 0.5,
        on_progress: Callable[[int, int, str], None] | None = None,
    ) -> MechanismTable:
        """Measure how each sub-model of the plan is executed fastest at its share, and keep that in the plan.

        Eagerly, by `torch.compile`, or as a CUDA graph; each must answer as it does eagerly. Later plans of this lab
        execute a sub-model in the way chosen here too, and predict with the time that it takes.

        Args:
            mechanisms: Which of "eager", "compile" and "graph"; None: all. "eager" is always among them, so that
                ("eager",) puts all back to it.
            budget_s: Seconds of repeats for each way; compiling comes on top.
            on_progress: Called with (done, all, what is going on).

        Raises:
            UsageError: There is no plan, or no such mechanism.
            EsenError: A sub-model could not be run eagerly either.
        """
        plan = self._need_plan("execute in other ways")
        fingerprints = self._ensemble.fingerprints
        shares = [(name, lane.units) for lane in plan.lanes if lane.mode != "vmap" for name in lane.members]
        with self._gate, self.marks.around("mechanisms"):
            models = [(self._ensemble.get(name), units) for name, units in shares]
            found = measure_mechanisms(
                models,
                self.device,
                self._nursery,
                mechanisms=MECHANISMS if mechanisms is None else mechanisms,
                budget_s=budget_s,
                on_progress=on_progress,
            )
        with self._lock:
            current = self._plan  # a search may have found a better one meanwhile
            plan = current if current is not None and set(current.names) == set(plan.names) else plan
            before = {name: part for name, (_, part, _) in self._here.ways(self._ensemble).items()}
            self._here.choose(found, fingerprints, dict(shares))
            self.plan = executed(plan, found, before)
            self._mechanisms = found
        return found

    @property
    def mechanisms(self) -> MechanismTable | None:
        """What the last `choose_mechanisms` measured."""
        return self._mechanisms

    def check_numerics(
        self, x: Tree = None, *, runs: int = 5, on_progress: Callable[[int, int, str], None] | None = None
    ) -> GateVerdict:
        """Compare every sub-model's answers under the plan with those of the whole device, all lanes at work.

        A share with wrong answers is used by no later search, for this sub-model on this device in this lab, as long
        as it is executed in the way that was wrong; eager answers that are wrong rule a share out for all ways.
        `forget_wrong` lifts that.

        Args:
            x: The input; None for the example.
            runs: How many runs are compared, at least 1.
            on_progress: Called with (done, all, what is going on).

        Raises:
            UsageError: There is nothing to run.
            EsenError: The plan could not be run.
        """
        self._need_submodels("check the answers of")
        with self._gate, self.marks.around("check"):
            here = self._here  # the device may be another when the gate is open again
            executor, notes = self._ready_executor()
            fingerprints = executor.ensemble.fingerprints
            found = check_numerics(
                executor.plan,
                executor.ensemble,
                self.device,
                self._nursery,
                x=x,
                runs=runs,
                executor=executor,
                on_progress=on_progress,
            )
        here.keep_wrong(found.wrong, fingerprints)
        ruled_out = here.wrong(self._ensemble)
        if any(row.units in ruled_out.get(row.name, set()) for row in found.wrong):
            notes = (*notes, "Searches keep off these shares from now on: search again.")
        self._numerics = replace(found, notes=(*notes, *found.notes))
        return self._numerics

    def forget_wrong(self, names: Sequence[str] | None = None) -> dict[str, tuple[int, ...]]:
        """Let searches use shares again at which `check_numerics` found wrong answers, such as after an update.

        What a profile found wrong is measured anew with `profile(fresh=True)`.

        Args:
            names: Of which sub-models; None: of all.

        Returns:
            For each of them that had such shares, which, in units.

        Raises:
            UsageError: A name is unknown.
        """
        return self._here.forget_wrong(self._ensemble, self._ensemble.names if names is None else names)

    @property
    def numerics(self) -> GateVerdict | None:
        """The last verdict of `check_numerics`."""
        return self._numerics

    # --- keep ----------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the plan as JSON.

        Raises:
            UsageError: There is no plan.
            StoreError: The file cannot be written.
        """
        return self._need_plan("save").save(path)

    def load(self, path: str | os.PathLike[str]) -> Plan:
        """Read a plan that `save` wrote; it becomes `plan`. What differs from here is said in its notes.

        Raises:
            StoreError: The file is unreadable or damaged.
            UsageError: It covers other sub-models, or needs a larger device. The plan in force stays.
        """
        plan = Plan.load(path)
        self._check_fits(plan)
        here = differences(plan, self._ensemble, self.device)
        news = [difference for difference in here if difference not in plan.notes]
        plan = replace(plan, notes=(*plan.notes, *news))
        self.plan = plan
        return plan

    def record(self, path: str | os.PathLike[str]) -> Path:
        """Write the measured latencies as JSON, to plan for this device elsewhere: `Lab(device="fake:PATH")` there.

        Raises:
            UsageError: Nothing has been measured.
            StoreError: The file cannot be written.
        """
        measured = self.measurements
        if measured is None or not measured.points:
            raise UsageError("What is recorded has been measured", given="no point", hint="Profile first.")
        target = Path(path)
        try:
            target.write_text(json.dumps(measured.recorded(), indent=1) + "\n", encoding="utf-8")
        except OSError as problem:
            raise StoreError(f"A record can be written: {problem.strerror}", given=str(path)) from problem
        return target

    def export(self, path: str | os.PathLike[str], plan: Plan | None = None) -> Exported:
        """Write the plan as a script that runs without Jupyter, with everything it needs beside it.

        Args:
            path: The script, such as "plan.py".
            plan: Which plan; None: the one in force.

        Raises:
            UsageError: There is no plan, or a sub-model cannot be rebuilt from what may be saved.
            StoreError: The files cannot be written.
        """
        from esen_lab.export import export_plan

        plan = self._need_plan("export") if plan is None else plan
        self._check_fits(plan)
        return export_plan(plan, members_run_by(plan, self._ensemble), path)

    # --- the lab itself ------------------------------------------------------------------------------------------

    def status(self) -> Status:
        """Where the lab stands and what to do next."""
        measured = self.measurements
        with self._lock:
            job = "" if self._job is None else self._job.snapshot().message
            return Status(
                device=self.device.identity.to_dict(),
                device_notes=self.device.notes,
                submodels=tuple(submodel.to_dict() for submodel in self._ensemble.submodels),
                combine=self._ensemble.combine.describe(),
                profiled={name: 0 if measured is None else len(measured.of(name)) for name in self._ensemble.names},
                job=job,
                plan=self._plan,
                running=self._executor is not None and not self._executor.broken,
                next_step=self._next_step(measured),
            )

    def _next_step(self, measured: Profile | None) -> str:
        if not self._ensemble.submodels:
            return "Register a sub-model: %esen register NAME --example EXPR"
        if self._job is not None and not self._job.done:
            return "Profiling runs in the background: wait, or %esen cancel"
        if measured is None or any(not measured.of(name) for name in self._ensemble.names):
            return "Measure the sub-models: %esen profile"
        if self._plan is None or {*self._plan.names, *self._plan.left_out} != set(self._ensemble.names):
            return "Find a plan: %esen search"
        if self._report is None:
            return "Run the ensemble: %esen run x"
        if self._comparison is None:
            return "Compare with how you run it today: %esen compare x"
        return "Keep the plan: %esen export plan.py"

    def watch(self, interval_s: float = 0.5, history_s: float = 1800.0) -> Sampler:
        """Read the device in the background: utilization, memory, what each worker takes.

        One more viewer of this lab's sampler, which the first one starts. `unwatch` is its end.

        Args:
            interval_s: Seconds between samples, 0.05 to 60. Another interval than before begins a new history.
            history_s: How much is kept, in seconds.

        Returns:
            The sampler: `last`, `samples()`, `channels`. What began and ended meanwhile is in `marks`.

        Raises:
            UsageError: An argument is out of range, or others watch at another rate.
            DeviceError: Nothing can be read here.
        """
        return self._watching.begin(interval_s, history_s)

    @property
    def watched(self) -> tuple[float, float] | None:
        """The interval and the history, in seconds, at which the device is watched; None when nobody does."""
        return self._watching.rate

    def unwatch(self) -> None:
        """One viewer less; the last one ends the sampling. The history stays until `close`."""
        self._watching.end()

    def glance(self) -> dict[str, float]:
        """What the device is doing now, by channel: from those who watch, else a reading of its own.

        Cheap enough for a few calls a second; readings of its own are at least half a second apart. A percentage is
        over the time since the reading before, so the first call may have none. Empty where nothing can be read.
        """
        return self._watching.glance()

    def free_bytes(self) -> int | None:
        """The device's free memory, or None where it cannot be told."""
        ask = getattr(self.device, "free_bytes", None)
        if ask is not None:
            found: int | None = ask()
            return found
        total = self.device.identity.details.get("memory_bytes", "")
        used = [value for key, value in self.glance().items() if re.fullmatch(r"gpu\d+memory", key)]
        return int(total) - int(used[0]) if total and len(used) == 1 else None

    def in_force(self) -> tuple[tuple[Lane, str], ...]:
        """For each warm lane, what its worker found in force; empty where no lanes are warm."""
        executor = self._executor
        if executor is None or executor.broken:
            return ()
        return tuple(zip(executor.plan.lanes, executor.in_force, strict=True))

    def measured_s(self) -> float | None:
        """The JCT of the last run, where it was a run of the lanes in force."""
        report, plan = self._report, self._plan
        if report is None or plan is None:
            return None
        ran = [(lane.units, lane.members) for lane in report.lanes]
        return report.jct_s if ran == [(lane.units, lane.members) for lane in plan.lanes] else None

    def _workers_now(self) -> Sequence[tuple[str, int]]:
        job = self._unmarked
        if job is not None and job.done:
            self._unmarked = None
            self.marks.add("profile", "end")
        return self._nursery.processes

    def close(self) -> None:
        """End every process and job of this lab. It may be used again afterwards."""
        self._watching.close()
        job = self._job
        if job is not None and not job.done:
            job.cancel()
        searching = self._search_job
        if searching is not None:
            searching.cancel()
        self._nursery.close()  # a run that is under way in another thread fails now and lets go of the device
        if job is not None:
            with contextlib.suppress(EsenError, TimeoutError):
                job.result(timeout=5.0)
        if searching is not None:
            searching.wait(timeout=5.0)
        with self._gate, self._lock:
            executor, self._executor = self._executor, None
            store, self._store = self._store, None
        if executor is not None:
            executor.close()
        self._nursery.close()  # whatever was being started meanwhile
        if store is not None:
            store.close()
        self.device.close()

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        identity = self.device.identity
        names = ", ".join(self._ensemble.names) or "no sub-models yet"
        return f"<Lab on {identity.name} ({format_units(identity.units, identity.unit)}): {names}>"

    def _need_submodels(self, what: str) -> None:
        if not self._ensemble.submodels:
            raise UsageError(
                f"There is something to {what} once a sub-model is registered",
                given="zero sub-models",
                hint="Register one: lab.register(name, module, example=x), or %esen register NAME --example x.",
            )

    def _need_plan(self, what: str) -> Plan:
        if self._plan is None:
            raise UsageError(
                f"There is something to {what} once there is a plan",
                given="no plan yet",
                hint="Profile and search first: lab.profile().result(); lab.search().",
            )
        return self._plan


def _result_of(job: ProfileJob | AdaptiveProfileJob | None) -> Profile | None:
    """What a finished job measured, or None."""
    if job is None:
        return None
    try:
        return job.result(timeout=0)
    except EsenError:
        return None  # it was cancelled, or failed, before its first point
