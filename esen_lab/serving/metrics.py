"""What is counted of a server, for Prometheus: in a registry of its own, so that several servers do not mix.

Every request is counted, and few people look: counting is adding to numbers, and what Prometheus reads is made of them
when it asks.

esen_request_seconds        from a request's coming to its answer, of those that were answered
esen_queue_seconds          of that, waiting for its run
esen_compute_seconds        a batch's run: joining, lanes, combining, parting
esen_batch_rows             rows of the batches that were run;  esen_batch_requests  how many requests were joined
esen_responses_total        by status;   esen_refusals_total  by reason ("busy", "deadline", "malformed", "left", ...)
esen_queue_length           requests that wait now
esen_lane_busy_seconds_total  by lane: its busy share is rate(...[1m])
esen_lane_restarts_total    how often lanes that had ended were started anew
esen_fallbacks              sub-models that are not executed as the plan says
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric

from esen_lab.run.report import RunReport

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(slots=True, kw_only=True)  # frozen, one takes three times as long to make
class BatchRun:
    """One run of the lanes for requests.

    Attributes:
        rows: Of its requests.
        requests: How many were joined.
        took_s: How long it took, with joining and parting.
        report: What happened; None where nobody knows, such as where it failed.
        done: Whether it came to an answer for them.
    """

    rows: int
    requests: int
    took_s: float
    report: RunReport | None
    done: bool


@dataclass(slots=True, kw_only=True)
class Totals:
    """What was counted since the server began; seconds are sums.

    Attributes:
        answered: Requests with an answer of the model.
        failed: Requests without.
        by_reason: Those, by reason.
        by_status: Responses, by status.
        request_s: From coming to answer, of those that were answered.
        queue_s: Of that, waiting.
        request_compute_s: Of that, the run of their batch.
        batches: Runs, also those that failed.
        rows: Of all batches.
        compute_s: Of all batches.
        done_batches: Runs that came to an answer.
        done_rows: Of these.
        by_rows: The same for each size of a batch, up to the largest of `_COUNTS`: how many, and their seconds.
        last_at_s: When the last of these was done, since 1970; 0 before the first.
        restarts: How often lanes were started anew.
        lane_busy_s: For each lane.
        began_s: On `time.monotonic`.
    """

    answered: int = 0
    failed: int = 0
    by_reason: Counter[str] = field(default_factory=Counter)
    by_status: Counter[int] = field(default_factory=lambda: Counter({200: 0}))
    request_s: float = 0.0
    queue_s: float = 0.0
    request_compute_s: float = 0.0
    batches: int = 0
    rows: int = 0
    compute_s: float = 0.0
    done_batches: int = 0
    done_rows: int = 0
    by_rows: dict[int, tuple[int, float]] = field(default_factory=dict)
    last_at_s: float = 0.0
    restarts: int = 0
    lane_busy_s: dict[int, float] = field(default_factory=dict)
    began_s: float = field(default_factory=time.monotonic)


class Counted:
    """Numbers, counted by size; told by one thread, read by any.

    Args:
        name: Of the histogram.
        what: It holds, for people.
        bounds: Of its parts, ascending; a number at a bound is below it.
    """

    def __init__(self, name: str, what: str, bounds: Sequence[float]) -> None:
        self._name = name
        self._what = what
        self._bounds = bounds
        self._words = [*(str(float(bound)) for bound in bounds), "+Inf"]
        self._counts = [0] * len(self._words)
        self._sum = 0.0

    def add(self, number: float) -> None:
        """Count one."""
        self._counts[bisect_left(self._bounds, number)] += 1
        self._sum += number

    @property
    def told(self) -> HistogramMetricFamily:
        """As Prometheus has it."""
        buckets = list(zip(self._words, map(float, accumulate(self._counts)), strict=True))
        return HistogramMetricFamily(self._name, self._what, buckets=buckets, sum_value=self._sum)


class Metrics:
    """Counts. Told in the event loop, but for `mended`; a collector of its registry."""

    def __init__(self) -> None:
        self.totals = Totals()
        self._request_s = Counted("esen_request_seconds", "From coming to answer", _SECONDS)
        self._queue_s = Counted("esen_queue_seconds", "Waiting for a run", _SECONDS)
        self._compute_s = Counted("esen_compute_seconds", "A batch's run", _SECONDS)
        self._rows = Counted("esen_batch_rows", "Rows of a batch", _COUNTS)
        self._joined = Counted("esen_batch_requests", "Requests of a batch", _COUNTS)
        self._waiting: Callable[[], int] = lambda: 0
        self._fallen_back: Callable[[], int] = lambda: 0
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def look_at(self, waiting: Callable[[], int], fallen_back: Callable[[], int]) -> None:
        """Where the gauges read."""
        self._waiting, self._fallen_back = waiting, fallen_back

    def answered(self, took_s: float, queue_s: float, compute_s: float) -> None:
        """A request got an answer of the model: how long that took, and of that the wait and the run of its batch."""
        totals = self.totals
        totals.answered += 1
        totals.request_s += took_s
        totals.queue_s += queue_s
        totals.request_compute_s += compute_s
        totals.by_status[200] += 1
        self._request_s.add(took_s)
        self._queue_s.add(queue_s)

    def failed(self, status: int, reason: str) -> None:
        """A request got none."""
        self.totals.by_status[status] += 1
        self.refused(reason)

    def refused(self, reason: str) -> None:
        """The same, where nobody hears the status any more."""
        self.totals.failed += 1
        self.totals.by_reason[reason] += 1

    def ran(self, runs: Sequence[BatchRun]) -> None:
        """Batches were run."""
        totals = self.totals
        for run in runs:
            totals.batches += 1
            totals.rows += run.rows
            totals.compute_s += run.took_s
            if run.done:
                self._count_done(run)
            self._rows.add(run.rows)
            self._joined.add(run.requests)
            self._compute_s.add(run.took_s)
            for number, busy_s in () if run.report is None else _busy_s(run.report):
                totals.lane_busy_s[number] = totals.lane_busy_s.get(number, 0.0) + busy_s

    def _count_done(self, run: BatchRun) -> None:
        totals = self.totals
        totals.done_batches += 1
        totals.done_rows += run.rows
        totals.last_at_s = time.time()
        if run.rows <= _COUNTS[-1]:  # clients choose their rows: there are not ever more sizes to remember
            count, seconds = totals.by_rows.get(run.rows, (0, 0.0))
            totals.by_rows[run.rows] = (count + 1, seconds + run.took_s)

    def mended(self, took_s: float) -> None:  # noqa: ARG002  said in the log
        """Lanes that had ended were started anew."""
        self.totals.restarts += 1

    def text(self) -> bytes:
        """In the text format that Prometheus reads."""
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """Of the registry: all that is counted, as it is now."""
        totals = self.totals
        for one in (self._request_s, self._queue_s, self._compute_s, self._rows, self._joined):
            yield one.told
        yield _by("esen_responses", "Responses by status", "status", totals.by_status)
        yield _by("esen_refusals", "Refused requests by reason", "reason", totals.by_reason)
        yield _by("esen_lane_busy_seconds", "Seconds that a lane was busy", "lane", totals.lane_busy_s)
        yield CounterMetricFamily("esen_lane_restarts", "Starts of lanes that had ended", value=totals.restarts)
        yield GaugeMetricFamily("esen_queue_length", "Requests that wait", value=self._waiting())
        yield GaugeMetricFamily("esen_fallbacks", "Sub-models not executed as the plan says", value=self._fallen_back())


def _by(name: str, what: str, label: str, counts: Mapping[Any, float]) -> CounterMetricFamily:
    """A counter for each value of a label."""
    found = CounterMetricFamily(name, what, labels=[label])
    for value, count in list(counts.items()):  # another thread may add one meanwhile
        found.add_metric([str(value)], count)
    return found


def _busy_s(report: RunReport) -> Iterator[tuple[int, float]]:
    """For each lane its number in the plan, and how long it was busy; a report leaves out those that nobody came to."""
    lane_of = {span.name: span.lane for span in report.spans}
    for position, lane in enumerate(report.lanes):
        known = [lane_of[name] for name in lane.members if name in lane_of]
        yield known[0] if known else position, max(lane.busy_s, 0.0)
