"""What is counted of a server, for Prometheus: in a registry of its own, so that several servers do not mix.

esen_request_seconds        from a request's coming to its answer            by model
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from esen_lab.run.report import RunReport

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(slots=True, kw_only=True)
class Totals:
    """What was counted since the server began; seconds are sums.

    Attributes:
        answered: Requests with an answer of the model.
        failed: Requests without.
        by_reason: Those, by reason.
        request_s: From coming to answer.
        queue_s: Of that, waiting.
        batches: Runs.
        rows: Of all batches.
        compute_s: Of all batches.
        restarts: How often lanes were started anew.
        lane_busy_s: For each lane.
        began_s: On `time.monotonic`.
    """

    answered: int = 0
    failed: int = 0
    by_reason: Tally[str] = field(default_factory=Tally)
    request_s: float = 0.0
    queue_s: float = 0.0
    batches: int = 0
    rows: int = 0
    compute_s: float = 0.0
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

    def answered(self, took_s: float) -> None:
        """A request got an answer of the model."""
        totals = self.totals
        totals.answered += 1
        totals.request_s += took_s
        self._request_s.observe(took_s)
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

    def ran(self, rows: int, queue_s: Sequence[float], took_s: float, report: RunReport | None) -> None:
        """A batch was run.

        Args:
            rows: Of it.
            queue_s: How long each of its requests that have an answer waited.
            took_s: How long it took.
            report: Of the run, where there is one.
        """
        totals = self.totals
        totals.batches += 1
        totals.rows += rows
        totals.compute_s += took_s
        totals.queue_s += sum(queue_s)
        self._rows.observe(rows)
        self._joined.observe(len(queue_s))
        self._compute_s.observe(took_s)
        for waited_s in queue_s:
            self._queue_s.observe(waited_s)
        for index, lane in enumerate(report.lanes if report is not None else ()):
            totals.lane_busy_s[index] = totals.lane_busy_s.get(index, 0.0) + lane.busy_s
            self._busy_s.labels(str(index)).inc(max(lane.busy_s, 0.0))

    def mended(self, took_s: float) -> None:  # noqa: ARG002  said in the log
        """Lanes that had ended were started anew."""
        self.totals.restarts += 1
        self._restarts.inc()

    def text(self) -> bytes:
        """In the text format that Prometheus reads."""
        return generate_latest(self.registry)
