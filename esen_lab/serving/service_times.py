"""How long a batch takes: what runs of so many rows have taken, else what the plan predicts.

s(n)   seconds for n rows
r      rows of the plan's example, J its predicted JCT

Before anything ran      s(n) = J max(1, n / r)
Once sizes were run      their mean, recent runs counting more; between and beyond sizes as plans for a rate take it
                         (`between_sizes`)

The first run of a size is not counted: lanes are told of the new look of their input, and engines prepare themselves.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from esen_lab.planner.rate.service import between_sizes

_WEIGHT = 0.2  # of a new run in the mean
_UNKNOWN_S = 0.01  # where there was no profile to predict from
_MOST_SIZES = 256


class BatchTimes:
    """The service times of one model. Used by one thread.

    Args:
        predicted_s: The plan's JCT, or None.
        rows: Of its example.
        run_at: The sizes that batches are filled up to, ascending; none: each runs at its own.
    """

    def __init__(self, predicted_s: float | None, rows: int, run_at: Sequence[int] = ()) -> None:
        self._predicted_s = predicted_s or _UNKNOWN_S
        self._rows = max(rows, 1)
        self._run_at = tuple(run_at)
        self._seen: set[int] = set()
        self._mean_s: dict[int, float] = {}
        self._sizes: list[int] = []

    def size_of(self, rows: int) -> int:
        """The size at which a batch of so many rows is run: the next of those that there are, else its own."""
        at = bisect_left(self._run_at, rows)
        return self._run_at[at] if at < len(self._run_at) else rows

    def ran(self, rows: int, seconds: float) -> None:
        """Note a run."""
        rows = self.size_of(rows)
        if rows not in self._seen:
            if len(self._seen) < _MOST_SIZES:
                self._seen.add(rows)
            return
        before = self._mean_s.get(rows)
        if before is None:
            self._sizes = sorted([*self._sizes, rows])
        self._mean_s[rows] = seconds if before is None else before + _WEIGHT * (seconds - before)

    def of(self, rows: int) -> float:
        """Expected seconds of a batch of so many rows."""
        rows = self.size_of(rows)
        sizes, mean_s = self._sizes, self._mean_s
        if not sizes:
            return self._predicted_s * max(1.0, rows / self._rows)
        if (known := mean_s.get(rows)) is not None:
            return known
        return between_sizes(sizes, mean_s.__getitem__, rows)


class Arrivals:
    """How often requests come. Used by one thread."""

    def __init__(self) -> None:
        self._last_s: float | None = None
        self._gap_s: float | None = None

    def came(self, now_s: float) -> None:
        """Note one."""
        if self._last_s is not None:
            gap = now_s - self._last_s
            self._gap_s = gap if self._gap_s is None else self._gap_s + _WEIGHT * (gap - self._gap_s)
        self._last_s = now_s

    def gap_s(self, now_s: float) -> float | None:
        """Expected seconds between two, or None; a silence that lasts longer than the mean counts already."""
        if self._gap_s is None or self._last_s is None:
            return None
        return max(self._gap_s, now_s - self._last_s)
