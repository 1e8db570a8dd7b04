"""Plans against each other: run in turns, so that whatever else the machine does befalls all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import TypeVar

from esen_lab.common.trees import Tree
from esen_lab.lanes.openmp import wait_until_still
from esen_lab.run.executor import Executor

LEAST_PAIRS = 6
"""The fewest from which a median has an interval (see common/statistics.py)."""
_PAUSE_S = 0.002  # for others that want a core

_Result = TypeVar("_Result")


def rested(run: Callable[[], _Result], pids: Collection[int]) -> _Result:
    """Run twice, once the lanes that ran before are at rest; returns what the second run gives.

    Args:
        run: Runs once.
        pids: Of all lanes that take turns.
    """
    time.sleep(_PAUSE_S)
    wait_until_still(pids)  # threads of the last one that still look for work would hold up this one
    run()  # brings its weights back into the caches
    return run()


def in_pairs(
    one: Executor,
    other: Executor,
    x: Tree,
    *,
    most: int,
    budget_s: float,
    timeout_s: float,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[tuple[float, float]]:
    """Run two plans in turns: the JCTs of both, in seconds, pair by pair. Which one begins changes each time.

    Args:
        one: Runs a plan.
        other: Runs another one.
        x: The input.
        most: At most so many pairs.
        budget_s: No pair begins after so many seconds, but `LEAST_PAIRS` do.
        timeout_s: Deadline of one run.
        clock: Seconds.
    """
    pids = [*one.pids, *other.pids]
    began = clock()
    for number in range(most):
        if number >= LEAST_PAIRS and clock() - began > budget_s:
            return
        jcts_s = {}
        for executor in (one, other) if number % 2 else (other, one):
            jcts_s[executor] = rested(partial(executor.run, x, timeout_s=timeout_s), pids).report.jct_s
        yield jcts_s[one], jcts_s[other]
