"""What a profile job looks like from outside at one moment."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from esen_lab.common.display import Shown
from esen_lab.common.jobs import JobState
from esen_lab.common.units import format_seconds
from esen_lab.profiler.records import Failure, Point, Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileProgress(Shown):
    """A profile job at one moment. When the job has finished, done + failed + skipped = total.

    Attributes:
        total: Points asked for.
        done: Points that are known: measured or reused.
        reused: Those of them that were stored before.
        failed: Points that could not be measured.
        skipped: Points not tried, because an earlier failure of their sub-model says that they would fail too.
        state: Where the job stands.
        current: What is measured now ("wide at 4 of 16 units"), or "".
        elapsed_s: Seconds since the job started, until its end.
        eta_s: Seconds until the end, estimated from the points measured so far; None before the first one.
        points: The known points, in the order they became known.
        failures: In the order they happened.
        backend_points: Those of other backends than eager; not counted above.
        refusals: Which backends do not execute which sub-model.
        message: One line for people.
        notes: What the reader should know about this job ("points are not stored: ..."), each said once.
    """

    total: int
    done: int
    reused: int
    failed: int
    skipped: int
    state: JobState
    current: str
    elapsed_s: float
    eta_s: float | None
    points: tuple[Point, ...]
    failures: tuple[Failure, ...]
    message: str
    notes: tuple[str, ...]
    backend_points: tuple[Point, ...] = ()
    refusals: tuple[Refusal, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "state": str(self.state)}


def message_of(progress: ProfileProgress) -> str:
    """Where a job stands, in a line."""
    parts = [f"{progress.done} of {progress.total} points"]
    if progress.backend_points:
        parts.append(f"{len(progress.backend_points)} by other backends")
    if progress.reused:
        parts.append(f"{progress.reused} stored before")
    if progress.failed:
        parts.append(f"{progress.failed} failed")
    if progress.skipped:
        parts.append(f"{progress.skipped} not tried")
    if loaded := sum(point.loaded for point in progress.points):
        parts.append(f"{loaded} measured on a busy machine")
    text = ", ".join(parts)
    if progress.state is JobState.RUNNING and progress.current:
        eta = "" if progress.eta_s is None else f", about {format_seconds(progress.eta_s)} left"
        return f"{text}; measuring {progress.current}{eta}"
    if progress.state is JobState.WAITING:
        return f"{text}; waiting: another measurement or run is under way on this device"
    return f"{text}; {progress.state}" if progress.state.over else text
