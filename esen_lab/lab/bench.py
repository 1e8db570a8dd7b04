"""The lab as the bench of its tuning: where a draft by hand is put in force, measured and exported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from esen_lab.lab.plans import origin
from esen_lab.runtime.executor import example_of

if TYPE_CHECKING:
    import os

    from esen_lab.export import Exported
    from esen_lab.lab.lab import Lab
    from esen_lab.planning import Plan


class LabBench:
    """`esen_lab.tuning.Bench` on a lab."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def in_force(self) -> Plan | None:
        """The lab's plan."""
        return self._lab.plan

    def facts(self) -> dict[str, Any]:
        """What a plan made here says of where it comes from."""
        return origin(self._lab.ensemble, self._lab.device)

    def apply(self, plan: Plan) -> None:
        """Put it in force, its lanes running."""
        self._lab.apply(plan)

    def measure(self, repeats: int) -> list[float]:
        """The JCT, in seconds, of so many runs on the example."""
        times = []
        for _ in range(repeats):
            self._lab.run(example_of(self._lab.ensemble))
            report = self._lab.report
            assert report is not None  # a run that returned has left one
            times.append(report.jct_s)
        return times

    def export(self, plan: Plan, path: str | os.PathLike[str]) -> Exported:
        """Write it as a script."""
        return self._lab.export(path, plan)
