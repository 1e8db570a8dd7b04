"""Adaptive profiling: measures the points that the plan rests on, and stops when no other can change it much.

`planner/adaptive.py` decides what to measure next; this file has it measured, by one ordinary profile job after
another. It has the same face as such a job.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from esen_lab.common.jobs import Job, JobState
from esen_lab.common.units import check_number
from esen_lab.errors import Cancelled, EsenError
from esen_lab.planner import Limits, next_points
from esen_lab.profiler import Profile, ProfileJob
from esen_lab.profiler.progress import ProfileProgress
from esen_lab.profiler.records import Failure, Point, curves_of, doubts_about, wrong_shares


class AdaptiveProfileJob(Job[Profile, ProfileProgress]):
    """A profile that chooses its own points; its result is that of a `ProfileJob`.

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
        super().__init__(
            "adaptive profile",
            unfinished="The profile is not finished yet",
            hint="It goes on in the background: wait longer, or cancel the job.",
        )
        check_number(within, "Adaptive profiling stops within a fraction between 0 and 1", above=0.0, below=1.0)
        self._limits = Limits.of(limits)
        self._limits.check(tuple(names), units)
        self._names = tuple(names)
        self._units = units
        self._candidates = tuple(candidates)
        self._within = within
        self._start_one = start
        self._clock = clock
        next_points({name: {} for name in names}, units, candidates)  # raises now what would raise in the thread
        # The rest changes while the job runs, and is read and written under the lock only.
        self._job: ProfileJob | None = None
        self._began = clock()
        self._ended: float | None = None
        self._points: dict[tuple[str, int], Point] = {}
        self._failures: dict[tuple[str, int], Failure] = {}
        self._profiles: list[Profile] = []
        self._reason = "every sub-model is measured at its first shares"
        self._notes: dict[str, None] = {}
        self._first_problem: EsenError | None = None
        self.start()

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
            notes += _own(inner)
            current = inner.current
            state = inner.state if inner.state is JobState.WAITING else state
        total = len(self._names) * len(self._candidates)
        return ProfileProgress(
            total=total,
            done=len(points),
            reused=sum(point.reused for point in points.values()),
            failed=len(failures),
            skipped=total - len(points) - len(failures) if state.over else 0,
            state=state,
            current=current,
            elapsed_s=elapsed_s,
            eta_s=0.0 if state.over else None,
            points=tuple(points.values()),
            failures=tuple(failures.values()),
            message=f"{len(points)} of at most {total} points; {state if state.over else reason}",
            notes=tuple(dict.fromkeys((f"Adaptive: {reason}.", *notes, *doubts_about(points.values())))),
        )

    def _standing(self) -> str:
        return self.snapshot().message

    def outcome(self) -> Profile:
        """The points that are known; raises what came before the first."""
        with self._lock:
            if self._profiles:
                order = {name: index for index, name in enumerate(self._names)}
                return replace(
                    self._profiles[-1],
                    points=tuple(sorted(self._points.values(), key=lambda p: (order[p.name], p.units))),
                    failures=tuple(sorted(self._failures.values(), key=lambda f: (order[f.name], f.units))),
                    backend_points=tuple(point for profile in self._profiles for point in profile.backend_points),
                    refusals=tuple(dict.fromkeys(r for profile in self._profiles for r in profile.refusals)),
                    examples={k: v for profile in self._profiles for k, v in profile.examples.items()},
                    fingerprints={k: v for profile in self._profiles for k, v in profile.fingerprints.items()},
                )
            problem = self._first_problem or self._error
        if problem is not None and not isinstance(problem, Cancelled):
            raise problem
        raise Cancelled("The profile was cancelled before a point was measured")

    def cancel(self) -> None:
        """Stop, in the middle of a point too. Returns at once; finished points are kept."""
        super().cancel()
        with self._lock:
            job = self._job
        if job is not None:
            job.cancel()

    # --- the thread -------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while wanted := self._next():
                for share in sorted({share for _, share in wanted}, reverse=True):
                    self._measure([name for name, at in wanted if at == share], share)
        except Cancelled:
            raise
        except BaseException as problem:
            self._notes[f"The job ended early: {problem}"] = None
            raise

    def _ending(self) -> None:
        self._job = None
        self._ended = self._clock()

    def _next(self) -> list[tuple[str, int]]:
        curves = curves_of(self._points.values())
        measured = {name: curves.get(name, {}) for name in self._names}
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
        self._changed()
        return wanted

    def _measure(self, names: Sequence[str], share: int) -> None:
        self._check_cancelled()
        job = self._start_one(names, share)
        with self._lock:
            self._job = job
        job.listen(lambda _: self._changed())
        if self._stop.is_set():
            job.cancel()  # the order to stop came while it was being started
        try:
            profile = job.result()
        except Cancelled:
            raise
        except EsenError as problem:
            last = job.snapshot()
            with self._lock:
                self._failures |= {(f.name, f.units): f for f in last.failures}
                self._first_problem = self._first_problem or problem
            if not last.failures:
                raise
            return
        with self._lock:
            self._profiles.append(profile)
            self._points |= {(p.name, p.units): p for p in profile.points}
            self._failures |= {(f.name, f.units): f for f in profile.failures}
            self._notes |= dict.fromkeys(_own(job.snapshot()))


def _own(progress: ProfileProgress) -> list[str]:
    """What a job notes, without what it says of its points: that is said of all points together."""
    doubts = doubts_about(progress.points)
    return [note for note in progress.notes if note not in doubts]
