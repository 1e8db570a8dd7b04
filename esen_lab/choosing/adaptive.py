"""Adaptive profiling, driven: measures the points that the plan rests on, and stops when no other can change it much.

`search/adaptive.py` decides what to measure next; this file has it measured, by one ordinary profile job after another.
It has the same face as such a job.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from esen_lab.errors import Cancelled, EsenError, UsageError, WorkerTimeout
from esen_lab.profiling import Profile, ProfileJob
from esen_lab.profiling.progress import JobState, ProfileProgress
from esen_lab.profiling.records import Failure, Point, wrong_shares
from esen_lab.search import Limits, next_points
from esen_lab.showing import Shown


class AdaptiveProfileJob(Shown):
    """A profile that chooses its own points. All methods may be called from any thread.

    Args:
        start: Starts a profile job for some sub-models (names) at one share.
        names: Every sub-model.
        units: Units of the device.
        candidates: The shares that may be measured.
        within: It stops when the plan can get better by at most this fraction.
        limits: What plans must keep to: shares that no plan may have are not measured for long.
    """

    def __init__(
        self,
        start: Callable[[Sequence[str], int], ProfileJob],
        names: Sequence[str],
        units: int,
        candidates: Sequence[int],
        *,
        within: float = 0.02,
        limits: Limits | Mapping[str, Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 < within < 1:
            raise UsageError("Adaptive profiling stops within a fraction between 0 and 1", given=within)
        self._limits = Limits.of(limits)
        self._limits.check(tuple(names), units)
        self._names = tuple(names)
        self._units = units
        self._candidates = tuple(candidates)
        self._within = within
        self._start = start
        self._clock = clock
        next_points({name: {} for name in names}, units, candidates)  # raises now what would raise in the thread
        self._stop = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="esen_lab adaptive profile", daemon=True)
        self._lock = threading.Lock()
        # The rest changes while the job runs, and is read and written under the lock only.
        self._state = JobState.RUNNING
        self._job: ProfileJob | None = None
        self._began = clock()
        self._ended: float | None = None
        self._points: dict[tuple[str, int], Point] = {}
        self._failures: dict[tuple[str, int], Failure] = {}
        self._profiles: list[Profile] = []
        self._reason = "every sub-model is measured at its first shares"
        self._notes: dict[str, None] = {}
        self._error: BaseException | None = None
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether it is over, in whatever way."""
        return self._over.is_set()

    @property
    def wanted(self) -> dict[str, int | None]:
        """The sub-models it measures; at how many shares is what it finds out."""
        return dict.fromkeys(self._names)

    def snapshot(self) -> ProfileProgress:
        """Where it stands now. `total` is what a full profile would measure; `skipped`, once over, what was spared."""
        with self._lock:
            job, state = self._job, self._state
            points, failures = dict(self._points), dict(self._failures)
            reason, notes = self._reason, list(self._notes)
            now = self._clock() if self._ended is None else self._ended
            elapsed_s = now - self._began
        current = ""
        if job is not None and not state.over:
            inner = job.snapshot()
            points |= {(p.name, p.units): p for p in inner.points}
            failures |= {(f.name, f.units): f for f in inner.failures}
            notes += inner.notes
            current = inner.current
            state = inner.state if inner.state is JobState.WAITING else state
        total = len(self._names) * len(self._candidates)
        known = len(points) + len(failures)
        return ProfileProgress(
            total=total,
            done=len(points),
            reused=sum(point.reused for point in points.values()),
            failed=len(failures),
            skipped=total - known if state.over else 0,
            state=state,
            current=current,
            elapsed_s=elapsed_s,
            eta_s=0.0 if state.over else None,
            points=tuple(points.values()),
            failures=tuple(failures.values()),
            message=f"{len(points)} of at most {total} points; {state if state.over else reason}",
            notes=tuple(dict.fromkeys((f"Adaptive: {reason}.", *notes))),
        )

    def result(self, timeout: float | None = None) -> Profile:
        """Wait until it is over and return what was measured, as `ProfileJob.result` does.

        Raises:
            WorkerTimeout: It is not over yet. It goes on.
            Cancelled: It was cancelled before any point was known.
            EsenError: No point could be measured.
        """
        if not self._over.wait(timeout):
            raise WorkerTimeout(
                "The profile is not finished yet",
                given=self.snapshot().message,
                hint="It goes on in the background: wait longer, or cancel the job.",
            )
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=1)
        with self._lock:
            if self._profiles:
                order = {name: index for index, name in enumerate(self._names)}
                return replace(
                    self._profiles[-1],
                    points=tuple(sorted(self._points.values(), key=lambda p: (order[p.name], p.units))),
                    failures=tuple(sorted(self._failures.values(), key=lambda f: (order[f.name], f.units))),
                    examples={k: v for profile in self._profiles for k, v in profile.examples.items()},
                    fingerprints={k: v for profile in self._profiles for k, v in profile.fingerprints.items()},
                )
            if self._error is not None:
                raise self._error
        raise Cancelled("The profile was cancelled before a point was measured")

    def cancel(self) -> None:
        """Stop, in the middle of a point too. Returns at once; finished points are kept."""
        self._stop.set()
        with self._lock:
            job = self._job
        if job is not None:
            job.cancel()

    # --- the thread -------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        state = JobState.FAILED
        try:
            while not self._stop.is_set():
                wanted = self._next()
                if not wanted:
                    state = JobState.FINISHED
                    break
                for share in sorted({share for _, share in wanted}, reverse=True):
                    self._measure([name for name, at in wanted if at == share], share)
            if self._stop.is_set():
                state = JobState.CANCELLED
        except Cancelled:
            state = JobState.CANCELLED
        except BaseException as problem:
            self._error = problem
            self._notes[f"The job ended early: {problem}"] = None
        finally:
            with self._lock:
                self._state = state
                self._job = None
                self._ended = self._clock()
            self._over.set()

    def _next(self) -> list[tuple[str, int]]:
        measured: dict[str, dict[int, float]] = {name: {} for name in self._names}
        for (name, share), point in self._points.items():
            measured[name][share] = point.median_s
        wrong = wrong_shares(self._failures.values())
        step = next_points(
            measured, self._units, self._candidates, within=self._within, limits=self._limits, wrong=wrong
        )
        wanted = [point for point in step.points if point not in self._failures]
        reason = step.reason
        if step.points and not wanted:
            failed = ", ".join(f"{name} at {share}" for name, share in step.points)
            reason = f"it cannot go on, since {failed} could not be measured; a full profile measures the other shares"
        with self._lock:
            self._reason = reason
        return wanted

    def _measure(self, names: Sequence[str], share: int) -> None:
        if self._stop.is_set():
            raise Cancelled("The profile was cancelled")
        job = self._start(names, share)
        with self._lock:
            self._job = job
        if self._stop.is_set():
            job.cancel()  # the order to stop came while it was being started
        try:
            found = job.result()
        except Cancelled:
            raise
        except EsenError as problem:
            last = job.snapshot()
            with self._lock:
                self._failures |= {(f.name, f.units): f for f in last.failures}
                self._error = self._error or problem
            if not last.failures:
                raise
            return
        with self._lock:
            self._profiles.append(found)
            self._points |= {(p.name, p.units): p for p in found.points}
            self._failures |= {(f.name, f.units): f for f in found.failures}
            self._notes |= dict.fromkeys(job.snapshot().notes)
