"""Rules of thumb, by their definitions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esen_lab.errors import UsageError
from esen_lab.search import allocate
from esen_lab.search.thumb import split

SCALES = [8.0 / s for s in range(1, 9)]
FLAT = [2.0] * 8


def test_sequential_is_one_lane_with_everything() -> None:
    found = allocate({"a": SCALES, "b": FLAT}, 8, "sequential")
    assert found.lanes == ((8, ("a", "b")),)
    assert found.jct_s == 3.0


def test_equal_shares_are_equal_with_the_rest_to_the_longest() -> None:
    found = allocate({"a": FLAT, "b": SCALES, "c": FLAT}, 8, "equal")
    assert {names[0]: share for share, names in found.lanes} == {"b": 3, "a": 3, "c": 2}


def test_proportional_shares_follow_the_latency_alone() -> None:
    found = allocate({"a": [6.0] * 8, "b": [2.0] * 8}, 8, "proportional")
    assert found.lanes == ((6, ("a",)), (2, ("b",)))


def test_knee_shares_stop_at_the_knee() -> None:
    early = [4.0, 2.0, 1.0, 0.95, 0.95, 0.95, 0.95, 0.95]
    found = allocate({"a": early, "b": FLAT}, 8, "knee")
    assert found.lanes == ((3, ("a",)), (1, ("b",)))
    assert allocate({"a": early, "b": FLAT}, 8, "knee", within=0.0).lanes[0] == (4, ("a",))
    with pytest.raises(UsageError, match="at least 0"):
        allocate({"a": FLAT}, 8, "knee", within=-1.0)


@pytest.mark.parametrize("rule", ["equal", "proportional", "knee"])
def test_more_sub_models_than_units_are_dealt_onto_lanes_of_one_unit(rule: str) -> None:
    tables = {"a": [5.0, 4.0], "b": [3.0, 2.0], "c": [2.0, 2.0]}
    found = allocate(tables, 2, rule)
    assert found.lanes == ((1, ("a",)), (1, ("b", "c")))


@given(weights=st.lists(st.floats(0.01, 100.0), min_size=1, max_size=12), more=st.integers(0, 50))
def test_a_split_gives_out_every_unit_and_at_least_one_each(weights: list[float], more: int) -> None:
    shares = split(weights, len(weights) + more)
    assert sum(shares) == len(weights) + more
    assert min(shares) >= 1
    exact = [1 + weight * more / sum(weights) for weight in weights]
    assert all(abs(share - wanted) < 1 for share, wanted in zip(shares, exact, strict=True))
