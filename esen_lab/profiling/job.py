"""The background job that measures an ensemble, point by point, while its owner goes on working.

    point     one sub-model at one share
    level     all points of one share: they are measured one after another in one worker that has this share

A level's worker is started once and serves every sub-model, so starting costs some tens of milliseconds per share and
not per point. Levels come in the order of `measuring_order`, so that after two of them every sub-model is known at the
whole device and at one unit.

What one point goes through:

    1. somebody may have stored it meanwhile: then it is reused;
    2. the machine-wide lock: no other process of this user measures on this device now;
    3. the gate: no run of the ensemble is under way in this process;
    4. the level's worker is there, or is started, or replaced when the last point killed it;
    5. the sub-model is built there, measured, on a GPU asked for its answers (`numerics.py`), forgotten;
    6. the point is stored. Whatever raised in 4 or 5 becomes a `Failure` and the job goes on.

A failed point is not tried again, but its sub-model's other shares may be given up:

    it raised (`ModelError`) and was never measured     all: it raises at every share
    it timed out                                        smaller shares: they are slower still
    it killed its worker twice and was never measured   all

Running the profile again tries exactly the missing points, since the others are stored.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING

from esen_lab.errors import Cancelled, EsenError, ModelError, UsageError, WorkerDied, WorkerError, WorkerTimeout
from esen_lab.profiling.machine_lock import MachineLock
from esen_lab.profiling.numerics import AnswersGate, WrongAnswers
from esen_lab.profiling.order import default_shares, measuring_order
from esen_lab.profiling.progress import JobState, ProfileProgress
from esen_lab.profiling.records import Failure, Point, Profile
from esen_lab.profiling.store import PointKey, ProfileStore, device_key, library_versions
from esen_lab.profiling.timing import FEWEST_REPEATS, FEWEST_WARMUPS, Timing
from esen_lab.showing import Shown
from esen_lab.trees import tree_spec
from esen_lab.units import check_units, format_seconds

if TYPE_CHECKING:
    from esen_lab.devices import Device
    from esen_lab.ensemble import Ensemble, SubModel
    from esen_lab.workers import Nursery, Worker

MEASURE = "esen_lab.profiling.timing:measure"
Gate = Callable[[], AbstractContextManager[object]]
_DEATHS_TOLERATED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """One point to measure."""

    submodel: SubModel
    units: int
    key: PointKey


@dataclass(slots=True)
class _Record:
    """What happened to one sub-model so far. Owned by the job's thread."""

    measured: int = 0
    deaths: int = 0
    hopeless: bool = False  # no other share is tried
    timed_out_at: int = 0  # the largest share at which it timed out; smaller ones are not tried


def start_profile(
    ensemble: Ensemble,
    device: Device,
    nursery: Nursery,
    store: ProfileStore,
    *,
    names: Sequence[str] | None = None,
    shares: Sequence[int] | None = None,
    budget_s: float = 1.0,
    point_timeout_s: float = 60.0,
    fresh: bool = False,
    gate: Gate | None = None,
) -> ProfileJob:
    """Start measuring in the background; returns at once.

    Args:
        ensemble: Whose sub-models to measure.
        device: Where.
        nursery: Where workers come from; it stays the caller's to close.
        store: Finished points are read from it and written to it.
        names: Which sub-models; None for all.
        shares: At which shares, in units; None for `default_shares`.
        budget_s: Seconds of measuring per point; a slow step takes longer (see `timing.measure`). A stored point that
            is not settled is measured again when this allows more than it had.
        point_timeout_s: Seconds until a point is given up: building the sub-model and measuring together.
        fresh: Whether to measure again what is stored.
        gate: Makes a context manager that is held around each measured point and by whatever must not disturb it.

    Raises:
        UsageError: There is no sub-model, a name is unknown, a share is outside the device, a time is not positive.
    """
    if not ensemble.submodels:
        raise UsageError("A profile measures at least one sub-model", given="none", hint="Register a sub-model first.")
    chosen = _chosen(ensemble, names)
    levels = _levels(device, shares)
    for what, seconds in (("budget_s", budget_s), ("point_timeout_s", point_timeout_s)):
        if not (math.isfinite(seconds) and seconds > 0):
            raise UsageError(f"{what} is a number of seconds above 0", given=seconds)
    job = ProfileJob(
        chosen,
        device,
        nursery,
        store,
        levels=levels,
        budget_s=budget_s,
        point_timeout_s=point_timeout_s,
        fresh=fresh,
        gate=gate or nullcontext,
    )
    job.start()
    return job


def _chosen(ensemble: Ensemble, names: Sequence[str] | None) -> tuple[SubModel, ...]:
    if names is None:
        return tuple(ensemble.submodels)
    if isinstance(names, str):
        names = [names]
    unknown = [name for name in names if name not in ensemble.names]
    if unknown or not names:
        raise UsageError(
            "A profile measures registered sub-models",
            given=", ".join(map(str, unknown)) or "none",
            hint=f"Registered: {', '.join(ensemble.names)}.",
        )
    return tuple(submodel for submodel in ensemble.submodels if submodel.name in names)


def _levels(device: Device, shares: Sequence[int] | None) -> tuple[int, ...]:
    if shares is None:
        return measuring_order(default_shares(device.units))
    if not shares:
        raise UsageError("A profile measures at one share or more", given="none")
    return measuring_order([check_units(share, device.units) for share in shares])


class ProfileJob(Shown):
    """A profile being measured. All methods may be called from any thread. Made by `start_profile`."""

    def __init__(
        self,
        submodels: tuple[SubModel, ...],
        device: Device,
        nursery: Nursery,
        store: ProfileStore,
        *,
        levels: tuple[int, ...],
        budget_s: float,
        point_timeout_s: float,
        fresh: bool,
        gate: Gate,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._submodels = submodels
        self._device = device
        self._nursery = nursery
        self._store = store
        self._levels = levels
        self._budget_s = budget_s
        self._point_timeout_s = point_timeout_s
        self._fresh = fresh
        self._gate = gate
        self._clock = clock

        identity = device_key(device.identity)
        versions = library_versions()
        self._examples = {s.name: str(tree_spec(s.example)) for s in submodels}
        self._tasks = {
            units: [
                _Task(
                    submodel=s,
                    units=units,
                    key=PointKey(
                        fingerprint=s.fingerprint,
                        example=self._examples[s.name],
                        device=identity,
                        versions=versions,
                        units=units,
                    ),
                )
                for s in submodels
            ]
            for units in levels
        }
        digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
        self._measuring = MachineLock(store.path.with_name(f"measuring-{digest}"))
        self._records = {s.name: _Record() for s in submodels}
        # Cores cannot compute wrongly for being few.
        on_gpu = device.identity.kind != "cpu" and not device.identity.simulated
        self._answers = AnswersGate(device.units, self._on_whole) if on_gpu else None
        self._levels_without_worker = 0  # in a row
        self._first_problem: EsenError | None = None

        self._cancelled = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="esen_lab profile", daemon=True)
        self._lock = threading.Lock()
        # The rest changes while the job runs, and is read and written under the lock only.
        self._state = JobState.RUNNING
        self._building: Worker | None = None
        self._current = ""
        self._point_began: float | None = None
        self._began = clock()
        self._ended: float | None = None
        self._durations: list[float] = []
        self._points: list[Point] = []
        self._failures: list[Failure] = []
        self._skipped = 0
        self._notes: dict[str, None] = {}
        self._bug: BaseException | None = None

    def start(self) -> None:
        """Start the thread; `start_profile` has done so."""
        self._thread.start()

    # --- the handle -------------------------------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        """Whether it is over, in whatever way."""
        return self._over.is_set()

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
                message="",
                notes=tuple(self._notes),
            )
            return replace(progress, message=self._message(progress))

    def result(self, timeout: float | None = None) -> Profile:
        """Wait until the job is over and return what was found, failures included.

        A cancelled job returns the points that it had finished.

        Args:
            timeout: Seconds to wait at most; None waits until the end.

        Raises:
            WorkerTimeout: It is not over yet. The job goes on.
            Cancelled: It was cancelled before any point was known.
            EsenError: No point could be measured; the error is the first failure's, with its traceback and log.
        """
        if not self._over.wait(timeout):
            raise WorkerTimeout(
                "The profile is not finished yet",
                given=self.snapshot().message,
                hint="It goes on in the background: wait longer, or cancel the job.",
            )
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=1)  # it has nothing left to do; leave no thread behind
        with self._lock:
            if self._bug is not None:
                raise self._bug
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
            )

    def cancel(self) -> None:
        """Stop, in the middle of a point too. Returns at once; finished points are kept, a finished job stays."""
        self._cancelled.set()
        with self._lock:
            if self._building is not None:
                # Building does not listen to cancellation, and a factory may take for ever. The lock says that it has
                # not been answered yet, so the process id is still this worker's: only its nursery reaps it, when told.
                _end_building(self._building)

    def _nothing(self) -> EsenError:
        first = self._first_problem
        if first is None:
            return Cancelled("The profile was cancelled before a point was measured")
        rule = f"No point could be measured: {self._failures[0].message}"
        hint = "Mend the sub-model (or its example) and profile again."
        if isinstance(first, WorkerError):
            error: EsenError = type(first)(rule, hint=hint, worker_traceback=first.worker_traceback, log=first.log)
        else:
            error = type(first)(rule, hint=hint)
        error.__cause__ = first
        return error

    def _eta_s(self, total: int, now: float) -> float | None:
        left = total - len(self._points) - len(self._failures) - self._skipped
        if self._state.over or left == 0:
            return 0.0
        if not self._durations:
            return None
        usual = sum(self._durations) / len(self._durations)
        spent = 0.0 if self._point_began is None else now - self._point_began
        return max(0.0, usual * left - min(spent, usual))

    def _message(self, progress: ProfileProgress) -> str:
        parts = [f"{progress.done} of {progress.total} points"]
        if progress.reused:
            parts.append(f"{progress.reused} stored before")
        if progress.failed:
            parts.append(f"{progress.failed} failed")
        if progress.skipped:
            parts.append(f"{progress.skipped} not tried")
        text = ", ".join(parts)
        if progress.state is JobState.RUNNING and progress.current:
            eta = "" if progress.eta_s is None else f", about {format_seconds(progress.eta_s)} left"
            return f"{text}; measuring {progress.current}{eta}"
        if progress.state is JobState.WAITING:
            return f"{text}; waiting: another measurement or run is under way on this device"
        return f"{text}; {progress.state}" if progress.state.over else text

    # --- the thread -------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        state = JobState.FAILED
        try:
            self._reuse_stored()
            for units in self._levels:
                self._measure_level(units)
            state = JobState.FINISHED
        except Cancelled:
            state = JobState.CANCELLED
        except EsenError as problem:
            self._first_problem = self._first_problem or problem
            self._note(f"The job ended early: {problem}")
        except BaseException as problem:
            # A fault of ours, kept for `result` to raise: an exception in a thread would be printed into some cell.
            self._bug = problem
        finally:
            with self._lock:
                self._current = ""
                self._point_began = None
                self._ended = self._clock()
                self._state = state
            self._over.set()

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
        self._keep(replace(point, name=task.submodel.name))
        return True

    def _measure_level(self, units: int) -> None:
        with _Level(self._device, self._nursery, units) as level:
            for task in self._tasks[units]:
                self._check_cancelled()
                if self._is_skipped(task):
                    with self._lock:
                        self._skipped += 1
                    continue
                with self._alone(f"{task.submodel.name} at {self._share(units)}"):
                    if not self._reuse(task):  # another process may have measured it while this one waited
                        self._measure(task, level)
            self._check_device(level)

    def _measure(self, task: _Task, level: _Level) -> None:
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
            self._give_up(task, problem)
        else:
            self._records[point.name].measured += 1
            self._keep(point)
            self._store.put(task.key, point)
            self._note(*self._store.notes)
        finally:
            level.forget(task.submodel.name)
            with self._lock:
                self._durations.append(self._clock() - began)

    def _point(self, task: _Task, worker: Worker, deadline: float) -> Point:
        submodel = task.submodel
        payload = _packed(submodel)
        with self._lock:
            if self._cancelled.is_set():
                raise Cancelled("The profile was stopped on request")
            self._building = worker
        try:
            worker.load(submodel.name, payload, submodel.example, timeout_s=self._point_timeout_s)
        finally:
            with self._lock:
                self._building = None
        found = worker.call(
            MEASURE,
            submodel.name,
            timeout_s=max(0.0, deadline - self._clock()),
            cancelled=self._cancelled,
            budget_s=self._budget_s,
        )
        assert isinstance(found, Timing)
        answers: dict[str, float | str] = {}
        if self._answers is not None:
            left_s = max(0.0, deadline - self._clock())
            answers = self._answers.check(
                submodel.name, task.units, worker, timeout_s=left_s, cancelled=self._cancelled
            )
        return Point(
            name=submodel.name,
            units=task.units,
            median_s=found.median_s,
            spread_s=found.spread_s,
            quantile_90_s=found.quantile_90_s,
            repeats=found.repeats,
            warmups=found.warmups,
            settled=found.settled,
            peak_memory_bytes=None if found.growth_bytes is None else submodel.memory_bytes + found.growth_bytes,
            measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
            budget_s=self._budget_s,
            readings={**found.readings, **answers},
        )

    def _on_whole(self, name: str, ask: Callable[[Worker], None]) -> None:
        """Call `ask` with a worker of its own that has the whole device and has loaded the sub-model."""
        submodel = next(s for s in self._submodels if s.name == name)
        with _Level(self._device, self._nursery, self._device.units) as whole:
            worker = whole.worker()
            worker.load(name, _packed(submodel), submodel.example, timeout_s=self._point_timeout_s)
            ask(worker)

    @contextmanager
    def _alone(self, current: str) -> Iterator[None]:
        """Nothing else measures or runs on the device: the machine-wide lock, then the gate.

        In this order, because another process may measure for minutes, and who holds the gate keeps runs waiting.
        """
        with self._measuring.held(self._cancelled, on_wait=lambda: self._now(JobState.WAITING, current)):
            if self._measuring.note:
                self._note(f"Another notebook that measures now would spoil the figures: {self._measuring.note}.")
            self._now(JobState.WAITING, current)
            with self._gate():
                self._check_cancelled()
                self._now(JobState.RUNNING, current)
                try:
                    yield
                finally:
                    self._now(JobState.RUNNING, "")

    def _is_skipped(self, task: _Task) -> bool:
        record = self._records[task.submodel.name]
        return record.hopeless or task.units < record.timed_out_at

    def _give_up(self, task: _Task, problem: Exception) -> None:
        """Decide, after a failure, which other shares of the sub-model are not worth trying (see the module's top)."""
        name = task.submodel.name
        record = self._records[name]
        if isinstance(problem, WorkerTimeout):
            record.timed_out_at = max(record.timed_out_at, task.units)
            self._note(
                f"{name}: shares below {task.units} are not tried, since it timed out at {self._share(task.units)}."
            )
            return
        if isinstance(problem, WorkerDied):
            record.deaths += 1
        if record.measured:
            return
        if isinstance(problem, (ModelError, UsageError)):
            record.hopeless = True
            self._note(f"{name}: its other shares are not tried, since it raised at {self._share(task.units)}.")
        elif record.deaths >= _DEATHS_TOLERATED:
            record.hopeless = True
            self._note(f"{name}: its other shares are not tried, since it ended its worker {record.deaths} times.")

    def _check_device(self, level: _Level) -> None:
        """End the job when the device gives no worker, level after level: each attempt may take minutes to fail."""
        if level.problem is None:
            self._levels_without_worker = 0
            return
        self._levels_without_worker += 1
        if self._levels_without_worker >= 2:
            raise level.problem

    def _check_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled("The profile was stopped on request")

    def _share(self, units: int) -> str:
        return f"{units} of {self._device.units} units"

    # --- what the handle sees ---------------------------------------------------------------------------------------

    def _now(self, state: JobState, current: str) -> None:
        with self._lock:
            self._state = state
            self._current = current
            self._point_began = self._clock() if state is JobState.RUNNING and current else None

    def _keep(self, point: Point) -> None:
        with self._lock:
            self._points.append(point)

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
            message=f"{task.submodel.name} at {self._share(task.units)}: {text}",
            worker_traceback=problem.worker_traceback if isinstance(problem, WorkerError) else "",
            log=problem.log if isinstance(problem, WorkerError) else "",
            wrong_answers=isinstance(problem, WrongAnswers),
        )
        with self._lock:
            self._failures.append(failure)
            self._first_problem = self._first_problem or problem

    def _note(self, *notes: str) -> None:
        with self._lock:
            self._notes.update((note, None) for note in notes if note)


class _Level:
    """The worker of one share: started when first needed, replaced when it died, closed at the end."""

    def __init__(self, device: Device, nursery: Nursery, units: int) -> None:
        self._device = device
        self._nursery = nursery
        self._units = units
        self._worker: Worker | None = None
        self.problem: EsenError | None = None

    def worker(self) -> Worker:
        """A worker that is alive.

        Raises:
            EsenError: It could not be started; a level that failed once is not tried again.
        """
        if self.problem is not None:
            raise self.problem
        if self._worker is None or not self._worker.alive:
            self._close()
            try:
                (placement,) = self._device.place((self._units,))
                self._worker = self._nursery.worker(placement, label=f"profile worker with {self._units} units")
            except EsenError as problem:
                self.problem = problem
                raise
        return self._worker

    def forget(self, name: str) -> None:
        """Free a sub-model's memory, or the whole worker where it cannot be asked any more."""
        if self._worker is None:
            return
        try:
            if self._worker.alive:
                self._worker.unload(name)
        except EsenError:
            self._close()

    def _close(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    def __enter__(self) -> _Level:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()


def _end_building(worker: Worker) -> None:
    """End a worker that is in the middle of building, without waiting for it."""
    if getattr(worker, "must_retire", False):  # killing a client of MPS at once could take others along
        threading.Thread(target=worker.kill, name="esen_lab retire", daemon=True).start()  # type: ignore[attr-defined]
        return
    with contextlib.suppress(OSError):
        os.kill(worker.pid, signal.SIGKILL)


def _packed(submodel: SubModel) -> bytes:
    try:
        payload: bytes = submodel.payload()
        return payload
    except EsenError:
        raise
    except Exception as problem:
        raise ModelError(
            f"It cannot be packed for a worker: {type(problem).__name__}: {problem}",
            worker_traceback=traceback.format_exc(),
        ) from problem
