"""What a tracer hears of a request."""

from __future__ import annotations

import time

import pytest

from esen_lab.serving.dispatcher import Answer
from esen_lab.serving.signature import ModelInfo
from esen_lab.serving.traces import RequestTraces

export = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter", reason="no OpenTelemetry here")
trace = pytest.importorskip("opentelemetry.sdk.trace", reason="no OpenTelemetry here")


def test_a_request_is_a_span_under_its_callers_with_its_wait_and_its_run_inside(model: ModelInfo) -> None:
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    heard = export.InMemorySpanExporter()
    provider = trace.TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(heard))
    caller, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    scope = {"headers": [(b"traceparent", f"00-{caller}-{parent}-01".encode())]}
    answer = Answer(model=model, outputs=(), queue_s=0.25, compute_s=0.5, batch_rows=3)
    RequestTraces(provider.get_tracer("test")).answered(scope, answer, time.monotonic() - 1.0, "ensemble")
    queue, compute, whole = heard.get_finished_spans()
    assert [span.name for span in (queue, compute, whole)] == ["queue", "compute", "infer"]
    assert f"{whole.context.trace_id:032x}" == caller
    assert f"{whole.parent.span_id:016x}" == parent
    assert {queue.parent.span_id, compute.parent.span_id} == {whole.context.span_id}
    assert queue.start_time == whole.start_time
    assert queue.end_time - queue.start_time == 250_000_000
    assert (compute.start_time, compute.end_time - compute.start_time) == (queue.end_time, 500_000_000)
    assert whole.end_time >= whole.start_time
    assert dict(whole.attributes or {}) == {"esen.model": "ensemble", "esen.batch_rows": 3}


def test_an_environment_that_names_no_provider_keeps_nobody_from_serving(
    model: ModelInfo, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from opentelemetry import trace as api

    monkeypatch.setattr(api, "_TRACER_PROVIDER", None)
    monkeypatch.setenv("OTEL_PYTHON_TRACER_PROVIDER", "there_is_none")
    traces = RequestTraces()
    assert "requests are not traced" in caplog.text
    answer = Answer(model=model, outputs=(), queue_s=0.25, compute_s=0.5, batch_rows=3)
    traces.answered({"headers": []}, answer, time.monotonic(), "ensemble")


def test_where_nobody_set_a_tracer_up_no_span_is_made(model: ModelInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    from opentelemetry import trace as api

    now_s = 0.0
    traces = RequestTraces(clock=lambda: now_s)
    answer = Answer(model=model, outputs=(), queue_s=0.25, compute_s=0.5, batch_rows=3)
    heard = export.InMemorySpanExporter()
    made: list[str] = []
    monkeypatch.setattr(traces._tracer, "start_span", lambda name, **_: made.append(name), raising=False)
    traces.answered({"headers": []}, answer, time.monotonic(), "ensemble")
    assert made == []
    # Whoever sets a provider up later is told from the next look on, a second after the last.
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    provider = trace.TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(heard))
    monkeypatch.setattr(api, "get_tracer_provider", lambda: provider)
    monkeypatch.setattr(traces, "_tracer", provider.get_tracer("test"))
    now_s = 1.0
    traces.answered({"headers": []}, answer, time.monotonic(), "ensemble")
    assert [span.name for span in heard.get_finished_spans()] == ["queue", "compute", "infer"]


def test_requests_that_nobody_traces_do_not_ask_the_library_each_for_it(
    model: ModelInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    from opentelemetry import trace as api

    asked: list[None] = []
    provider = api.ProxyTracerProvider()
    traces = RequestTraces(clock=iter([0.0, 0.1, 0.9, 1.0, 1.9]).__next__)
    monkeypatch.setattr(api, "get_tracer_provider", lambda: asked.append(None) or provider)
    answer = Answer(model=model, outputs=(), queue_s=0.25, compute_s=0.5, batch_rows=3)
    for _ in range(5):
        traces.answered({"headers": []}, answer, time.monotonic(), "ensemble")
    assert len(asked) == 2
