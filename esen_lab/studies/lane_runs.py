"""Running lanes for real, as the objective of a search or a round of refinement."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, closing
from typing import Any

from esen_lab.common.trees import Tree
from esen_lab.devices import Device
from esen_lab.ensemble import Ensemble
from esen_lab.errors import UsageError
from esen_lab.planner import searcher_options
from esen_lab.planner.plan import Plan
from esen_lab.run import Executor, ForkServer, RunReport
from esen_lab.run.executor import DEFAULT_TIMEOUT_S

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
        fork_server: Starts the workers.
        device_lock: Makes a context manager that is held while a plan is run, by whatever must not disturb it.
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
        fork_server: ForkServer,
        device_lock: Callable[[], AbstractContextManager[object]],
        *,
        x: Tree = None,
        runs: int = 9,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        if isinstance(runs, bool) or not isinstance(runs, int) or runs < 1:
            raise UsageError("A plan is measured with at least one run", given=runs)
        self._ensemble = ensemble
        self._device = device
        self._fork_server = fork_server
        self._device_lock = device_lock
        self._x = ensemble.example if x is None else x
        self._runs = runs
        self._timeout_s = timeout_s

    def jcts_s(self, plan: Plan) -> Generator[float, None, None]:
        """The JCT of one run of `plan` after another: the objective of a search that measures."""
        with closing(self.of(plan)) as reports:
            for report in reports:
                yield report.jct_s

    def of(self, plan: Plan) -> Generator[RunReport, None, None]:
        """The report of one run of `plan` after another; whoever stops asking ends its lanes by closing this.

        Raises:
            EsenError: The plan cannot be started or run.
        """
        with self._device_lock():
            executor = Executor.start(plan, self._ensemble, self._device, self._fork_server)
            try:
                for number in range(WARM_UPS + self._runs):
                    report = executor.run(self._x, timeout_s=self._timeout_s).report
                    if number >= WARM_UPS:
                        yield report
            finally:
                executor.close()
