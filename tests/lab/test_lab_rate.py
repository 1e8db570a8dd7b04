from __future__ import annotations

import pytest
import torch
from torch import nn

from esen_lab import Lab
from esen_lab.errors import InfeasibleError, UsageError
from esen_lab.planner import Limits


@pytest.fixture
def profiled(lab: Lab) -> Lab:
    for name in ("a", "b"):
        lab.register(name, nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)), torch.randn(2, 8))
    lab.profile(budget_s=0.02, backends=[]).result(timeout=120)
    return lab


def test_a_search_for_a_rate_puts_its_plan_in_force_and_says_what_it_is_for(profiled: Lab) -> None:
    plan = profiled.search(rate_per_s=0.5, p99_s=30.0)
    assert profiled.plan is plan
    assert plan.notes[0].startswith("for 0.5 requests/s: batches of up to ")
    assert profiled.run(torch.randn(5, 8)).shape == (2, 5, 3)


def test_a_rate_that_cannot_be_held_leaves_the_plan_in_force(profiled: Lab) -> None:
    with pytest.raises(InfeasibleError, match="a request alone takes"):
        profiled.search(rate_per_s=1.0, p99_s=1e-7)
    assert profiled.plan is None
    before = profiled.search()
    with pytest.raises(InfeasibleError, match="a request alone takes"):
        profiled.search(rate_per_s=1.0, p99_s=1e-7, limits={"max_lanes": 1})
    assert profiled.plan is before
    assert profiled.state.limits == Limits()


def test_a_rate_and_its_percentile_come_together(profiled: Lab) -> None:
    with pytest.raises(UsageError, match="no p99_s"):
        profiled.search(rate_per_s=10)
    with pytest.raises(UsageError, match="no rate_per_s"):
        profiled.search(p99_s=0.1)
    with pytest.raises(UsageError, match="no deadline beside it"):
        profiled.search(rate_per_s=10, p99_s=0.1, deadline_s=0.1)
