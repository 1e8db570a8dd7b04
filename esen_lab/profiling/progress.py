"""What a profile job looks like from outside at one moment."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from esen_lab.profiling.records import Failure, Point
from esen_lab.showing import Shown


class JobState(StrEnum):
    """Where a job stands."""

    RUNNING = "running"
    WAITING = "waiting"  # for another process that is measuring, or for a run of the ensemble
    FINISHED = "finished"
    CANCELLED = "cancelled"
    FAILED = "failed"  # it stopped before its end; `ProfileJob.result` says why

    @property
    def over(self) -> bool:
        """Whether nothing will change any more."""
        return self not in {JobState.RUNNING, JobState.WAITING}


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

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "state": str(self.state)}
