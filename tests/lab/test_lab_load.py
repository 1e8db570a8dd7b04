from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from esen_lab import Lab, Plan
from esen_lab.errors import UsageError
from esen_lab.load import LoadTable
from esen_lab.planner.plan import Lane


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
    table = planned.load_test(duration_s=0.05, most_rows=2, ways=("plan",))
    rates = [row.rate_per_s for row in table.rows]
    assert len(rates) == 3
    assert rates == sorted(rates)


def test_impossible_loads_are_refused(planned: Lab) -> None:
    with pytest.raises(UsageError, match="answered by plan, sequential"):
        planned.load_test([1], ways=("nobody",))
    with pytest.raises(UsageError, match="from 1 to 1024"):
        planned.load_test([1], most_rows=0)
    with pytest.raises(UsageError, match="above 0"):
        planned.load_test([-1], duration_s=0.1, ways=("plan",))
    with pytest.raises(UsageError, match="rows along dimension 0"):
        planned.load_test([1], (torch.zeros(2, 3), torch.zeros(3)), ways=("plan",))
