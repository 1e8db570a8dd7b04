"""The program that measures a server sends what the server takes, and counts what comes back."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from served_doubles import FakeServed
from waiting import until

from esen_lab.serving.server import Server
from esen_lab.serving.server_settings import ServeSettings

ROOT = Path(__file__).parents[2]


def test_its_clients_get_answers_at_a_rate_and_as_fast_as_they_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import bench_serve

    with Server(ServeSettings(port=0)).start() as server:
        server.warm(FakeServed(torch.zeros(2, bench_serve.ROW)))  # type: ignore[arg-type]
        at_a_rate = bench_serve.load(server.port, 3, rate=20.0, seconds=0.5)
        fast = bench_serve.load(server.port, 3, rate=0.0, seconds=0.3)
        until(lambda: server.totals.answered == at_a_rate["answered"] + fast["answered"])  # counted once they are sent
    assert at_a_rate["answered"] > 0
    assert at_a_rate["refused"] == fast["refused"] == 0
    assert 0 < at_a_rate["p50_ms"] <= at_a_rate["p99_ms"]
    assert "lanes MB" in bench_serve.sample()
    assert sys.modules.pop("bench_serve")


def test_parts_of_a_request_add_up_to_what_it_takes_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import serve_parts

    *own, added, run = serve_parts.table(
        {"constant": 0.1, "http": 0.2, "nothing": 0.4, "lab": 1.5, "run": 0.7, "apart": 0.8}
    ).values()
    assert own == pytest.approx([1e5, 1e5, 2e5, 1e5, 3e5])
    assert (added, run) == pytest.approx((sum(own), 7e5))
    for name in ("serve_parts", "bench_request"):
        assert sys.modules.pop(name)
