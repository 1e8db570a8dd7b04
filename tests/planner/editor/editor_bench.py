"""A device for tunings that does what the test says, and cost models for it."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from esen_lab.cost_model import CostModel, fit_points
from esen_lab.errors import WorkerDied
from esen_lab.planner.editor import LastRun, Offered
from esen_lab.planner.plan import Plan

UNITS = 8


def models(units: int = UNITS, **work: float) -> dict[str, CostModel]:
    """Sub-models that share perfectly up to half the device: `work` seconds at one unit."""
    return {
        name: fit_points(name, {k: seconds / min(k, units // 2) for k in range(1, units + 1)}, units)
        for name, seconds in work.items()
    }


class FakeBench:
    """A device that does what the test says."""

    def __init__(self) -> None:
        self.plan: Plan | None = None
        self.applied: list[Plan] = []
        self.exported: list[tuple[Plan, str]] = []
        self.fails = False
        self.times_s: list[float] = [0.5, 0.4, 0.01, 0.011, 0.012]
        self.told_far: tuple[str, ...] = ()
        self.last_run: LastRun | None = None
        self.choices: tuple[Offered, ...] = ()
        self.taken: list[int] = []
        self.go = threading.Event()
        self.go.set()
        self.entered = threading.Event()

    def in_force(self) -> Plan | None:
        return self.plan

    def facts(self) -> Mapping[str, Any]:
        return {"device": {"kind": "cpu", "name": "Fake", "unit": "core", "units": UNITS}, "combine": "mean"}

    def apply(self, plan: Plan) -> None:
        self.entered.set()
        assert self.go.wait(60)
        if self.fails:
            raise WorkerDied("The lane could not start", hint="Free some memory.")
        self.plan = plan
        self.applied.append(plan)

    def measure(self, repeats: int) -> Sequence[float]:
        self.entered.set()
        assert self.go.wait(60)
        return (self.times_s * repeats)[:repeats]

    def ran(self) -> LastRun | None:
        return self.last_run

    def offered(self) -> tuple[Offered, ...]:
        return self.choices

    def take(self, number: int) -> None:
        self.taken.append(number)

    def far(self) -> Sequence[str]:
        return self.told_far

    def export(self, plan: Plan, path: str | os.PathLike[str]) -> Any:
        self.exported.append((plan, str(path)))
        return path
