"""Shares for given lanes: exact for any table."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esen_lab.planner import allocate
from esen_lab.planner.limits import Limits
from esen_lab.planner.problem import make_problem
from esen_lab.planner.shares import best_shares

TABLES = st.integers(1, 6).flatmap(
    lambda units: st.lists(
        st.lists(st.floats(0.1, 10.0), min_size=units, max_size=units), min_size=1, max_size=min(4, units)
    )
)


def by_trying_all(tables: list[list[float]], capacity: int) -> float:
    """The least JCT over all shares, one lane each, a lane using as many of its units as it likes."""
    best = math.inf
    for shares in itertools.product(range(1, len(tables[0]) + 1), repeat=len(tables)):
        if sum(shares) <= capacity:
            best = min(best, max(min(table[:share]) for table, share in zip(tables, shares, strict=True)))
    return best


@given(tables=TABLES)
def test_one_lane_each_is_exact_for_any_table(tables: list[list[float]]) -> None:
    units = len(tables[0])
    latencies = {f"m{i}": table for i, table in enumerate(tables)}
    found = allocate(latencies, units, limits=Limits(one_each=True), sequential_within=0.0)
    assert found.jct_s == by_trying_all(tables, units)
    assert found.proven
    assert sorted(names for _, names in found.lanes) == sorted((name,) for name in latencies)
    assert sum(share for share, _ in found.lanes) <= units


@given(tables=TABLES)
def test_leftover_units_make_other_lanes_faster_and_no_lane_slower(tables: list[list[float]]) -> None:
    units = len(tables[0])
    problem = make_problem({f"m{i}": table for i, table in enumerate(tables)}, units)
    groups = tuple((i,) for i in range(len(tables)))
    found = best_shares(problem, groups)
    assert found is not None
    shares, jct_s = found
    assert problem.jct_s(groups, shares) == jct_s
    free = problem.capacity - sum(shares)
    for i, share in enumerate(shares):
        wider = min(units, share + free)
        assert problem.rows[i][wider - 1] == problem.rows[i][share - 1]


@pytest.mark.timing
def test_eight_sub_models_on_sixteen_units_take_a_few_milliseconds() -> None:
    random = np.random.default_rng(0)
    latencies = {f"m{i}": np.sort(random.uniform(1, 10, 16))[::-1].tolist() for i in range(8)}
    found = [allocate(latencies, 16, limits=Limits(one_each=True)) for _ in range(10)]
    assert sorted(one.elapsed_s for one in found)[0] < 0.005


def test_lanes_that_do_not_fit_have_no_shares() -> None:
    problem = make_problem({"a": [1.0, 1.0], "b": [1.0, 1.0], "c": [1.0, 1.0]}, 2)
    assert best_shares(problem, ((0,), (1,), (2,))) is None
