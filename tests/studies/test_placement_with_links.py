"""Nodes that inputs have to reach: placements against all there are, and bounds that hold."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from brute import brute_placement_s
from hypothesis import given, settings
from hypothesis import strategies as st

from esen_lab.errors import InfeasibleError, UsageError
from esen_lab.planner.nodes import NodeLink
from esen_lab.planner.nodes.bound import AreaBound
from esen_lab.planner.nodes.lane_bound import LaneBound
from esen_lab.studies.placement import DevicePlacement, DeviceTables, place, problem_of

Latencies = dict[str, list[float]]
SECONDS = st.floats(0.001, 1.0)
FAR = NodeLink.of(latency_s=2e-4, bytes_per_s=1e9, input_bytes=600_000)


def by_trying_all(nodes: list[DeviceTables], output_bytes: dict[str, int]) -> float:
    return brute_placement_s([(node.units, node.latencies, node.link) for node in nodes], output_bytes)


def on_the_best_single(nodes: list[DeviceTables], output_bytes: dict[str, int]) -> float:
    return min(place([node], output_bytes=output_bytes).jct_s for node in nodes)


def told_s(found: DevicePlacement) -> float:
    """The JCT that lanes and transfers of a placement come to."""
    done = zip(found.devices, found.transfers_s, strict=True)
    return max(lanes.jct_s + travel_s for (_, lanes), travel_s in done if lanes is not None)


def placed_once(found: DevicePlacement) -> list[str]:
    return sorted(name for _, lanes in found.devices if lanes is not None for name in lanes.plan.names)


@st.composite
def some_nodes(draw: st.DrawFn, most_members: int = 4) -> tuple[list[DeviceTables], dict[str, int]]:
    names = [f"m{i}" for i in range(draw(st.integers(1, most_members)))]
    nodes: list[DeviceTables] = []
    for number in range(draw(st.integers(1, 3))):
        as_the_first: bool = draw(st.booleans())
        if nodes and as_the_first:  # one that is equal to the first but for its link, perhaps
            units, tables = nodes[0].units, dict(nodes[0].latencies)
        else:
            units = draw(st.integers(1, 3))
            tables = {name: draw(st.lists(SECONDS, min_size=units, max_size=units)) for name in names}
        way = st.sampled_from([0.0, 0.0, 0.01, 0.1, 0.5])
        link = NodeLink(input_s=draw(way), latency_s=draw(way), byte_s=draw(way))
        nodes.append(DeviceTables(name=f"n{number}", units=units, latencies=tables, link=link))
    return nodes, {name: draw(st.integers(0, 4)) for name in names}


@settings(max_examples=60)
@given(some_nodes())
def test_no_placement_is_better_and_that_is_proven(case: tuple[list[DeviceTables], dict[str, int]]) -> None:
    nodes, output_bytes = case
    found = place(nodes, output_bytes=output_bytes)
    assert found.jct_s == pytest.approx(by_trying_all(nodes, output_bytes), rel=1e-8)
    assert found.proven
    assert found.jct_s == pytest.approx(told_s(found))
    assert placed_once(found) == sorted(output_bytes)
    assert found.jct_s <= on_the_best_single(nodes, output_bytes) * (1 + 1e-9)


@settings(max_examples=60)
@given(some_nodes())
def test_neither_areas_nor_lanes_rule_out_a_placement_that_there_is(
    case: tuple[list[DeviceTables], dict[str, int]],
) -> None:
    nodes, output_bytes = case
    best_s = by_trying_all(nodes, output_bytes)
    problem = problem_of(nodes, output_bytes)
    areas, lanes = AreaBound(problem), LaneBound(problem, float("inf"))
    assert not areas.rules_out(best_s * (1 + 1e-9))
    assert areas.within(2 * best_s) <= best_s * (1 + 1e-9)
    assert not lanes.rules_out(best_s * (1 + 1e-9))
    assert lanes.within(2 * best_s, 0.5 * best_s) <= best_s * (1 + 1e-9)


def test_lanes_rule_out_what_areas_allow() -> None:
    """Three sub-models of 1 s that no share shortens, in two lanes of one unit: 2 s, and 1.5 s by area."""
    tables = {name: [1.0, 1.0] for name in ("a", "b", "c")}
    problem = problem_of([DeviceTables(name="one", units=2, latencies=tables)], {})
    assert AreaBound(problem).within(3.0) == pytest.approx(1.5, rel=1e-4)
    assert LaneBound(problem, float("inf")).within(2.0, 1.5) > 1.9


@settings(max_examples=30)
@given(some_nodes())
def test_no_node_that_something_travels_to_is_used_if_it_could_stay_idle(
    case: tuple[list[DeviceTables], dict[str, int]],
) -> None:
    nodes, output_bytes = case
    found = place(nodes, output_bytes=output_bytes)
    used = [node for node, (_, lanes) in zip(nodes, found.devices, strict=True) if lanes is not None]
    far = [node for node in used if node.link.input_s or node.link.latency_s]
    for left_out in far if len(used) > 1 else []:
        rest = [node for node in used if node is not left_out]
        assert place(rest, output_bytes=output_bytes).jct_s > found.jct_s


def test_five_sub_models_on_three_unlike_nodes(latencies: Callable[..., Latencies]) -> None:
    near = latencies(5, 4, 2)
    nodes = [
        DeviceTables(name="here", units=4, latencies=near),
        DeviceTables(name="far", units=6, latencies=latencies(5, 6, 102), link=FAR),
        DeviceTables(name="farther", units=4, latencies=near, link=NodeLink(input_s=0.002, byte_s=1e-8)),
    ]
    output_bytes = {name: 40_000 * (i + 1) for i, name in enumerate(near)}
    found = place(nodes, output_bytes=output_bytes)
    assert found.jct_s == pytest.approx(by_trying_all(nodes, output_bytes))
    assert found.proven


def test_a_far_node_is_used_only_when_the_way_is_worth_it() -> None:
    tables = {"a": [0.010], "b": [0.010]}
    here = DeviceTables(name="here", units=1, latencies=tables)

    def with_a_way_of(input_s: float) -> DevicePlacement:
        far = DeviceTables(name="far", units=1, latencies=tables, link=NodeLink(input_s=input_s))
        return place([here, far])

    near, too_far = with_a_way_of(0.002), with_a_way_of(0.011)
    assert near.jct_s == pytest.approx(0.012)
    assert (near.transfers_s, near.notes) == ((0.0, 0.002), ())
    assert too_far.jct_s == pytest.approx(0.020)
    assert too_far.devices[1] == ("far", None)
    assert too_far.notes[0] == "idle: far"
    assert too_far.notes[1].startswith("idle because of transfer: far, which would help if nothing had to travel (10")


def test_a_node_that_is_idle_anyway_is_not_said_to_be_too_far() -> None:
    here = DeviceTables(name="here", units=1, latencies={"a": [0.010]})
    slow = DeviceTables(name="slow", units=1, latencies={"a": [1.0]}, link=FAR)
    assert place([here, slow]).notes == ("idle: slow",)


def test_large_outputs_stay_where_they_are_wanted() -> None:
    tables = {"wide": [0.010], "narrow": [0.010]}
    nodes = [
        DeviceTables(name="here", units=1, latencies=tables),
        DeviceTables(name="far", units=1, latencies=tables, link=NodeLink(byte_s=1e-9)),
    ]
    found = place(nodes, output_bytes={"wide": 5_000_000, "narrow": 1_000})
    assert [lanes and lanes.plan.names for _, lanes in found.devices] == [("wide",), ("narrow",)]
    assert found.jct_s == pytest.approx(0.010 + 1e-6)


def many(latencies: Callable[..., Latencies], members: int, nodes: int) -> tuple[list[DeviceTables], dict[str, int]]:
    """Nodes of four kinds, each slower than the one before; the first is here."""
    fast = latencies(members, 16, 7, noise=0.03)
    kinds = [{name: [s * (1 + k / 2) for s in row] for name, row in fast.items()} for k in range(4)]
    made = [
        DeviceTables(name=f"n{j}", units=16, latencies=kinds[j % 4], link=FAR if j else NodeLink())
        for j in range(nodes)
    ]
    return made, dict.fromkeys(fast, 4_000)


@pytest.mark.parametrize("count", [2, 6])
def test_beyond_what_is_exact_the_gap_is_told_and_one_node_is_never_better(
    count: int, latencies: Callable[..., Latencies]
) -> None:
    nodes, output_bytes = many(latencies, 20, count)
    found = place(nodes, output_bytes=output_bytes)
    assert placed_once(found) == sorted(output_bytes)
    assert found.jct_s == pytest.approx(told_s(found))
    assert found.bound_s <= found.jct_s <= on_the_best_single(nodes, output_bytes) * (1 + 1e-9)
    assert found.gap < 0.2


@pytest.mark.parametrize("count", [15, 16])
def test_the_bound_of_many_holds_for_one_who_is_never_needed(count: int) -> None:
    """With sub-models that are done at once the answer is known: the one that is not."""
    tables = {f"m{i}": [1e-6] for i in range(count - 1)} | {"long": [1.0]}
    nodes = [DeviceTables(name=f"n{j}", units=1, latencies=tables) for j in range(3)]
    found = place(nodes)
    assert found.jct_s == pytest.approx(1.0, rel=1e-4)
    assert found.bound_s == pytest.approx(1.0, rel=1e-9)


@pytest.mark.timing
def test_forty_sub_models_on_a_hundred_nodes_take_seconds(latencies: Callable[..., Latencies]) -> None:
    nodes, output_bytes = many(latencies, 40, 100)
    started_s = time.perf_counter()
    found = place(nodes, output_bytes=output_bytes)
    assert time.perf_counter() - started_s < 30
    assert found.gap < 0.1
    assert placed_once(found) == sorted(output_bytes)


def test_sub_models_that_no_lanes_can_have_together_are_parted() -> None:
    never_wide, never_narrow = [1.0, None], [None, 1.0]
    nodes = [
        DeviceTables(name=name, units=2, latencies={"a": never_wide, "b": never_narrow}) for name in ("one", "two")
    ]
    assert place(nodes).jct_s == 1.0
    with pytest.raises(InfeasibleError, match="Some lanes can have every sub-model"):
        place(nodes[:1])


@pytest.mark.parametrize("wrong", [{"input_s": -1.0}, {"latency_s": float("nan")}, {"byte_s": "1"}])
def test_links_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="of a node's link is a number of seconds"):
        NodeLink(**wrong)


def test_a_link_is_made_of_latency_and_bandwidth() -> None:
    link = NodeLink.of(latency_s=0.001, bytes_per_s=1e6, input_bytes=2_000)
    assert [link.input_s, link.latency_s, link.byte_s] == pytest.approx([0.003, 0.001, 1e-6])
    assert not link.is_free
    with pytest.raises(UsageError, match="above 0 bytes a second"):
        NodeLink.of(latency_s=0.001, bytes_per_s=0, input_bytes=1)
