"""`lab.points`: what is known of the sub-models on the device, besides `measurements`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from esen_lab.common.words import listed
from esen_lab.cost_model import CostModel, Quantile
from esen_lab.devices import write_record
from esen_lab.errors import UsageError
from esen_lab.lab.knowledge import fit_so_far
from esen_lab.lab.runtime import Runtime
from esen_lab.lab.stages.search import fit
from esen_lab.lab.state import LabState
from esen_lab.lab.warm_lanes import wrong_answers
from esen_lab.planner.plan import Plan


class Points:
    """The points of one lab."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def fit(self, quantile: Quantile = "median") -> dict[str, CostModel]:
        """A cost model per sub-model, from the measured points.

        Args:
            quantile: "median", or "q90" to plan noisy sub-models with their 90th percentile.

        Raises:
            UsageError: Some sub-model has not been measured, or the quantile is unknown.
        """
        return fit(self._runtime, quantile)

    def fit_so_far(self) -> dict[str, CostModel]:
        """Cost models of the sub-models that two points or more are known of, those of a running job included."""
        state = self._runtime.state
        measured, job = state.measured, state.profile_job
        points = [] if measured is None else list(measured.points)
        points += [] if job is None else job.snapshot().points
        return fit_so_far(points, state.ensemble, state.device.units)

    @property
    def derived(self) -> tuple[str, ...]:
        """The groups and parts that were measured on the device in use, one for each size, as steps are written."""
        profiles = self._runtime.state.here.derived.profiles.values()
        return tuple(name for profile in profiles for name in profile.names)

    def wrong_answers(self, plan: Plan) -> tuple[str, ...]:
        """For each sub-model that a plan gives a share at which its answers were found wrong, a sentence."""
        return wrong_answers(self._runtime.state, plan)

    def forget_wrong(self, names: Sequence[str] | None = None) -> dict[str, tuple[int, ...]]:
        """Let searches use shares again at which `Lab.check_numerics` found wrong answers, such as after an update.

        What a profile found wrong is measured anew with `Lab.profile(fresh=True)`.

        Args:
            names: Of which sub-models; None: of all.

        Returns:
            For each of them that had such shares, which, in units.

        Raises:
            UsageError: A name is unknown.
        """
        found: dict[str, tuple[int, ...]] = {}

        def change(state: LabState) -> LabState:
            chosen = state.ensemble.names if names is None else listed(names)
            found.update(state.here.shares_found_wrong(state.ensemble, chosen))
            return state.knowing(state.here.without_wrong(state.ensemble, chosen)) if found else state

        self._runtime.change(change)
        return found

    def record(self, path: str | os.PathLike[str]) -> Path:
        """Write the measured latencies as JSON, to plan for this device elsewhere: `Lab(device="fake:PATH")` there.

        Raises:
            UsageError: Nothing has been measured, or the name is taken by something else.
            StoreError: The file cannot be written.
        """
        measured = self._runtime.state.measured
        if measured is None or not measured.points:
            raise UsageError("What is recorded has been measured", given="no point", hint="Profile first.")
        return write_record(path, measured.recorded())
