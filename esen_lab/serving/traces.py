"""Spans of OpenTelemetry, where that is installed and somebody has set up a tracer: a request, its wait, its run."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from esen_lab.common.packages import can_import
from esen_lab.serving.dispatcher import Answer

log = logging.getLogger("esen_lab.serving")
_LOOK_S = 1.0  # from a look that found nobody who traces, until the next one


class RequestTraces:
    """Tells a tracer of requests that were answered; without the library it does nothing.

    Args:
        tracer: Of OpenTelemetry; None: that of the provider that this process has set.
        clock: Seconds that go on.
    """

    def __init__(self, tracer: Any = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._tracer = tracer
        self._clock = clock
        self._look_again_s = -math.inf
        self._of_process = tracer is None
        if tracer is None and can_import("opentelemetry"):
            from opentelemetry import trace

            try:
                self._tracer = trace.get_tracer("esen_lab.serving")
            except Exception as problem:  # the environment names a provider that there is not
                log.warning("requests are not traced: OpenTelemetry has no provider (%r)", problem)

    def answered(self, scope: Mapping[str, Any], answer: Answer, came_s: float, model: str) -> None:
        """A request was answered just now.

        Args:
            scope: Of ASGI: a `traceparent` among its headers is the parent.
            answer: What it got.
            came_s: When it came, on `time.monotonic`.
            model: The name of which one.
        """
        if self._tracer is None or (self._of_process and self._nobody_traces()):
            return
        from opentelemetry import propagate, trace

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        offset_ns = time.time_ns() - time.monotonic_ns()  # spans are in the time of the day
        began = offset_ns + round(came_s * 1e9)
        ran = began + round(answer.queue_s * 1e9)
        attributes = {"esen.model": model, "esen.batch_rows": answer.batch_rows}
        span = self._tracer.start_span(
            "infer", context=propagate.extract(headers), start_time=began, attributes=attributes
        )
        inside = trace.set_span_in_context(span)
        for name, start, end in (("queue", began, ran), ("compute", ran, ran + round(answer.compute_s * 1e9))):
            self._tracer.start_span(name, context=inside, start_time=start).end(end_time=end)
        span.end()

    def _nobody_traces(self) -> bool:
        """Whether this process has set no provider, as of the last look: a span that nobody sees takes as long as one.

        The library reads the environment at every look: too dear for every request.
        """
        now_s = self._clock()
        if now_s < self._look_again_s:
            return True
        from opentelemetry import trace

        if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            self._of_process = False  # it stays: a process sets one once
            return False
        self._look_again_s = now_s + _LOOK_S
        return True
