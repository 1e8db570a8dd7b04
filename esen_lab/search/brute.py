"""Every partition, each with its exact shares: slow, short, and the yardstick that the exact searcher is tested by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from esen_lab.errors import UsageError
from esen_lab.search.problem import Problem, breaks_limit
from esen_lab.search.shares import best_shares
from esen_lab.search.watch import Groups, Watch

MOST_ITEMS = 10
"""115975 partitions: some seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Brute:
    """All partitions of up to `MOST_ITEMS` sub-models. No options."""

    measures: ClassVar[bool] = True

    def __call__(self, problem: Problem, watch: Watch) -> None:
        """See `Searcher`."""
        n = len(problem.items)
        if n > MOST_ITEMS:
            raise UsageError(
                f"The searcher 'brute' takes at most {MOST_ITEMS} sub-models", given=f"{n}", hint="Use 'exact'."
            )
        for groups in partitions(n, problem.max_lanes):
            if watch.over:
                return
            watch.evaluations += 1
            found = None if breaks_limit(problem, groups) else best_shares(problem, groups)
            if found is not None:
                watch.judge(groups, *found)
        if watch.best is not None and not watch.measuring:
            watch.raise_bound(watch.jct_s)


def partitions(n: int, most: int) -> Iterator[Groups]:
    """All partitions of 0..n-1 into at most `most` groups, in the order of restricted growth strings."""

    def grow(i: int, groups: list[list[int]]) -> Iterator[Groups]:
        if i == n:
            yield tuple(tuple(group) for group in groups)
            return
        for group in groups:
            group.append(i)
            yield from grow(i + 1, groups)
            group.pop()
        if len(groups) < most:
            groups.append([i])
            yield from grow(i + 1, groups)
            groups.pop()

    return grow(0, [])
