"""The direct solution of small cases: the same optimum as trying every partition, under every limit it takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from brute import brute_jct_s
from hypothesis import given
from hypothesis import strategies as st

from esen_lab.errors import InfeasibleError
from esen_lab.planner import Limits
from esen_lab.planner.exact.direct import best_groups, cost
from esen_lab.planner.problem import make_problem
from esen_lab.planner.shares import best_shares

TABLES = st.integers(1, 6).flatmap(
    lambda units: st.lists(st.lists(st.floats(0.1, 10.0), min_size=units, max_size=units), min_size=1, max_size=6)
)
LIMITS: list[dict[str, Any]] = [
    {},
    {"apart": [["m0", "m1"]]},
    {"apart": [["m0", "m1", "m2"]], "together": [["m3", "m4"]]},
    {"pinned": {"m1": 2}},
    {"max_units": {"m0": 1}, "min_units": {"m2": 3}},
    {"oversubscription": 1.5},
    {"oversubscription": 2, "apart": [["m0", "m1"]]},
]


@given(tables=TABLES)
def test_it_is_as_good_as_trying_every_partition(tables: list[list[float]]) -> None:
    named = {f"m{i}": table for i, table in enumerate(tables)}
    problem = make_problem(named, len(tables[0]))
    groups = best_groups(problem)
    assert groups is not None
    assert sorted(i for group in groups for i in group) == list(range(len(tables)))
    found = best_shares(problem, groups)
    assert found is not None
    assert found[1] == pytest.approx(brute_jct_s(named, len(tables[0])), rel=1e-9)


@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_it_keeps_to_limits_and_says_when_none_keeps_them(limits: dict[str, Any], seed: int) -> None:
    random = np.random.default_rng(seed)
    named = {f"m{i}": random.uniform(0.1, 10, 4).tolist() for i in range(5)}
    problem = make_problem(named, 4, Limits.of(limits))
    groups = best_groups(problem)
    try:
        expected_s = brute_jct_s(named, 4, limits=limits)
    except InfeasibleError:
        assert groups is None
        return
    assert groups is not None
    found = best_shares(problem, groups)
    assert found is not None
    assert found[1] == pytest.approx(expected_s, rel=1e-9)


def test_it_does_not_apply_where_lanes_are_limited() -> None:
    tables = {f"m{i}": [1.0, 0.5] for i in range(3)}
    assert cost(make_problem(tables, 2)) < float("inf")
    assert cost(make_problem(tables, 2, Limits(max_lanes=1))) == float("inf")
