"""The exact test for a deadline."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from brute import partitions
from hypothesis import given, settings
from hypothesis import strategies as st

from esen_lab.planner.exact.cover import Cover
from esen_lab.planner.limits import Limits
from esen_lab.planner.problem import SearchProblem, breaks_limit, make_problem


def fewest_units(problem: SearchProblem, deadline_s: float) -> float:
    """By trying every partition."""
    best = math.inf
    for groups in partitions(len(problem.items), len(problem.items)):
        if breaks_limit(problem, groups):
            continue
        needs = [
            next((u for u in range(1, problem.units + 1) if problem.lane_s(group, u) <= deadline_s), math.inf)
            for group in groups
        ]
        best = min(best, sum(needs))
    return best


def units_of(problem: SearchProblem, groups: tuple[tuple[int, ...], ...], deadline_s: float) -> int:
    return sum(
        next(u for u in range(1, problem.units + 1) if problem.lane_s(group, u) <= deadline_s * (1 + 1e-12))
        for group in groups
    )


@given(
    n=st.integers(1, 6),
    units=st.integers(1, 7),
    seed=st.integers(0, 10**6),
    max_lanes=st.none() | st.integers(1, 4),
    pairs=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=3),
    part=st.floats(0.0, 1.2),
)
@settings(max_examples=150)
def test_it_finds_the_fewest_units_or_proves_that_there_are_none(
    n: int, units: int, seed: int, max_lanes: int | None, pairs: list[tuple[int, int]], part: float
) -> None:
    random = np.random.default_rng(seed)
    latencies = {f"m{i}": random.uniform(1, 10, units).tolist() for i in range(n)}
    apart = [(f"m{a}", f"m{b}") for a, b in pairs if a < n and b < n and a != b]
    problem = make_problem(latencies, units, Limits(max_lanes=max_lanes, apart=apart))
    longest = problem.table[:, -1].sum()
    # Off the sums themselves, of which the order of adding decides the last digit.
    deadline_s = float(problem.table.min(axis=1).max() * (1 - part) + longest * part) * (1 + 1e-9)
    groups = Cover(problem).plan(deadline_s)
    expected = fewest_units(problem, deadline_s)
    if groups is None:
        assert expected > problem.capacity
    else:
        assert sorted(itertools.chain(*groups)) == list(range(n))
        assert not breaks_limit(problem, groups)
        assert units_of(problem, groups, deadline_s) == expected


@pytest.mark.parametrize(("least", "capacity"), [(3, None), (5, 4)])
def test_shares_out_of_bounds_are_not_used_even_without_a_deadline(least: int, capacity: int | None) -> None:
    limits = Limits(min_units={"a": least}, max_units={"b": 2})
    problem = make_problem({"a": [1.0] * 6, "b": [1.0] * 6}, 6, limits)
    groups = Cover(problem).plan(math.inf, capacity)
    if capacity is None:
        assert groups is not None
        assert sorted(groups) == [(0,), (1,)]
    else:
        assert groups is None


def test_counts_stay_exact_for_many_sub_models_that_all_fit_anywhere() -> None:
    problem = make_problem({f"m{i}": [1.0] * 4 for i in range(14)}, 4)
    assert Cover(problem).plan(4.0 * (1 - 1e-9)) == Cover(problem).plan(3.0) is None
    groups = Cover(problem).plan(4.0)
    assert groups is not None
    assert sorted(len(group) for group in groups) <= [4] * 4
    assert sum(len(group) for group in groups) == 14
