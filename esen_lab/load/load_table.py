"""What a load came to: a row for each way to answer and rate, and the table of all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from esen_lab.common.display import Shown
from esen_lab.common.records import to_frame
from esen_lab.common.units import format_seconds, format_table
from esen_lab.files.schemas import plain
from esen_lab.load.batches import Replies

COLUMNS = ("way", "rate", "p50", "p90", "p95", "p99", "in time", "queue", "compute", "rows")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRow:
    """One way to answer, at one rate. Latencies count from when a request was due.

    Attributes:
        name: The way: "plan", "sequential", ...
        rate_per_s: How many requests were due a second.
        requests: How many there were.
        unanswered: How many of them were never answered, or with an error.
        p50_s: The median latency in seconds; inf where so many were never answered. So for the other percentiles.
        p90_s: The 90th percentile.
        p95_s: The 95th.
        p99_s: The 99th.
        goodput_per_s: Requests a second that were answered within the deadline.
        queue_s: Median time before work on a request began; None where it is not known.
        compute_s: Median time of the work on its batch; None where it is not known.
        mean_rows: Mean rows of a request's batch; None where it is not known.
        predicted_p99_s: What the queue computed from the measured times of batches comes to; None: not computed.
        late: How many requests were sent later than 1 ms after they were due, for want of a free connection.
    """

    name: str
    rate_per_s: float
    requests: int
    unanswered: int
    p50_s: float
    p90_s: float
    p95_s: float
    p99_s: float
    goodput_per_s: float
    queue_s: float | None = None
    compute_s: float | None = None
    mean_rows: float | None = None
    predicted_p99_s: float | None = None
    late: int = 0

    @property
    def cells(self) -> tuple[str, ...]:
        """As `COLUMNS`, for people."""
        times = [format_seconds(s) for s in (self.p50_s, self.p90_s, self.p95_s, self.p99_s)]
        rows = "-" if self.mean_rows is None else f"{self.mean_rows:.1f}"
        return (
            self.name,
            f"{self.rate_per_s:g}/s",
            *times,
            f"{self.goodput_per_s:.4g}/s",
            format_seconds(self.queue_s),
            format_seconds(self.compute_s),
            rows,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadTable(Shown):
    """The rows of a load test.

    Attributes:
        rows: By rate, then by way.
        deadline_s: Within what a request is answered in time.
        duration_s: For how long requests were due, at each rate.
        most_rows: The largest batch that requests were joined to.
        notes: What the reader should know.
    """

    rows: tuple[LoadRow, ...]
    deadline_s: float
    duration_s: float
    most_rows: int
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The table, for a terminal."""
        return "\n".join([format_table(COLUMNS, [row.cells for row in self.rows]), self.describe(), *self.notes])

    def describe(self) -> str:
        """What was done, in one line."""
        return (
            f"open loop, requests of one row at random for {self.duration_s:g} s at each rate, joined to batches of up "
            f"to {self.most_rows}; in time: within {format_seconds(self.deadline_s)}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data; None for a percentile that was never reached."""
        data = plain(self)
        for row in data["rows"]:
            row.update({key: None for key, value in row.items() if isinstance(value, float) and math.isinf(value)})
        return data

    def to_frame(self) -> Any:
        """A pandas table with a row per way and rate.

        Raises:
            UsageError: pandas is not installed.
        """
        return to_frame([plain(row) for row in self.rows])


def row_of(
    name: str,
    rate_per_s: float,
    answered: Sequence[Replies],
    *,
    deadline_s: float,
    duration_s: float,
    predicted_p99_s: float | None = None,
    late: int = 0,
) -> LoadRow:
    """What requests came to."""
    took = sorted(one.latency_s for one in answered)
    known = [one for one in answered if one.rows]
    return LoadRow(
        name=name,
        rate_per_s=rate_per_s,
        requests=len(answered),
        unanswered=sum(math.isinf(s) for s in took),
        p50_s=percentile(took, 0.50),
        p90_s=percentile(took, 0.90),
        p95_s=percentile(took, 0.95),
        p99_s=percentile(took, 0.99),
        goodput_per_s=sum(s <= deadline_s for s in took) / duration_s,
        queue_s=percentile(sorted(one.begin_s - one.due_s for one in known), 0.5) if known else None,
        compute_s=percentile(sorted(one.end_s - one.begin_s for one in known), 0.5) if known else None,
        mean_rows=sum(one.rows for one in known) / len(known) if known else None,
        predicted_p99_s=predicted_p99_s,
        late=late,
    )


def percentile(ascending: Sequence[float], q: float) -> float:
    """The smallest value that a part `q` of all does not exceed."""
    return ascending[max(0, math.ceil(q * len(ascending)) - 1)]
