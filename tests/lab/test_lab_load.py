from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from esen_lab import Lab, Plan
from esen_lab.errors import UsageError
from esen_lab.lab.stages import load
from esen_lab.load import LoadTable
from esen_lab.planner.plan import Lane
from esen_lab.serving.prepared import sizes_of_engines


@pytest.fixture
def planned(lab: Lab) -> Lab:
    for name in ("a", "b"):
        lab.register(name, nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)), torch.randn(2, 8))
    lanes = tuple(Lane(units=1, members=(name,)) for name in lab.ensemble.names[: lab.device.units])
    lab.plan = Plan(lanes=lanes, units=lab.device.units, fingerprints=lab.ensemble.fingerprints)
    return lab


def test_a_load_test_has_a_row_for_each_way_and_rate(planned: Lab) -> None:
    told: list[tuple[int, int, str]] = []
    seen: list[LoadTable] = []
    table = planned.load_test(
        [5, 20],
        p99_s=30.0,
        duration_s=0.5,
        most_rows=4,
        ways=("plan", "sequential"),
        on_progress=lambda *step: told.append(step),
        on_row=seen.append,
    )
    assert [(row.name, row.rate_per_s) for row in table.rows] == [
        ("plan", 5),
        ("sequential", 5),
        ("plan", 20),
        ("sequential", 20),
    ]
    assert table.rows[0].requests == table.rows[1].requests  # the same times for each way
    for row in table.rows:
        assert row.unanswered == 0
        assert 0 < row.p50_s <= row.p90_s <= row.p99_s < math.inf
        assert row.queue_s is not None
        assert row.compute_s is not None
        assert row.compute_s <= row.p99_s
    assert [len(one.rows) for one in seen] == [1, 2, 3, 4]
    assert told[0] == (0, 4, "plan, 5 requests/s")
    assert "slowest" in table.notes[0]
    assert planned.run(torch.randn(3, 8)).shape == (2, 3, 3)


def test_rates_are_chosen_where_none_are_named(planned: Lab) -> None:
    table = planned.load_test(duration_s=0.05, most_rows=2, ways="plan")
    rates = [row.rate_per_s for row in table.rows]
    assert len(rates) == 3
    assert rates == sorted(rates)


def test_impossible_loads_are_refused(planned: Lab) -> None:
    with pytest.raises(UsageError, match="answered by plan, sequential"):
        planned.load_test([1], ways=("nobody",))
    with pytest.raises(UsageError, match="from 1 to 1024"):
        planned.load_test([1], most_rows=0)
    with pytest.raises(UsageError, match="A seed is a whole number"):
        planned.load_test([1], seed=-1)
    with pytest.raises(UsageError, match="above 0"):
        planned.load_test([-1], duration_s=0.1, ways=("plan",))
    with pytest.raises(UsageError, match="rows along dimension 0"):
        planned.load_test([1], (torch.zeros(2, 3), torch.zeros(3)), ways=("plan",))
    with pytest.raises(UsageError, match="an input of 0 rows"):
        planned.load_test([1], torch.zeros(0, 8), ways=("plan",))


@pytest.mark.parametrize(
    "asked",
    [
        {"rates": [5, -1]}, {"rates": [5, float("nan")]}, {"rates": ["5"]}, {"rates": 5}, {"rates": [1, 1e9]},
        {"p99_s": float("nan")}, {"p99_s": 0}, {"duration_s": 0}, {"duration_s": "1"}, {"rates": []},
        {"rates": [1e-5], "duration_s": 1e10}, {"ways": 5}, {"ways": [5]}, {"ways": ()},
    ],
)  # fmt: skip
def test_a_load_that_cannot_be_is_refused_before_lanes_start(
    asked: dict[str, Any], planned: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*given: object) -> None:
        raise AssertionError("lanes started first")

    monkeypatch.setattr(load.Executor, "start", start)
    with pytest.raises(UsageError):
        planned.load_test(**asked)


def test_batches_of_engines_are_filled_up_to_few_sizes_as_a_server_does_it() -> None:
    ran: list[int] = []
    executor: Any = SimpleNamespace(run=lambda x: ran.append(len(x)))
    inputs = [torch.zeros(rows, 8) for rows in range(1, 17)]
    for eager in (False, True):
        plan: Any = SimpleNamespace(lanes=(SimpleNamespace(all_eager=eager),))
        sizes = sizes_of_engines(plan, torch.zeros(2, 8), 16)
        ran.clear()
        for rows in range(1, 17):
            load._answer(executor, inputs, sizes, rows)
        assert all(size >= rows for size, rows in zip(ran, range(1, 17), strict=True))
        assert len(set(ran)) == (16 if eager else len(sizes))
        assert len(sizes) <= 8


def test_a_load_may_bring_arrays(planned: Lab) -> None:
    (row,) = planned.load_test([20], np.zeros((2, 8), "float32"), duration_s=0.1, most_rows=2, ways=("plan",)).rows
    assert row.unanswered == 0
