"""Running lanes for real, as the objective of a search or a round of refinement."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, closing
from typing import Any

from esen_lab.choosing.plans import plan_of_allocation
from esen_lab.devices import Device
from esen_lab.ensemble import Ensemble
from esen_lab.errors import UsageError
from esen_lab.fitting import CostModel
from esen_lab.planning import Plan
from esen_lab.runtime import Executor, Nursery, RunReport
from esen_lab.runtime.executor import DEFAULT_TIMEOUT_S, example_of
from esen_lab.search import Allocation, Measure, searcher_options
from esen_lab.trees import Tree

WARM_UPS = 2
"""Runs that do not count: the first ones touch memory for the first time."""

MEASURED_TRIALS = 40
"""How many plans a searcher that measures runs, when nobody names a number."""


def measured_defaults(searcher: str) -> dict[str, Any]:
    """Options of a searcher that are other when it measures: a trial takes seconds then, not microseconds."""
    return {"n_trials": MEASURED_TRIALS} if "n_trials" in searcher_options(searcher) else {}


class LaneRuns:
    """Runs plans one at a time: each gets lanes of its own, which end with it.

    Args:
        ensemble: The sub-models.
        device: Where they run.
        nursery: Starts the workers.
        gate: Makes a context manager that is held while a plan is run, by whatever must not disturb it.
        x: The input; None for the ensemble's example.
        runs: How many runs of each plan count.
        timeout_s: Deadline of one run.

    Raises:
        UsageError: `runs` is not a positive whole number.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        device: Device,
        nursery: Nursery,
        gate: Callable[[], AbstractContextManager[object]],
        *,
        x: Tree = None,
        runs: int = 9,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        if isinstance(runs, bool) or not isinstance(runs, int) or runs < 1:
            raise UsageError("A plan is measured with at least one run", given=runs)
        self._ensemble = ensemble
        self._device = device
        self._nursery = nursery
        self._gate = gate
        self._x = example_of(ensemble) if x is None else x
        self._runs = runs
        self._timeout_s = timeout_s

    def measuring(self, models: Mapping[str, CostModel]) -> Measure:
        """These runs as a search's objective: the JCT of one run after another."""

        def measure(found: Allocation) -> Generator[float, None, None]:
            with closing(self.of(plan_of_allocation(found, models, self._device.units))) as reports:
                for report in reports:
                    yield report.jct_s

        return measure

    def of(self, plan: Plan) -> Generator[RunReport, None, None]:
        """The report of one run of `plan` after another; whoever stops asking ends its lanes by closing this.

        Raises:
            EsenError: The plan cannot be started or run.
        """
        with self._gate():
            executor = Executor.start(plan, self._ensemble, self._device, self._nursery)
            try:
                for number in range(WARM_UPS + self._runs):
                    _, report = executor.run(self._x, timeout_s=self._timeout_s)
                    if number >= WARM_UPS:
                        yield report
            finally:
                executor.close()
