"""The program that measures a server sends what the server takes, and counts what comes back."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from served_doubles import FakeServed
from waiting import until

from esen_lab.serving.server import Server
from esen_lab.serving.settings import ServeSettings

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
