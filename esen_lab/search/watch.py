"""One search under way: its best plan so far, its bound, its clock, and whether it should stop.

A searcher writes into a `Watch`; whoever started the search reads it, from any thread. So a search that is cut short,
by its time limit, a cancel or Ctrl-C, keeps its best so far.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

Groups: TypeAlias = tuple[tuple[int, ...], ...]
"""A partition of a problem's items into lanes: the indices of each lane's members."""

EXACTLY = 1e-9
"""Two JCTs closer than this, relatively, are the same: a sum of floats depends on its order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A plan in terms of a problem's items: lanes, their shares, and the JCT in seconds."""

    groups: Groups
    shares: tuple[int, ...]
    jct_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
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


class Watch:
    """The record of one search: written by the one thread that searches, readable by any.

    Args:
        on_progress: Called in the searching thread at every better plan, better bound and change of message; what it
            raises ends the search.
        on_better: Called in the searching thread with every plan that is better than all before.
        stop: Set by anybody to end the search early.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        on_better: Callable[[Found], None] | None = None,
        stop: threading.Event | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._on_progress = on_progress
        self._on_better = on_better
        self.stop = stop
        self._clock = clock
        self._started_s = clock()
        self.best: Found | None = None
        self.bound_s = 0.0
        self.evaluations = 0
        self.trace: list[tuple[float, float]] = []
        self.notes: list[str] = []
        self.message = ""
        self._until_s = float("inf")
        self._enough_s = 0.0
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
        self._enough_s = target_s

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
        """Whether the optimum is known: some plan that was offered meets the bound."""
        return self._optimum_known or self.jct_s <= self.bound_s * (1 + EXACTLY)

    def offer(self, groups: Sequence[Sequence[int]], shares: Sequence[int], jct_s: float) -> bool:
        """Keep this plan if it is better than the best so far; returns whether it was."""
        if not jct_s < self.jct_s * (1 - EXACTLY):
            return False
        self.best = Found(groups=tuple(tuple(group) for group in groups), shares=tuple(shares), jct_s=jct_s)
        self.trace.append((self.elapsed_s, jct_s))
        self.report()
        if self._on_better is not None:
            self._on_better(self.best)
        return True

    def prefer(self, groups: Sequence[Sequence[int]], shares: Sequence[int], jct_s: float) -> None:
        """Return this plan although the best so far may be faster. What is proven about the optimum stays proven."""
        self._optimum_known = self.proven
        self.best = Found(groups=tuple(tuple(group) for group in groups), shares=tuple(shares), jct_s=jct_s)

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
                Progress(
                    elapsed_s=self.elapsed_s,
                    jct_s=None if self.best is None else self.best.jct_s,
                    bound_s=self.bound_s,
                    evaluations=self.evaluations,
                    proven=self.proven,
                    message=self.message,
                )
            )
