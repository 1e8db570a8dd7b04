"""Running lanes for real, as the objective of a search or a round of refinement."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, closing
from typing import Any

from esen_lab.common.trees import Tree
from esen_lab.common.units import check_count
from esen_lab.devices import Device
from esen_lab.ensemble import Ensemble
from esen_lab.errors import EsenError
from esen_lab.planner import searcher_options
from esen_lab.planner.plan import Plan
from esen_lab.run import Executor, ForkServer, RunReport, Settings, in_pairs
from esen_lab.run.executor import DEFAULT_TIMEOUT_S

WARM_UPS = 2
"""Runs that do not count: the first ones touch memory for the first time."""

MEASURED_TRIALS = 40
"""How many plans a searcher that measures runs, when nobody names a number."""


MOST_PAIRS = 60
"""Of runs of two plans in turns, and"""
PAIRS_S = 3.0
"""so many seconds of them, whatever comes first."""


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
        settings: What the session has set where all this began; None: what it had by the last look at it.

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
        settings: Settings | None = None,
    ) -> None:
        check_count(runs, "A plan is measured with at least one run")
        self._ensemble = ensemble
        self._device = device
        self._fork_server = fork_server
        self._device_lock = device_lock
        self._x = ensemble.example if x is None else x
        self._runs = runs
        self._timeout_s = timeout_s
        self._settings = settings

    def jcts_s(self, plan: Plan) -> Generator[float, None, None]:
        """The JCT of one run of `plan` after another: the objective of a search that measures."""
        with closing(self.of(plan)) as reports:
            for report in reports:
                yield report.jct_s

    def of(self, plan: Plan, *, as_planned: bool = False) -> Generator[RunReport, None, None]:
        """The report of one run of `plan` after another; whoever stops asking ends its lanes by closing this.

        Args:
            plan: What to run.
            as_planned: Whether it is refused where an engine that it names does not take a sub-model, or answers
                otherwise than the notebook.

        Raises:
            EsenError: The plan cannot be started or run, or is refused.
        """
        with self._device_lock(), self._fork_server.under(self._settings), self._ensemble.combine.kept():
            executor = Executor.start(plan, self._ensemble, self._device, self._fork_server)
            try:
                if as_planned:
                    _check(executor)
                for number in range(WARM_UPS + self._runs):
                    report = executor.run(self._x, timeout_s=self._timeout_s).report
                    if number >= WARM_UPS:
                        yield report
            finally:
                executor.close()

    def pairs_s(self, one: Plan, other: Plan) -> Generator[tuple[float, float], None, None]:
        """The JCTs of two plans that are run in turns, in seconds; their lanes end when this is closed.

        Raises:
            EsenError: A plan cannot be started or run.
        """
        with (
            self._device_lock(),
            self._fork_server.under(self._settings),
            self._ensemble.combine.kept(),
            ExitStack() as lanes,
        ):
            first, second = (self._start(plan, lanes) for plan in (one, other))
            for executor in (first, second):
                for _ in range(WARM_UPS):
                    executor.run(self._x, timeout_s=self._timeout_s)
            x, timeout_s = self._x, self._timeout_s
            yield from in_pairs(first, second, x, most=MOST_PAIRS, budget_s=PAIRS_S, timeout_s=timeout_s)

    def _start(self, plan: Plan, lanes: ExitStack) -> Executor:
        executor = Executor.start(plan, self._ensemble, self._device, self._fork_server)
        lanes.callback(executor.close)
        return executor


def _check(executor: Executor) -> None:
    told = [*executor.history.fallen_back.values(), *map(str, executor.unlike.values())]
    if told:
        raise EsenError("A plan that is tried runs as it says, and answers as the notebook does", given=told[0])
