"""The lab: one ensemble on one device, one short method per stage. The only mutable object of the package.

    register -> profile -> fit -> search -> run / compare -> save / export

Every method works from plain Python and from several threads; the notebook's magics call nothing else.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from esen_lab.devices import Device, open_device
from esen_lab.ensemble import Combine, Ensemble, SubModel, make_combine, make_submodel
from esen_lab.errors import EsenError, UsageError
from esen_lab.fitting import CostModel, fit
from esen_lab.planning import Lane, Plan, sequential_plan
from esen_lab.profiling import Profile, ProfileJob, ProfileStore, default_store_path, start_profile
from esen_lab.runtime import Comparison, Executor, Nursery, RunReport, compare
from esen_lab.runtime.executor import DEFAULT_TIMEOUT_S, example_of
from esen_lab.search import search
from esen_lab.trees import Tree, tree_spec
from esen_lab.tuning import Tuning

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from esen_lab.export import Exported
    from esen_lab.search import Allocation


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Where a lab stands, as plain data.

    Attributes:
        device: The device's identity.
        device_notes: What limits shares on it.
        submodels: Plain rows, one per sub-model.
        combine: The combine rule.
        profiled: For each sub-model, how many shares have been measured.
        job: What the last profile job says, or "".
        plan: The plan in force, or None.
        running: Whether its lanes are warm.
        next_step: The next sensible thing to do, in words.
    """

    device: Mapping[str, Any]
    device_notes: tuple[str, ...]
    submodels: tuple[Mapping[str, Any], ...]
    combine: str
    profiled: Mapping[str, int]
    job: str
    plan: Plan | None
    running: bool
    next_step: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "device": dict(self.device),
            "device_notes": list(self.device_notes),
            "submodels": [dict(row) for row in self.submodels],
            "combine": self.combine,
            "profiled": dict(self.profiled),
            "job": self.job,
            "plan": None if self.plan is None else self.plan.to_dict(),
            "running": self.running,
            "next_step": self.next_step,
        }


class Lab:
    """One ensemble on one device.

    Args:
        device: A device's name ("cpu"), a `Device`, or None for the best one that this machine has.
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
        self._job: ProfileJob | None = None
        self._measured: Profile | None = None
        self._plan: Plan | None = None
        self._previous_plan: Plan | None = None
        self._executor: Executor | None = None
        self._report: RunReport | None = None
        self._comparison: Comparison | None = None
        self._tuning: Tuning | None = None

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
        self._nursery.warm()  # imports torch in the background while the user goes on
        return submodel

    def unregister(self, name: str) -> None:
        """Remove a sub-model.

        Raises:
            UsageError: There is none of that name.
        """
        with self._lock:
            self._ensemble = self._ensemble.without(name)

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
    ) -> ProfileJob:
        """Measure sub-models at several shares, in the background; returns at once.

        Args:
            names: Which; None: all.
            shares: At how many units; None: all shares of a small device, a choice of a large one.
            budget_s: Time for each point after its warm-up; less is used once the median is known to 2 %.
            point_timeout_s: A point that takes longer is given up, and says so.
            fresh: Measure again what the store has.

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
            if self._store is None:
                self._store = ProfileStore(self._store_path or default_store_path())
            self._job = start_profile(
                self._ensemble,
                self.device,
                self._nursery,
                self._store,
                names=names,
                shares=shares,
                budget_s=budget_s,
                point_timeout_s=point_timeout_s,
                fresh=fresh,
                gate=lambda: self._gate,
            )
            return self._job

    @property
    def job(self) -> ProfileJob | None:
        """The last profile job."""
        return self._job

    @property
    def measurements(self) -> Profile | None:
        """All points of finished jobs that still fit the registered sub-models, or None."""
        with self._lock:
            self._keep_finished()
            return self._measured

    def _keep_finished(self) -> None:
        """Merge a finished job's points, and drop those of sub-models that have changed or gone."""
        fingerprints = self._ensemble.fingerprints
        parts = [] if self._measured is None else [self._measured]
        found = _finished(self._job)
        if found is not None and found not in parts:
            parts.append(found)
        points: dict[tuple[str, int], Any] = {}
        failures: dict[tuple[str, int], Any] = {}
        examples: dict[str, str] = {}
        for part in parts:
            for name in self._ensemble.names:
                if part.fingerprints.get(name) != fingerprints[name]:
                    continue
                example = part.examples.get(name, "")
                if name in examples and examples[name] != example:
                    points = {key: value for key, value in points.items() if key[0] != name}
                examples[name] = example
                for point in part.of(name):
                    points[name, point.units] = point
                    failures.pop((name, point.units), None)
                failures.update({(f.name, f.units): f for f in part.failures if f.name == name})
        if not parts:
            return
        order = {name: index for index, name in enumerate(self._ensemble.names)}
        ordered = sorted(points, key=lambda key: (order[key[0]], key[1]))
        self._measured = replace(
            parts[-1],
            points=tuple(points[key] for key in ordered),
            failures=tuple(failure for key, failure in failures.items() if key not in points),
            examples=examples,
            fingerprints={name: fingerprints[name] for name in examples},
        )

    # --- choose --------------------------------------------------------------------------------------------------

    def fit(self) -> dict[str, CostModel]:
        """A cost model per sub-model, from the measured points.

        Raises:
            UsageError: Some sub-model has not been measured.
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
        return fit(profile, self.device.units)

    def search(self, searcher: str = "exact", **options: Any) -> Plan:
        """Find a plan for the measured sub-models; it becomes `plan`.

        Args:
            searcher: "exact", "optuna", ...; see `esen_lab.search.SEARCHERS`.
            **options: The searcher's own.

        Raises:
            UsageError: Something is not profiled, or the searcher or an option is unknown.
            InfeasibleError: No plan keeps every limit.
        """
        models = self.fit()
        found = search(models, self.device.units, searcher, **options)
        plan = self._plan_from(found, models)
        self.plan = plan
        return plan

    def _plan_from(self, found: Allocation, models: Mapping[str, CostModel]) -> Plan:
        lanes = tuple(
            Lane(
                units=units,
                members=tuple(members),
                active_units=tuple(models[name].active_units[units - 1] for name in members),
            )
            for units, members in found.lanes
        )
        return Plan(
            lanes=lanes,
            units=self.device.units,
            device=self.device.identity.to_dict(),
            searcher=found.searcher,
            jct_s=found.jct_s,
            bound_s=found.bound_s,
            predicted_s={name: models[name].latency_s[lane.units - 1] for lane in lanes for name in lane.members},
            fingerprints=self._ensemble.fingerprints,
            example=self._example_text(),
            combine=self._ensemble.combine.describe(),
            notes=tuple(found.notes),
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )

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
            tuning = self._tuning
        if tuning is not None:
            tuning.follow(plan)

    def tune(self) -> Tuning:
        """The lab's one tuning: move shares and sub-models, see the predicted JCT at once, propose, apply, measure.

        Every call gives the same object, so that all panels and magics show the same; it follows new measurements.

        Raises:
            UsageError: Some sub-model has not been measured.
        """
        models = self.fit()
        with self._lock:
            tuning = self._tuning
            if tuning is None:
                self._tuning = Tuning(models, self.device.units, start=self._plan, bench=_Bench(self))
                return self._tuning
        tuning.renew(models)
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
        names = set(self._ensemble.names)
        missing = sorted(set(plan.names) - names)
        extra = sorted(names - set(plan.names))
        if missing or extra:
            parts = [f"{', '.join(missing)} not registered"] if missing else []
            parts += [f"{', '.join(extra)} not in the plan"] if extra else []
            raise UsageError(
                "A plan covers exactly the registered sub-models",
                given="; ".join(parts),
                hint="Register the same sub-models, or search again.",
            )
        if plan.units > self.device.units:
            raise UsageError(
                f"This device has {self.device.units} {self.device.identity.unit}s",
                given=f"a plan for {plan.units} ({plan.device.get('name', 'unknown device')})",
                hint="Search again here: plans for larger devices do not fit.",
            )

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
            output, report = executor.run(x, timeout_s=limit)
        self._report = replace(report, notes=(*notes, *report.notes)) if notes else report
        return output

    @property
    def report(self) -> RunReport | None:
        """What happened in the last run."""
        return self._report

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
            ours = ensemble.fingerprints
            changed = [name for name in plan.names if plan.fingerprints.get(name, ours[name]) != ours[name]]
            if changed:
                notes = (f"The plan was made before {', '.join(changed)} changed: profile and search again.",)
        if current is not None and current.broken:
            current.close()
            current = None
        if current is not None and _same_work(current, plan, ensemble):
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
        budget_s: float = 120.0,
        on_progress: Callable[[int, int, str], None] | None = None,
    ) -> Comparison:
        """Run the plan and the usual ways to run an ensemble on the same input, in the same rounds.

        Args:
            x: The input.
            rounds: How many rounds.
            strategies: Which baselines (see `esen_lab.runtime.STRATEGIES`); None: all.
            budget_s: No further round starts after this many seconds.
            on_progress: Called with (done, all, what is going on).

        Raises:
            UsageError: A strategy is unknown, or there is nothing to compare.
            EsenError: The plan could not be run.
        """
        self._need_submodels("compare")
        with self._gate:
            executor, notes = self._ready_executor()
            found = compare(
                x,
                executor.plan,
                self._ensemble,
                self.device,
                self._nursery,
                rounds=rounds,
                strategies=strategies,
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
        news = [difference for difference in self._differences(plan) if difference not in plan.notes]
        plan = replace(plan, notes=(*plan.notes, *news))
        self.plan = plan
        return plan

    def _differences(self, plan: Plan) -> list[str]:
        """What is not as it was when a plan was made."""
        here = self.device.identity.to_dict()
        found = [
            f"Made on another device: {key} {plan.device.get(key)!r} there, {here[key]!r} here."
            for key in ("kind", "name", "units")
            if plan.device and plan.device.get(key) != here[key]
        ]
        ours = self._ensemble.fingerprints
        changed = [name for name in plan.names if plan.fingerprints.get(name, ours[name]) != ours[name]]
        if changed:
            found.append(f"Made for another version of {', '.join(changed)} (weights, structure or source differ).")
        if plan.example and plan.example != self._example_text():
            found.append(f"Profiled for {plan.example}; the examples here are {self._example_text()}.")
        if plan.combine and plan.combine != self._ensemble.combine.describe():
            found.append(f"Made with combine rule {plan.combine}; here it is {self._ensemble.combine.describe()}.")
        return found

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
        return export_plan(plan, self._ensemble, path)

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
        if self._plan is None or set(self._plan.names) != set(self._ensemble.names):
            return "Find a plan: %esen search"
        if self._report is None:
            return "Run the ensemble: %esen run x"
        if self._comparison is None:
            return "Compare with how you run it today: %esen compare x"
        return "Keep the plan: %esen export plan.py"

    def close(self) -> None:
        """End every process and job of this lab. It may be used again afterwards."""
        job = self._job
        if job is not None and not job.done:
            job.cancel()
        self._nursery.close()  # a run that is under way in another thread fails now and lets go of the device
        if job is not None:
            with contextlib.suppress(EsenError, TimeoutError):
                job.result(timeout=5.0)
        with self._gate, self._lock:
            executor, self._executor = self._executor, None
            store, self._store = self._store, None
        if executor is not None:
            executor.close()
        self._nursery.close()  # whatever was being started meanwhile
        if store is not None:
            store.close()

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        identity = self.device.identity
        names = ", ".join(self._ensemble.names) or "no sub-models yet"
        return f"<Lab on {identity.name} ({identity.units} {identity.unit}s): {names}>"

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

    def _example_text(self) -> str:
        return str(tree_spec(example_of(self._ensemble))) if self._ensemble.submodels else ""


class _Bench:
    """`esen_lab.tuning.Bench` on a lab."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def in_force(self) -> Plan | None:
        return self._lab.plan

    def facts(self) -> dict[str, Any]:
        ensemble = self._lab.ensemble
        return {
            "device": self._lab.device.identity.to_dict(),
            "fingerprints": ensemble.fingerprints,
            "example": str(tree_spec(example_of(ensemble))) if ensemble.submodels else "",
            "combine": ensemble.combine.describe(),
        }

    def apply(self, plan: Plan) -> None:
        self._lab.apply(plan)

    def measure(self, repeats: int) -> list[float]:
        times = []
        for _ in range(repeats):
            self._lab.run(example_of(self._lab.ensemble))
            report = self._lab.report
            assert report is not None  # a run that returned has left one
            times.append(report.jct_s)
        return times

    def export(self, plan: Plan, path: str | os.PathLike[str]) -> Exported:
        return self._lab.export(path, plan)


def _same_work(executor: Executor, plan: Plan, ensemble: Ensemble) -> bool:
    """Whether warm lanes do just what a plan asks for now."""
    return executor.plan.lanes == plan.lanes and all(
        name in executor.ensemble.names and executor.ensemble.get(name).fingerprint == ensemble.get(name).fingerprint
        for name in plan.names
    )


def _finished(job: ProfileJob | None) -> Profile | None:
    """What a finished job measured, or None."""
    if job is None or not job.done:
        return None
    try:
        return job.result(timeout=0)
    except EsenError:
        return None  # it was cancelled, or failed, before its first point
