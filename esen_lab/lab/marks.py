"""The marks beside readings of the device that follow from a lab's state: another plan, a profile's begin and end."""

from __future__ import annotations

from esen_lab.common.locks import Lock
from esen_lab.devices import MarkLog
from esen_lab.lab.state import LabState


class ChangeMarks:
    """Follows a lab: call it with each new state."""

    def __init__(self, marks: MarkLog) -> None:
        self._marks = marks
        self._lock = Lock()
        self._plan: object = None
        self._job: object = None
        self._job_ended = True

    def __call__(self, state: LabState) -> None:
        """Add what is new since the last state."""
        with self._lock:
            plan, job = state.plan, state.profile_job
            if plan is not self._plan:
                self._plan = plan
                if plan is not None:
                    self._marks.add("plan")
            if job is not self._job:
                self._job, self._job_ended = job, False
                if job is not None:
                    self._marks.add("profile", "begin")
            if job is not None and not self._job_ended and job.state.over:
                self._job_ended = True
                self._marks.add("profile", "end")
