"""Starting a peer: by each of its settings, of which the fastest is kept; where nobody named it, in a bounded time."""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections.abc import Callable, Collection, Sequence

from esen_lab.common.resources import begin
from esen_lab.common.surroundings import step
from esen_lab.common.trees import Tree
from esen_lab.common.units import format_units
from esen_lab.errors import EsenError
from esen_lab.lanes.openmp import wait_until_still
from esen_lab.planner.plan import Plan
from esen_lab.run.baselines import NotApplicable
from esen_lab.run.executor import Executor
from esen_lab.run.peers import setting_of
from esen_lab.run.start import GivenUp

_TRIALS = 7  # runs by which one setting is told from another


class PeerStart:
    """Starts peers.

    Args:
        start: Starts the lanes of a plan; another thread may give that up.
        x: What settings are tried on.
        soon: The peers that are there only where they are prepared in time; all others take what they take.
        prepare_s: That time, for all of them together, in seconds; None: without a bound.
    """

    def __init__(
        self, start: Callable[[Plan, GivenUp], Executor], x: Tree, soon: Collection[str], prepare_s: float | None
    ) -> None:
        self._start = start
        self._x = x
        self._soon = soon
        self._left_s = math.inf if prepare_s is None else prepare_s

    def __call__(self, name: str, plans: Sequence[Plan]) -> tuple[Executor, str]:
        """Start one, and say how it is set.

        Raises:
            NotApplicable: It was not prepared in time, or takes no sub-model at all.
            EsenError: It could not be started by any of its settings.
        """
        best: Executor | None = None
        best_s = math.inf
        tried = 0
        try:
            for plan in plans:
                executor: Executor | None = None
                try:
                    executor = self._in_time(name, plan)
                    took_s = self._took_s(executor) if len(plans) > 1 else 0.0
                except BaseException as problem:
                    if executor is not None:
                        executor.close()
                    if best is None or not isinstance(problem, EsenError):
                        raise
                    break  # another setting runs
                tried += 1
                slower, best = (best, executor) if took_s < best_s else (executor, best)
                best_s = min(best_s, took_s)
                if slower is not None:
                    slower.close()
        except BaseException:
            if best is not None:
                best.close()
            raise
        assert best is not None
        chosen = f" (the fastest of {format_units(tried, 'setting')})" if tried > 1 else ""
        return best, setting_of(name, best.plan) + chosen

    def _in_time(self, name: str, plan: Plan) -> Executor:
        if name not in self._soon or math.isinf(self._left_s):
            return _some_taken(self._start(plan, GivenUp()))
        given_up = GivenUp()
        began = time.monotonic()
        timer = threading.Timer(max(0.0, self._left_s), given_up.set)
        timer.daemon = True
        begin(timer)
        try:
            return _some_taken(self._start(plan, given_up))
        except EsenError as problem:
            if not given_up.is_set:
                raise
            raise NotApplicable(
                "It was not prepared in time", given=f"{step('peers=', '--peers ')}{name} waits for it"
            ) from problem
        finally:
            timer.cancel()
            timer.join()
            self._left_s -= time.monotonic() - began

    def _took_s(self, executor: Executor) -> float:
        wait_until_still(executor.pids)
        times_s = [executor.run(self._x).report.jct_s for _ in range(_TRIALS)]
        return statistics.median(times_s[2:])


def _some_taken(executor: Executor) -> Executor:
    """The executor of a peer; ended where every sub-model has fallen back to eager."""
    fallen = executor.history.fallen_back
    if len(fallen) < len(executor.plan.names):
        return executor
    executor.close()
    why = next(iter(fallen.values())).rpartition("Given: ")[2]
    raise NotApplicable("It takes none of the sub-models", given=why)
