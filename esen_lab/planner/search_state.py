"""One search under way: its best plan so far, its bound, its clock, and whether it should stop.

A searcher writes into a `SearchWatch`; whoever started the search reads it, from any thread. So a search that is cut
short, by its time limit, a cancel or Ctrl-C, keeps its best so far.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from statistics import median
from typing import TypeAlias

from esen_lab.common.units import check_number
from esen_lab.errors import EsenError

Groups: TypeAlias = tuple[tuple[int, ...], ...]
"""A partition of a problem's items into lanes: the indices of each lane's members."""

Measure: TypeAlias = Callable[["Candidate"], Generator[float, None, None]]
"""Runs a plan for real: the JCT of one run after another, in seconds."""
Hopeless: TypeAlias = Callable[[int, float], bool]
"""Asked after each run with its number and the median until then: whether to spare the plan's other runs."""

_FAR_BEHIND = 1.25
"""A plan whose fastest run takes this many times the best plan's median is given up, where the searcher has no rule."""

EXACTLY = 1e-9
"""Two JCTs closer than this, relatively, are the same: a sum of floats depends on its order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A plan in terms of a problem's items: lanes, their shares, and the JCT in seconds (measured, where it was)."""

    groups: Groups
    shares: tuple[int, ...]
    jct_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchProgress:
    """What a search has reached: plain data for a progress display.

    Attributes:
        elapsed_s: Since it started.
        jct_s: The best predicted JCT so far; None before the first plan.
        bound_s: The proven lower bound so far.
        evaluations: Candidates examined so far.
        proven: Whether the best is proven to be the optimum.
        message: What it is doing, for people.
    """

    elapsed_s: float
    jct_s: float | None
    bound_s: float
    evaluations: int
    proven: bool
    message: str


def check_time_limit(time_limit_s: float | None) -> None:
    """Whether it is None or a positive number of seconds.

    Raises:
        UsageError: It is not.
    """
    if time_limit_s is not None:
        check_number(time_limit_s, "A time limit is a positive number of seconds", above=0.0)


class SearchWatch:
    """The record of one search: written by the one thread that searches, readable by any.

    Args:
        on_progress: Called in the searching thread at every better plan, better bound and change of message; what it
            raises ends the search.
        on_better: Called in the searching thread with every plan that is better than all before.
        stop: Set by anybody to end the search early.
        measure: Makes measured JCTs the objective; None: predicted ones.
        clock: Seconds, monotonic.

    Attributes:
        slowest_s: A plan that takes longer will not do, whatever else speaks for it.
    """

    def __init__(
        self,
        *,
        on_progress: Callable[[SearchProgress], None] | None = None,
        on_better: Callable[[Candidate], None] | None = None,
        stop: threading.Event | None = None,
        measure: Measure | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._on_progress = on_progress
        self._on_better = on_better
        self._measure = measure
        self._measured_s: dict[frozenset[tuple[int, frozenset[int]]], float | None] = {}
        self.failure: EsenError | None = None
        self.stop = stop
        self._clock = clock
        self._started_s = clock()
        self.best: Candidate | None = None
        self.bound_s = 0.0
        self.evaluations = 0
        self.trace: list[tuple[float, float, int]] = []
        self.notes: list[str] = []
        self.message = ""
        self._until_s = float("inf")
        self._enough_s = 0.0
        self.slowest_s = float("inf")
        self._optimum_known = False

    @property
    def elapsed_s(self) -> float:
        """Seconds since the search started."""
        return self._clock() - self._started_s

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked for it to stop."""
        return self.stop is not None and self.stop.is_set()

    def limit(self, time_limit_s: float) -> None:
        """From now on, `over` once that many seconds of search have passed."""
        self._until_s = time_limit_s

    def decide(self, target_s: float) -> None:
        """From now on, `over` once a plan reaches the target, or the bound says that none does."""
        self._enough_s = self.slowest_s = target_s

    @property
    def over(self) -> bool:
        """Whether the search should return: cancelled, its time is up, or all that was asked is decided."""
        decided = self._enough_s and (self.jct_s <= self._enough_s or self.bound_s > self._enough_s)
        return bool(decided) or self.cancelled or self.elapsed_s >= self._until_s

    @property
    def jct_s(self) -> float:
        """The best JCT so far, infinite before the first plan."""
        return float("inf") if self.best is None else self.best.jct_s

    @property
    def proven(self) -> bool:
        """Whether the optimum is known: some plan that was offered meets the bound. Never of measured JCTs."""
        if self._measure is not None:
            return False
        return self._optimum_known or self.jct_s <= self.bound_s * (1 + EXACTLY)

    def offer(self, groups: Sequence[Sequence[int]], shares: Sequence[int], jct_s: float) -> bool:
        """Keep this plan if it is better than the best so far; returns whether it was."""
        if not jct_s < self.jct_s * (1 - EXACTLY):
            return False
        self.best = Candidate(groups=tuple(tuple(group) for group in groups), shares=tuple(shares), jct_s=jct_s)
        self.trace.append((self.elapsed_s, jct_s, self.evaluations))
        self.report()
        if self._on_better is not None:
            self._on_better(self.best)
        return True

    @property
    def measuring(self) -> bool:
        """Whether JCTs are measured."""
        return self._measure is not None

    def judge(
        self,
        groups: Sequence[Sequence[int]],
        shares: Sequence[int],
        predicted_s: float,
        hopeless: Hopeless | None = None,
    ) -> float | None:
        """Offer a plan by the objective of this search, which may mean to run it first.

        Returns:
            Its JCT in seconds, predicted or the median measured one. None where it could not be run (`failure` says
            why), was given up as hopeless, or the search was cancelled.
        """
        if self._measure is None:
            self.offer(groups, shares, predicted_s)
            return predicted_s
        lanes = _key(groups, shares)
        if lanes not in self._measured_s:
            candidate = Candidate(groups=tuple(map(tuple, groups)), shares=tuple(shares), jct_s=predicted_s)
            self._measured_s[lanes] = self._run(candidate, hopeless)
        seconds = self._measured_s[lanes]
        if seconds is not None:
            self.offer(groups, shares, seconds)
        return seconds

    def remember(self, groups: Sequence[Sequence[int]], shares: Sequence[int], seconds: float) -> None:
        """Offer a plan that was judged before, in an earlier part of this search."""
        self._measured_s[_key(groups, shares)] = seconds
        self.offer(groups, shares, seconds)

    def _run(self, candidate: Candidate, hopeless: Hopeless | None) -> float | None:
        assert self._measure is not None
        times_s: list[float] = []
        try:
            with closing(self._measure(candidate)) as runs:
                for seconds in runs:
                    times_s.append(seconds)
                    far_behind = len(times_s) > 1 and min(times_s) > _FAR_BEHIND * self.jct_s
                    given_up = hopeless(len(times_s), median(times_s)) if hopeless is not None else far_behind
                    if given_up or self.cancelled:
                        return None
        except EsenError as failure:
            self.failure = failure
            return None
        return median(times_s) if times_s else None

    def prefer(self, groups: Sequence[Sequence[int]], shares: Sequence[int], jct_s: float) -> None:
        """Return this plan although the best so far may be faster. What is proven about the optimum stays proven."""
        self._optimum_known = self.proven
        self.best = Candidate(groups=tuple(tuple(group) for group in groups), shares=tuple(shares), jct_s=jct_s)

    def raise_bound(self, bound_s: float) -> None:
        """No plan of lanes is faster than `bound_s`: proven by the caller."""
        if bound_s > self.bound_s:
            self.bound_s = bound_s
            self.report()

    def report(self, message: str | None = None) -> None:
        """Tell `on_progress` where the search stands."""
        if message is not None:
            self.message = message
        if self._on_progress is not None:
            self._on_progress(
                SearchProgress(
                    elapsed_s=self.elapsed_s,
                    jct_s=None if self.best is None else self.best.jct_s,
                    bound_s=self.bound_s,
                    evaluations=self.evaluations,
                    proven=self.proven,
                    message=self.message,
                )
            )


def _key(groups: Sequence[Sequence[int]], shares: Sequence[int]) -> frozenset[tuple[int, frozenset[int]]]:
    return frozenset((share, frozenset(group)) for group, share in zip(groups, shares, strict=True))
