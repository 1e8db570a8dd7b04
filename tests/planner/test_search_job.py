"""A search in the background."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable

import pytest

from esen_lab.errors import UsageError, WorkerTimeout
from esen_lab.planner import SearchJob, allocate

Latencies = dict[str, list[float]]


def test_it_gives_the_plan_that_the_search_gives(latencies: Callable[..., Latencies]) -> None:
    tables = latencies(8, 16, 1)
    job = SearchJob(functools.partial(allocate, tables, 16))
    assert job.result(timeout=30).lanes == allocate(tables, 16).lanes
    assert job.done
    assert job.snapshot().proven


def test_it_can_be_cancelled_and_keeps_its_best(latencies: Callable[..., Latencies]) -> None:
    job = SearchJob(functools.partial(allocate, latencies(10, 16, 1), 16, "optuna", n_trials=10**6))
    while job.snapshot().jct_s is None:
        threading.Event().wait(0.001)
    with pytest.raises(WorkerTimeout, match="still searching"):
        job.result(timeout=0.001)
    job.cancel()
    found = job.result(timeout=30)
    assert found.plan.notes[-1].startswith("stopped on request")


def test_it_raises_what_the_search_raises() -> None:
    job = SearchJob(functools.partial(allocate, {}, 4))
    with pytest.raises(UsageError, match="at least one sub-model"):
        job.result(timeout=30)
