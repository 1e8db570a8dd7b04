"""The background job that measures an ensemble, point by point, while its owner goes on working.

    point     one sub-model at one share
    level     all points of one share: they are measured one after another in one worker that has this share

A level's worker is started once and serves every sub-model, so starting costs some tens of milliseconds per share and
not per point. Levels come in the order of `measuring_order`, so that after two of them every sub-model is known at the
whole device and at one unit.

What one point goes through:

    1. somebody may have stored it meanwhile: then it is reused;
    2. the machine-wide lock: no other process of this user measures on this device now;
    3. the device lock: no run of the ensemble is under way in this process;
    4. the level's worker is there, or is started, or replaced when the last point killed it;
    5. the sub-model is built there, measured, on a GPU asked for its answers (`numerics.py`), forgotten;
    6. the point is stored. Whatever raised in 4 or 5 becomes a `Failure` and the job goes on.

When all eager points are there, other backends are tried, level by level (`backend_phase.py`).

A point that was measured while other programs took the cores is measured again there and then (`point_bench.py`). A
later job that finds the machine quieter measures it once more, and keeps the quieter of the two.

A failed point is not tried again, but its sub-model's other shares may be given up (`given_up.py`).

Running the profile again tries exactly the missing points, since the others are stored.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from esen_lab.common.jobs import Job, JobState
from esen_lab.common.trees import tree_spec
from esen_lab.common.units import check_number, check_units, format_seconds
from esen_lab.common.words import unknown
from esen_lab.devices.cpu.contention import busy_part
from esen_lab.errors import Cancelled, DeviceError, EsenError, UsageError, WorkerError, WorkerTimeout
from esen_lab.profiler.backend_phase import BackendPhase
from esen_lab.profiler.backend_trials import Trials, in_order
from esen_lab.profiler.caches import weights_evicted
from esen_lab.profiler.device_lock import measuring_locks
from esen_lab.profiler.given_up import PointsGivenUp
from esen_lab.profiler.level import Level, packed
from esen_lab.profiler.numerics import AnswersCheck, WrongAnswers
from esen_lab.profiler.point_bench import DeviceLock, PointBench
from esen_lab.profiler.progress import ProfileProgress, message_of
from esen_lab.profiler.records import Failure, Point, Profile, Refusal, doubts_about, with_switches
from esen_lab.profiler.share_order import default_shares, measuring_order
from esen_lab.profiler.store import PointKey, ProfileStore, library_versions, point_key
from esen_lab.profiler.timing import FEWEST_REPEATS, FEWEST_WARMUPS, as_point

if TYPE_CHECKING:
    from esen_lab.devices import Device
    from esen_lab.ensemble import Ensemble, SubModel
    from esen_lab.lanes import ForkServer, Worker
    from esen_lab.lanes.settings import Settings

_BUSY_HOLDS_S = 5.0  # for so long it is not looked again how busy the machine is
_QUIETER = 0.5  # a stored loaded point is measured again where the machine is less busy than this part of its load


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """One point to measure."""

    submodel: SubModel
    units: int
    key: PointKey


def start_profile(
    ensemble: Ensemble,
    device: Device,
    fork_server: ForkServer,
    store: ProfileStore,
    *,
    names: Sequence[str] | None = None,
    shares: Sequence[int] | None = None,
    budget_s: float = 1.0,
    point_timeout_s: float = 60.0,
    fresh: bool = False,
    backends: Mapping[str, Sequence[str]] | None = None,
    device_lock: DeviceLock | None = None,
    settings: Settings | None = None,
    evicted: bool | None = None,
) -> ProfileJob:
    """Start measuring in the background; returns at once.

    Args:
        ensemble: Whose sub-models to measure, each on what a run of the ensemble's example gives it.
        device: Where.
        fork_server: Where workers come from; it stays the caller's to close.
        store: Finished points are read from it and written to it.
        names: Which sub-models; None for all.
        shares: At which shares, in units; None for `default_shares`.
        budget_s: Seconds of measuring per point; a slow step takes longer (see `timing.measure`). A stored point that
            is not settled is measured again when this allows more than it had.
        point_timeout_s: Seconds until a point is given up: building the sub-model and measuring together.
        fresh: Whether to measure again what is stored.
        backends: For each sub-model, which backends to try besides eager; None: none.
        device_lock: Makes a context manager that is held around each measured point, and by what must not disturb it.
        settings: What the session has set: all points are measured under that, whatever is set meanwhile; None: what
            it had by the fork server's last look at it.
        evicted: Whether sub-models evict each other's weights from the caches that cores share; None: as
            `weights_evicted` says of this ensemble.

    Raises:
        UsageError: There is no sub-model, a name is unknown, a share is outside the device, a time is not positive.
    """
    if not ensemble.submodels:
        raise UsageError("A profile measures at least one sub-model", given="none", hint="Register a sub-model first.")
    chosen = _chosen(ensemble, names)
    levels = _levels(device, shares)
    check_times(budget_s=budget_s, point_timeout_s=point_timeout_s)
    job = ProfileJob(
        chosen,
        device,
        fork_server,
        store,
        levels=levels,
        budget_s=budget_s,
        point_timeout_s=point_timeout_s,
        fresh=fresh,
        backends=backends or {},
        device_lock=device_lock or nullcontext,
        settings=settings,
        evicted=weights_evicted(ensemble, device) if evicted is None else evicted,
    )
    job.start()
    return job


_MOST_S = 1e6  # eleven days: the system's waits take not much longer ones


def check_times(**seconds: object) -> None:
    """Whether these arguments are times.

    Raises:
        UsageError: One is not; the message names it.
    """
    for what, given in seconds.items():
        rule = f"{what} is a number of seconds above 0 and below {_MOST_S:,.0f}"
        check_number(given, rule, above=0.0, below=_MOST_S)


def _chosen(ensemble: Ensemble, names: Sequence[str] | None) -> tuple[SubModel, ...]:
    if names is None:
        return tuple(map(ensemble.as_run, ensemble.submodels))
    if isinstance(names, str):
        names = [names]
    strange = [name for name in names if name not in ensemble.names]
    if strange or not names:
        raise unknown(
            "A profile measures registered sub-models",
            next(iter(strange), None),
            ensemble.names,
            given=", ".join(map(str, strange)) or "none",
            hint=f"Registered: {', '.join(ensemble.names)}.",
        )
    return tuple(ensemble.as_run(submodel) for submodel in ensemble.submodels if submodel.name in names)


def _levels(device: Device, shares: Sequence[int] | None) -> tuple[int, ...]:
    if shares is None:
        return measuring_order(default_shares(device.units, device.steps))
    if not shares:
        raise UsageError("A profile measures at one share or more", given="none")
    return measuring_order([check_units(share, device.units) for share in shares])


class ProfileJob(Job[Profile, ProfileProgress]):
    """A profile being measured. Made by `start_profile`.

    `result` gives the points that are known, also where the job was cancelled or failed after the first; it raises the
    first failure, with its traceback and log, where no point could be measured.
    """

    def __init__(
        self,
        submodels: tuple[SubModel, ...],
        device: Device,
        fork_server: ForkServer,
        store: ProfileStore,
        *,
        levels: tuple[int, ...],
        budget_s: float,
        point_timeout_s: float,
        fresh: bool,
        backends: Mapping[str, Sequence[str]],
        device_lock: DeviceLock,
        settings: Settings | None = None,
        evicted: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(
            "profile",
            unfinished="The profile is not finished yet",
            hint="It goes on in the background: wait longer, or cancel the job.",
        )
        self._submodels = submodels
        self._device = device
        self._fork_server = fork_server
        self._store = store
        self._levels = levels
        self._budget_s = budget_s
        self._point_timeout_s = point_timeout_s
        self._fresh = fresh
        self._clock = clock

        self._identity = device.identity.key
        used = ("eager", *(name for names in backends.values() for name in names))
        # All points under what was set when the job began: it is what they are stored under.
        self._settings = fork_server.settings if settings is None else settings
        self._unusual = () if self._settings is None else self._settings.unusual
        self._versions = {name: library_versions(self._settings, name, evicted=evicted) for name in dict.fromkeys(used)}
        self._examples = {s.name: str(tree_spec(s.example)) for s in submodels}
        self._tasks = {
            units: [_Task(submodel=s, units=units, key=self._key(s, units)) for s in submodels] for units in levels
        }
        # A simulated device replays eager latencies.
        simulated = device.identity.simulated
        self._trials = {
            s.name: Trials(asked=() if simulated else in_order(backends.get(s.name, ()))) for s in submodels
        }
        self._measuring = measuring_locks(device, store.path)
        self._bench = PointBench(
            device,
            measuring=self._measuring,
            device_lock=device_lock,
            stop=self._stop,
            clock=clock,
            now=self._now,
            note=self._note,
            evicted=evicted,
        )
        self._given_up = PointsGivenUp((s.name for s in submodels), self._bench.share, self._note)
        self._backends = BackendPhase(
            submodels=submodels,
            trials=self._trials,
            device=device,
            fork_server=fork_server,
            settings=self._settings,
            store=store,
            levels=levels,
            budget_s=budget_s,
            point_timeout_s=point_timeout_s,
            fresh=fresh,
            examples=self._examples,
            bench=self._bench,
            key=self._key,
            keep=self._keep_backend,
            refuse=self._keep_refusal,
            note=self._note,
        )
        # Cores cannot compute wrongly for being few.
        on_gpu = device.identity.kind != "cpu" and not device.identity.simulated
        self._answers = AnswersCheck(device.units, self._on_whole) if on_gpu else None
        self._levels_without_worker = 0  # in a row
        self._busy: tuple[float, float | None] | None = None  # when the machine was looked at, and how busy it was
        self._first_problem: EsenError | None = None

        # The rest changes while the job runs, and is read and written under the lock only.
        self._current = ""
        self._point_began: float | None = None
        self._began = clock()
        self._ended: float | None = None
        self._durations: list[float] = []
        self._points: list[Point] = []
        self._failures: list[Failure] = []
        self._backend_points: dict[tuple[str, str, int], Point] = {}
        self._refusals: list[Refusal] = []
        self._skipped = 0
        self._notes: dict[str, None] = {}

    def _key(self, submodel: SubModel, units: int, backend: str = "eager") -> PointKey:
        return point_key(submodel, self._identity, self._versions[backend], units)

    # --- the handle -------------------------------------------------------------------------------------------------

    @property
    def wanted(self) -> dict[str, int]:
        """For each sub-model, how many points this job is to know at its end."""
        return {submodel.name: len(self._levels) for submodel in self._submodels}

    def snapshot(self) -> ProfileProgress:
        """Where the job stands now. Never waits."""
        with self._lock:
            total = len(self._submodels) * len(self._levels)
            reused = sum(point.reused for point in self._points)
            now = self._clock() if self._ended is None else self._ended
            progress = ProfileProgress(
                total=total,
                done=len(self._points),
                reused=reused,
                failed=len(self._failures),
                skipped=self._skipped,
                state=self._state,
                current=self._current,
                elapsed_s=now - self._began,
                eta_s=self._eta_s(total, now),
                points=tuple(self._points),
                failures=tuple(self._failures),
                backend_points=tuple(self._backend_points.values()),
                refusals=tuple(self._refusals),
                message="",
                notes=(*self._notes, *doubts_about([*self._points, *self._backend_points.values()])),
            )
            return replace(progress, message=message_of(progress))

    def _standing(self) -> str:
        return self.snapshot().message

    def outcome(self) -> Profile:
        """The points that are known; raises what came before the first."""
        with self._lock:
            if self._error is not None and not isinstance(self._error, EsenError):
                raise self._error  # a fault of ours
            if not self._points:
                raise self._nothing()
            order = {submodel.name: index for index, submodel in enumerate(self._submodels)}
            return Profile(
                device=self._device.identity.to_dict(),
                units=self._device.units,
                points=tuple(sorted(self._points, key=lambda p: (order[p.name], p.units))),
                failures=tuple(sorted(self._failures, key=lambda f: (order[f.name], f.units))),
                examples=dict(self._examples),
                fingerprints={s.name: s.fingerprint for s in self._submodels},
                backend_points=tuple(
                    sorted(self._backend_points.values(), key=lambda p: (order[p.name], p.backend, p.units))
                ),
                refusals=tuple(self._refusals),
            )

    def cancel(self) -> None:
        """Stop, in the middle of a point too. Returns at once; finished points are kept, a finished job stays."""
        super().cancel()
        self._bench.end_building()

    def _nothing(self) -> EsenError:
        first = self._first_problem
        if first is None:
            return Cancelled("The profile was cancelled before a point was measured")
        rule = f"No point could be measured: {self._failures[0].message}"
        # Of a device the message has said what to do: no sub-model is at fault.
        hint = "" if isinstance(first, DeviceError) else "Mend the sub-model (or its example) and profile again."
        if isinstance(first, WorkerError):
            error: EsenError = type(first)(rule, hint=hint, worker_traceback=first.worker_traceback, log=first.log)
        else:
            error = type(first)(rule, hint=hint)
        error.__cause__ = first
        return error

    def _eta_s(self, total: int, now: float) -> float | None:
        left = total - len(self._points) - len(self._failures) - self._skipped
        if self._state.over:
            return 0.0
        if left == 0:
            return 0.0 if not any(trials.asked for trials in self._trials.values()) else None
        if not self._durations:
            return None
        usual = sum(self._durations) / len(self._durations)
        spent = 0.0 if self._point_began is None else now - self._point_began
        return max(0.0, usual * left - min(spent, usual))

    # --- the thread -------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            self._reuse_stored()
            for units in self._levels:
                self._measure_level(units)
            for units in self._levels:
                self._backends.try_at(units, self._points)
        except Cancelled:
            raise
        except EsenError as problem:
            self._first_problem = self._first_problem or problem
            self._note(f"The job ended early: {problem}")
            raise
        except BaseException as problem:
            self._note(f"The job ended early: {type(problem).__name__}: {problem}")
            raise

    def _ending(self) -> None:
        self._current = ""
        self._point_began = None
        self._ended = self._clock()

    def _reuse_stored(self) -> None:
        for units in self._levels:
            remaining = []
            for task in self._tasks[units]:
                self._check_cancelled()
                if not self._reuse(task):
                    remaining.append(task)
            self._tasks[units] = remaining

    def _reuse(self, task: _Task) -> bool:
        if self._fresh:
            return False
        point = self._store.get(task.key)
        self._note(*self._store.notes)
        if point is None or not (point.settled or point.budget_s >= self._budget_s):
            return False
        if point.loaded and self._quieter_now(point):
            return False
        self._keep(replace(point, name=task.submodel.name))
        return True

    def _measure_level(self, units: int) -> None:
        with Level(self._device, self._fork_server, units, self._settings) as level:
            for task in self._tasks[units]:
                self._check_cancelled()
                if self._given_up.skips(task.submodel.name, task.units):
                    with self._lock:
                        self._skipped += 1
                    continue
                with self._bench.alone(f"{task.submodel.name} at {self._bench.share(units)}"):
                    if not self._reuse(task):  # another process may have measured it while this one waited
                        self._measure(task, level)
            self._check_device(level)

    def _measure(self, task: _Task, level: Level) -> None:
        began = self._clock()
        try:
            worker = level.worker()
        except EsenError as problem:
            self._fail(task, problem)
            return
        try:
            point = self._point(task, worker, began + self._point_timeout_s)
        except Cancelled:
            raise
        except Exception as problem:
            self._check_cancelled()  # a worker that `cancel` killed is no failure
            self._fail(task, problem)
            self._given_up.failed(task.submodel.name, task.units, problem)
        else:
            self._given_up.measured(point.name)
            self._keep(self._quieter(task, point))
            self._note(*self._store.notes)
        finally:
            level.forget(task.submodel.name)
            with self._lock:
                self._durations.append(self._clock() - began)

    def _point(self, task: _Task, worker: Worker, deadline: float) -> Point:
        submodel = task.submodel
        self._bench.load(submodel, submodel.name, packed(submodel), worker, self._point_timeout_s)
        found = self._bench.timing(submodel.name, worker, self._budget_s, deadline)
        answers: dict[str, float | str] = {}
        if self._answers is not None:
            left_s = max(0.0, deadline - self._clock())
            answers = self._answers.check(submodel.name, task.units, worker, timeout_s=left_s, cancelled=self._stop)
        return as_point(replace(found, readings={**found.readings, **answers}), submodel, task.units, self._budget_s)

    # --- a busy machine -----------------------------------------------------------------------------------------------

    def _quieter_now(self, point: Point) -> bool:
        """Whether it is worth measuring a loaded point again; where nobody can tell, it is."""
        at = self._clock()
        if self._busy is None or at - self._busy[0] > _BUSY_HOLDS_S:
            self._busy = (at, self._busy_now())
        busy = self._busy[1]
        return busy is None or busy < _QUIETER * (point.load or 0.0)

    def _busy_now(self) -> float | None:
        cores = self._device.cores
        return busy_part([cpu for core in cores for cpu in core]) if cores else None

    def _quieter(self, task: _Task, point: Point) -> Point:
        """Store the point, unless the one it was measured again for was quieter; returns the one that is kept."""
        stored = None if self._fresh or not point.loaded else self._store.get(task.key)
        if stored is not None and stored.loaded and (stored.load or 0.0) <= (point.load or 0.0):
            return replace(stored, name=point.name)
        self._store.put(task.key, point)
        return point

    def _on_whole(self, name: str, ask: Callable[[Worker], None]) -> None:
        """Call `ask` with a worker of its own that has the whole device and has loaded the sub-model."""
        submodel = next(s for s in self._submodels if s.name == name)
        with Level(self._device, self._fork_server, self._device.units, self._settings) as whole:
            worker = whole.worker()
            worker.load(
                name,
                packed(submodel),
                submodel.example,
                traits=submodel.traits,
                timeout_s=self._point_timeout_s,
            )
            ask(worker)

    def _check_device(self, level: Level) -> None:
        """End the job when the device gives no worker, level after level: each attempt may take minutes to fail."""
        if level.problem is None:
            self._levels_without_worker = 0
            return
        self._levels_without_worker += 1
        if self._levels_without_worker >= 2:
            raise level.problem

    def _share(self, units: int) -> str:
        return f"{units} of {self._device.units} units"

    # --- what the handle sees ---------------------------------------------------------------------------------------

    def _now(self, state: JobState, current: str) -> None:
        with self._lock:
            self._state = state
            self._current = current
            self._point_began = self._clock() if state is JobState.RUNNING and current else None
        self._changed()

    def _keep(self, point: Point) -> None:
        with self._lock:
            self._points.append(with_switches(point, self._unusual))
        self._changed()

    def _keep_backend(self, point: Point) -> None:
        with self._lock:
            self._backend_points[point.name, point.backend, point.units] = with_switches(point, self._unusual)
        self._changed()

    def _keep_refusal(self, refused: Refusal) -> None:
        with self._lock:
            self._refusals.append(refused)
        self._changed()

    def _fail(self, task: _Task, problem: Exception) -> None:
        if not isinstance(problem, EsenError):
            trace = "".join(traceback.format_exception(problem))
            problem = WorkerError(f"unexpected {type(problem).__name__}: {problem}", worker_traceback=trace)
        text = str(problem)
        if isinstance(problem, WorkerTimeout):
            text = (
                f"no result within {format_seconds(self._point_timeout_s)}, in which it is built and runs at least "
                f"{FEWEST_WARMUPS + FEWEST_REPEATS} times. Allow more time (point_timeout_s), or use a smaller example."
            )
        failure = Failure(
            name=task.submodel.name,
            units=task.units,
            message=f"{task.submodel.name} at {self._bench.share(task.units)}: {text}",
            worker_traceback=problem.worker_traceback if isinstance(problem, WorkerError) else "",
            log=problem.log if isinstance(problem, WorkerError) else "",
            wrong_answers=isinstance(problem, WrongAnswers),
        )
        with self._lock:
            self._failures.append(failure)
            self._first_problem = self._first_problem or problem
        self._changed()

    def _note(self, *notes: str) -> None:
        with self._lock:
            known = len(self._notes)
            self._notes.update((note, None) for note in notes if note)
            news = len(self._notes) > known
        if news:
            self._changed()
