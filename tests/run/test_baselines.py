"""The baselines as plans."""

from __future__ import annotations

import pytest
from models import Sleeper, mlp
from runtime_cases import ensemble_of

from esen_lab.errors import UsageError
from esen_lab.run import STRATEGIES


def test_sequential_is_one_lane_with_the_whole_device() -> None:
    assert STRATEGIES["sequential"](ensemble_of(a=mlp(), b=mlp()), 8).describe() == "8: a + b"


def test_unlimited_gives_everyone_the_whole_device() -> None:
    plan = STRATEGIES["unlimited"](ensemble_of(a=mlp(), b=mlp()), 8)
    assert plan.describe() == "8: a | 8: b"
    assert plan.oversubscribed


def test_equal_shares_divide_the_device_and_never_fall_below_one_unit() -> None:
    ensemble = ensemble_of(a=mlp(), b=mlp(), c=mlp())
    assert [lane.units for lane in STRATEGIES["equal"](ensemble, 8).lanes] == [2, 2, 2]
    assert [lane.units for lane in STRATEGIES["equal"](ensemble, 2).lanes] == [1, 1, 1]


def test_vmap_is_offered_only_where_all_share_one_architecture() -> None:
    assert STRATEGIES["vmap"](ensemble_of(a=mlp(seed=1), b=mlp(seed=2)), 2).lanes[0].mode == "vmap"
    with pytest.raises(UsageError, match="one architecture"):
        STRATEGIES["vmap"](ensemble_of(a=mlp(), b=Sleeper()), 2)
