"""The bound that holds for any schedule."""

from __future__ import annotations

import pytest
from brute import brute_jct_s
from hypothesis import given
from hypothesis import strategies as st

from esen_lab.planner import allocate
from esen_lab.planner.bounds import schedule_bound_s
from esen_lab.planner.problem import SearchProblem, make_problem

TABLES = st.integers(1, 6).flatmap(
    lambda units: st.lists(st.lists(st.floats(0.1, 10.0), min_size=units, max_size=units), min_size=1, max_size=6)
)


def is_possible(problem: SearchProblem, deadline_s: float) -> bool:
    """The definition: everybody can make it, and the least areas fit."""
    area = 0.0
    for row in problem.rows:
        areas = [share * latency for share, latency in enumerate(row, start=1) if latency <= deadline_s]
        if not areas:
            return False
        area += min(areas)
    return area <= problem.capacity * deadline_s


@given(tables=TABLES)
def test_it_is_the_smallest_deadline_that_the_definition_allows(tables: list[list[float]]) -> None:
    problem = make_problem({f"m{i}": table for i, table in enumerate(tables)}, len(tables[0]))
    bound_s = schedule_bound_s(problem)
    assert is_possible(problem, bound_s * (1 + 1e-12))
    assert not is_possible(problem, bound_s * (1 - 1e-9))


@given(tables=TABLES)
def test_no_plan_is_faster(tables: list[list[float]]) -> None:
    latencies = {f"m{i}": table for i, table in enumerate(tables)}
    found = allocate(latencies, len(tables[0]))
    assert found.schedule_bound_s <= found.bound_s <= found.jct_s
    assert schedule_bound_s(make_problem(latencies, len(tables[0]))) <= brute_jct_s(latencies, len(tables[0])) * (
        1 + 1e-12
    )


def test_one_that_does_not_scale_is_bound_by_its_own_path_and_perfect_scaling_by_area() -> None:
    flat = make_problem({"a": [3.0] * 4, "b": [1.0] * 4}, 4)
    assert schedule_bound_s(flat) == 3.0
    perfect = make_problem({name: [4.0, 2.0, 4 / 3, 1.0] for name in "abc"}, 4)
    assert schedule_bound_s(perfect) == pytest.approx(3.0)


def test_limits_on_shares_raise_it() -> None:
    latencies = {"a": [4.0, 2.0, 1.5, 1.0], "b": [4.0, 2.0, 1.5, 1.0]}
    free = allocate(latencies, 4)
    narrow = allocate(latencies, 4, limits={"max_units": {"a": 1}})
    assert free.schedule_bound_s == pytest.approx(2.0)
    assert narrow.schedule_bound_s == 4.0
