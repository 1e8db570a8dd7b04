"""What a lab is asked at any time: its state, its parts, where it stands."""

from __future__ import annotations

import operator
import warnings
from typing import Any

from esen_lab.common.bell import Bell
from esen_lab.common.display import Shown
from esen_lab.devices import Device, Offer, offers
from esen_lab.ensemble import Ensemble
from esen_lab.lab.cluster import LabCluster
from esen_lab.lab.history import LabHistory
from esen_lab.lab.lab_status import Status
from esen_lab.lab.lanes import Lanes
from esen_lab.lab.points import Points
from esen_lab.lab.readings import Readings
from esen_lab.lab.runtime import Runtime
from esen_lab.lab.stages.plans import put_in_force
from esen_lab.lab.state import LabState
from esen_lab.lab.study import Studies
from esen_lab.planner import SearchJob
from esen_lab.planner.plan import Plan
from esen_lab.profiler import Profile, ProfileJob
from esen_lab.profiler.backends import BackendTable
from esen_lab.run import Comparison, RunReport
from esen_lab.run.numerics import NumericsVerdict
from esen_lab.studies import AdaptiveProfileJob

_MOVED = {
    **{name: f"studies.{name}" for name in ("refine", "members", "place", "cascade", "plan_of", "take")},
    **{name: f"readings.{name}" for name in ("watch", "unwatch", "watched", "glance", "free_bytes", "marks")},
    **{name: f"points.{name}" for name in ("fit_so_far", "forget_wrong", "record")},
    "leave_gpu": "lanes.leave_gpu",
    "choose_mechanisms": "lanes.choose_backends",
    "mechanisms": "backends",
}
"""Names that were the lab's own, and what has taken their place."""


class LabProperties(Shown):
    """The part of `Lab` that is read."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.studies = Studies(self._runtime)
        """Refinement by runs, choices of members, several devices, cascades."""
        self.lanes = Lanes(self._runtime)
        """The warm lanes, and how they execute sub-models."""
        self.cluster = LabCluster(self._runtime)
        """The nodes of a cluster of Ray, for plans over several machines."""
        self.points = Points(self._runtime)
        """What is known of the sub-models on the device, besides `measurements`."""
        self.history = LabHistory(self._runtime)
        """What was measured and planned in this project, also in earlier sessions."""

    @property
    def state(self) -> LabState:
        """All that the lab knows now: a record that does not change."""
        return self._runtime.state

    @property
    def bell(self) -> Bell[LabState]:
        """Rings with the new state after each change: `lab.bell.listen(callback)`."""
        return self._runtime.bell

    @property
    def readings(self) -> Readings:
        """What the device is doing: utilization, memory."""
        return self._runtime.readings

    @property
    def device(self) -> Device:
        """Where it shares."""
        return self.state.device

    @property
    def ensemble(self) -> Ensemble:
        """The registered sub-models, in order, and the combine rule."""
        return self.state.ensemble

    @property
    def job(self) -> ProfileJob | AdaptiveProfileJob | None:
        """The last profile job."""
        return self.state.profile_job

    @property
    def measurements(self) -> Profile | None:
        """All points of finished jobs that still fit the registered sub-models, or None."""
        return self.state.measured

    @property
    def search_job(self) -> SearchJob[Plan] | None:
        """The last background search."""
        return self.state.search_job

    @property
    def plan(self) -> Plan | None:
        """The plan in force. Setting one swaps it in at the next run; if its lanes cannot start, the old one stays."""
        return self.state.plan

    @plan.setter
    def plan(self, plan: Plan) -> None:
        put_in_force(self._runtime, plan)

    @property
    def report(self) -> RunReport | None:
        """What happened in the last run."""
        return self.state.report

    @property
    def comparison(self) -> Comparison | None:
        """The last comparison."""
        return self.state.comparison

    @property
    def numerics(self) -> NumericsVerdict | None:
        """The last verdict of `check_numerics`."""
        return self.state.numerics

    @property
    def backends(self) -> BackendTable | None:
        """What the last `lanes.choose_backends` measured."""
        return self.state.backends

    def offers(self, *, test: bool = True) -> tuple[Offer, ...]:
        """What this machine could share, the best first: see `esen_lab.offers`."""
        return offers(test=test)

    def status(self) -> Status:
        """Where the lab stands and what to do next."""
        return self.state.status(waiting=self._runtime.turns.waiting)

    def __getattr__(self, name: str) -> Any:
        place = _MOVED.get(name)
        if place is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        warnings.warn(f"lab.{name} is lab.{place} now", DeprecationWarning, stacklevel=2)
        return operator.attrgetter(place)(self)

    def __repr__(self) -> str:
        return f"<Lab {self._runtime.describe()}>"
