"""What is counted of a server, for Prometheus: in a registry of its own, so that several servers do not mix.

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
from collections import Counter as Tally
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

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
    by_reason: Tally[str] = field(default_factory=Tally)
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


class Metrics:
    """Counts. Told in the event loop, but for `mended`."""

    def __init__(self) -> None:
        self.totals = Totals()
        self.registry = CollectorRegistry()
        here = self.registry
        self._request_s = Histogram("esen_request_seconds", "From coming to answer", buckets=_SECONDS, registry=here)
        self._queue_s = Histogram("esen_queue_seconds", "Waiting for a run", buckets=_SECONDS, registry=here)
        self._compute_s = Histogram("esen_compute_seconds", "A batch's run", buckets=_SECONDS, registry=here)
        self._rows = Histogram("esen_batch_rows", "Rows of a batch", buckets=_COUNTS, registry=here)
        self._joined = Histogram("esen_batch_requests", "Requests of a batch", buckets=_COUNTS, registry=here)
        self._responses = Counter("esen_responses", "Responses by status", ["status"], registry=here)
        self._refusals = Counter("esen_refusals", "Refused requests by reason", ["reason"], registry=here)
        self._busy_s = Counter("esen_lane_busy_seconds", "Seconds that a lane was busy", ["lane"], registry=here)
        self._restarts = Counter("esen_lane_restarts", "Starts of lanes that had ended", registry=here)
        self._length = Gauge("esen_queue_length", "Requests that wait", registry=here)
        self._fallbacks = Gauge("esen_fallbacks", "Sub-models not executed as the plan says", registry=here)
        self._ok = self._responses.labels("200")

    def look_at(self, waiting: Callable[[], int], fallen_back: Callable[[], int]) -> None:
        """Where the gauges read."""
        self._length.set_function(waiting)
        self._fallbacks.set_function(fallen_back)

    def answered(self, took_s: float, queue_s: float, compute_s: float) -> None:
        """A request got an answer of the model: how long that took, and of that the wait and the run of its batch."""
        totals = self.totals
        totals.answered += 1
        totals.request_s += took_s
        totals.queue_s += queue_s
        totals.request_compute_s += compute_s
        self._request_s.observe(took_s)
        self._queue_s.observe(queue_s)
        self._ok.inc()

    def failed(self, status: int, reason: str) -> None:
        """A request got none."""
        self._responses.labels(str(status)).inc()
        self.refused(reason)

    def refused(self, reason: str) -> None:
        """The same, where nobody hears the status any more."""
        self.totals.failed += 1
        self.totals.by_reason[reason] += 1
        self._refusals.labels(reason).inc()

    def ran(self, runs: Sequence[BatchRun]) -> None:
        """Batches were run."""
        totals = self.totals
        for run in runs:
            totals.batches += 1
            totals.rows += run.rows
            totals.compute_s += run.took_s
            if run.done:
                self._count_done(run)
            self._rows.observe(run.rows)
            self._joined.observe(run.requests)
            self._compute_s.observe(run.took_s)
            for number, busy_s in () if run.report is None else _busy_s(run.report):
                totals.lane_busy_s[number] = totals.lane_busy_s.get(number, 0.0) + busy_s
                self._busy_s.labels(str(number)).inc(busy_s)

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
        self._restarts.inc()

    def text(self) -> bytes:
        """In the text format that Prometheus reads."""
        return generate_latest(self.registry)


def _busy_s(report: RunReport) -> Iterator[tuple[int, float]]:
    """For each lane its number in the plan, and how long it was busy; a report leaves out those that nobody came to."""
    lane_of = {span.name: span.lane for span in report.spans}
    for position, lane in enumerate(report.lanes):
        known = [lane_of[name] for name in lane.members if name in lane_of]
        yield known[0] if known else position, max(lane.busy_s, 0.0)
