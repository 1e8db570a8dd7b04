"""Shares that a sub-model may not have: every searcher keeps off them, and what is proven stays proven."""

from __future__ import annotations

import math

import pytest
from brute import by_trying_all
from hypothesis import given, settings
from hypothesis import strategies as st

from esen_lab.errors import InfeasibleError
from esen_lab.planner import SEARCHERS, Limits, Table, allocate
from esen_lab.studies.cascade import cascade
from esen_lab.studies.front import member_front
from esen_lab.studies.placement import DeviceTables, place

Tables = dict[str, Table]
NAMES = ["m0", "m1", "m2", "m3"]


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tables, int]:
    units, n = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    latency = st.one_of(st.none(), st.floats(0.5, 10.0), st.floats(0.5, 10.0))
    tables = {}
    for name in NAMES[:n]:
        row = draw(st.lists(latency, min_size=units, max_size=units))
        if all(latency is None for latency in row):
            row[draw(st.integers(0, units - 1))] = 1.0
        tables[name] = row
    return tables, units


@given(problem=problems())
@settings(max_examples=150)
def test_the_exact_plan_is_the_best_of_all_that_keep_off_them(problem: tuple[Tables, int]) -> None:
    tables, units = problem
    best = by_trying_all(tables, units, Limits())
    if math.isinf(best):
        with pytest.raises(InfeasibleError):
            allocate(tables, units, sequential_within=0.0)
        return
    found = allocate(tables, units, sequential_within=0.0)
    assert found.jct_s == pytest.approx(best, rel=1e-9)
    assert found.proven
    assert found.schedule_bound_s <= best * (1 + 1e-9)


@pytest.mark.parametrize("searcher", SEARCHERS)
def test_every_searcher_keeps_off_them(searcher: str) -> None:
    tables: Tables = {name: [(3 + i) / u for u in range(1, 9)] for i, name in enumerate(NAMES[:3])}
    free = allocate(tables, 8, searcher)
    taken = {name: share for share, names in free.lanes for name in names}
    ruled = {name: [None if u == taken[name] else t for u, t in enumerate(row, 1)] for name, row in tables.items()}
    try:
        found = allocate(ruled, 8, searcher)
    except InfeasibleError:
        assert searcher in ("equal", "sequential"), "a baseline has one plan only"
        return
    for share, names in found.lanes:
        assert all(ruled[name][share - 1] is not None for name in names)
    assert all(
        ruled[name][active - 1] is not None
        for lane in found.plan.lanes
        for name, active in zip(lane.members, lane.active_units, strict=True)
    )


def test_a_wider_lane_does_not_run_as_a_share_that_is_ruled_out() -> None:
    found = allocate({"a": [3.0, None, 2.0]}, 3, limits=Limits(pinned={"a": 3}))
    assert (found.jct_s, found.plan.lanes[0].active_units) == (2.0, (3,))
    found = allocate({"a": [3.0, None, 4.0]}, 3, limits=Limits(pinned={"a": 3}))
    assert (found.jct_s, found.plan.lanes[0].active_units) == (3.0, (1,))


def test_what_leaves_no_share_says_so() -> None:
    with pytest.raises(InfeasibleError, match=r"share is left for 'a'.*all 2"):
        allocate({"a": [None, None], "b": [1.0, 1.0]}, 2)
    with pytest.raises(InfeasibleError, match=r"lane of a has a share.*none of 2 to 2"):
        allocate({"a": [1.0, None]}, 2, limits=Limits(pinned={"a": 2}))
    with pytest.raises(InfeasibleError, match=r"lane of a, b has a share"):
        allocate({"a": [1.0, None], "b": [None, 1.0]}, 2, limits=Limits(together=[["a", "b"]]))


def test_members_devices_and_stages_keep_off_them_too() -> None:
    tables: Tables = {"a": [4.0, None, None, 1.0], "b": [4.0, 2.0, None, 1.0]}

    def keeps_off(lanes: tuple[tuple[int, tuple[str, ...]], ...]) -> bool:
        return all(tables[name][share - 1] is not None for share, names in lanes for name in names)

    front = member_front(tables, 4, lambda members: len(members) / 2)
    assert all(keeps_off(choice.allocation.lanes) for choice in front.choices)
    placed = place([DeviceTables(name=name, units=4, latencies=tables) for name in ("one", "two")])
    assert placed.jct_s == 1.0
    assert placed.bound_s <= 1.0
    assert all(keeps_off(found.lanes) for _, found in placed.devices if found is not None)
    stages = cascade(tables, 4, ["a", "b"], [1.0, 0.5])
    assert all(keeps_off(stage.allocation.lanes) for stage in stages.stages)


def test_a_placement_where_one_unit_is_ruled_out_is_still_proven() -> None:
    tables: Tables = {name: [None, 2.0 + i, 1.0 + i] for i, name in enumerate(NAMES)}
    placed = place([DeviceTables(name=name, units=3, latencies=tables) for name in ("one", "two")])
    assert 0 < placed.bound_s <= placed.jct_s < math.inf
