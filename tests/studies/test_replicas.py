"""Replicas of an ensemble over nodes: as many calls as any division into groups, or as few nodes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esen_lab.errors import InfeasibleError, UsageError
from esen_lab.planner.nodes import NodeLink
from esen_lab.studies.placement import DeviceTables, place
from esen_lab.studies.replicas import Replication, replicate

Latencies = dict[str, list[float]]
SECONDS = st.floats(0.01, 1.0)


def partitions(of: Sequence[DeviceTables]) -> Iterator[list[list[DeviceTables]]]:
    if not of:
        yield []
        return
    first, *rest = of
    for others in itertools.product([False, True], repeat=len(rest)):
        mine = [node for node, with_it in zip(rest, others, strict=True) if with_it]
        left = [node for node, with_it in zip(rest, others, strict=True) if not with_it]
        for more in partitions(left):
            yield [[first, *mine], *more]


def most_calls_per_s(nodes: Sequence[DeviceTables]) -> float:
    """Of all divisions of the nodes into groups."""
    return max(sum(1 / place(group).jct_s for group in groups) for groups in partitions(nodes))


def fewest_nodes(nodes: Sequence[DeviceTables], needed_per_s: float) -> int:
    return min(
        size
        for size in range(1, len(nodes) + 1)
        for some in itertools.combinations(nodes, size)
        if most_calls_per_s(some) >= needed_per_s * (1 - 1e-9)
    )


@st.composite
def some_nodes(draw: st.DrawFn) -> list[DeviceTables]:
    names = [f"m{i}" for i in range(draw(st.integers(1, 3)))]
    nodes: list[DeviceTables] = []
    for number in range(draw(st.integers(1, 3))):
        link = NodeLink(input_s=draw(st.sampled_from([0.0, 0.0, 0.1])))
        as_the_first: bool = draw(st.booleans())
        if nodes and as_the_first:
            units, tables = nodes[0].units, dict(nodes[0].latencies)
        else:
            units = draw(st.integers(1, 2))
            tables = {name: draw(st.lists(SECONDS, min_size=units, max_size=units)) for name in names}
        nodes.append(DeviceTables(name=f"n{number}", units=units, latencies=tables, link=link))
    return nodes


@settings(max_examples=40)
@given(some_nodes(), st.floats(0.1, 1.0))
def test_no_division_answers_more_and_none_of_fewer_nodes_holds_a_rate(nodes: list[DeviceTables], part: float) -> None:
    found = replicate(nodes)
    best_per_s = most_calls_per_s(nodes)
    assert found.calls_per_s == pytest.approx(best_per_s, rel=1e-7)
    assert found.proven
    assert found.calls_per_s == pytest.approx(sum(1 / one.placement.jct_s for one in found.replicas))
    used = [name for one in found.replicas for name in one.nodes]
    assert sorted([*used, *found.idle]) == sorted(node.name for node in nodes)

    rate_per_s = 0.5 * part * best_per_s
    holds = replicate(nodes, rate_per_s=rate_per_s, busy=0.5)
    assert holds.nodes == holds.least_nodes == fewest_nodes(nodes, rate_per_s / 0.5)
    assert holds.calls_per_s * 0.5 >= rate_per_s * (1 - 1e-8)


def specialists() -> list[DeviceTables]:
    """Two nodes, each ten times as fast at one of two sub-models."""
    return [
        DeviceTables(name="one", units=1, latencies={"a": [0.01], "b": [0.1]}),
        DeviceTables(name="two", units=1, latencies={"a": [0.1], "b": [0.01]}),
    ]


def test_nodes_that_are_good_at_different_things_have_one_replica_together() -> None:
    found = replicate(specialists())
    (replica,) = found.replicas
    assert sorted(replica.nodes) == ["one", "two"]
    assert found.calls_per_s == pytest.approx(100)
    assert found.proven


def test_equal_nodes_have_a_replica_each(latencies: Callable[..., Latencies]) -> None:
    tables = latencies(6, 8, 3)
    nodes = [DeviceTables(name=f"n{j}", units=8, latencies=tables) for j in range(30)]
    found = replicate(nodes, time_limit_s=2)
    alone = place(nodes[:1])
    assert found.calls_per_s >= 30 / alone.jct_s * (1 - 1e-9)
    assert found.calls_per_s <= found.bound_per_s
    assert found.gap < 0.2
    assert "... n" in str(found)


def test_many_nodes_hold_a_rate_with_few_of_them_and_a_bound_on_fewer(latencies: Callable[..., Latencies]) -> None:
    tables = latencies(20, 8, 4)
    slow = {name: [3 * seconds for seconds in row] for name, row in tables.items()}
    nodes = [DeviceTables(name=f"n{j}", units=8, latencies=slow if j % 2 else tables) for j in range(40)]
    one_per_s = 1 / place(nodes[:1]).jct_s
    found = replicate(nodes, rate_per_s=5 * one_per_s, busy=0.8, time_limit_s=2)
    assert found.least_nodes is not None
    assert 5 <= found.least_nodes <= found.nodes <= 7
    assert found.calls_per_s * 0.8 >= 5 * one_per_s * (1 - 1e-9)
    assert len(found.idle) == 40 - found.nodes


def test_replicas_that_are_too_slow_do_not_count() -> None:
    tables = {"a": [0.1], "b": [0.1]}
    nodes = [DeviceTables(name=f"n{j}", units=1, latencies=tables) for j in range(5)]
    found = replicate(nodes, within_s=0.15)
    assert [len(one.nodes) for one in found.replicas] == [2, 2]
    assert len(found.idle) == 1
    assert found.calls_per_s == pytest.approx(20)
    with pytest.raises(InfeasibleError, match=r"within 50.*takes 100"):
        replicate(nodes, within_s=0.05)


def test_a_rate_that_is_not_held_says_which_one_is() -> None:
    with pytest.raises(InfeasibleError, match=r"hold 90 calls/s.*80/s was found, and more than 80/s is not possible"):
        replicate(specialists(), rate_per_s=90)


@pytest.mark.parametrize("wrong", [{"rate_per_s": 0.0}, {"busy": 0.0}, {"busy": 1.5}, {"within_s": -1.0}])
def test_numbers_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        replicate(specialists(), **wrong)


def test_it_is_told_as_text_and_as_plain_data() -> None:
    found = replicate(specialists())
    assert isinstance(found, Replication)
    assert "1 replica on 2 nodes: 100 calls/s, no replicas answer more" in str(found)
    data = found.to_dict()
    assert data["replicas"][0]["placement"]["devices"][0][0] in ("one", "two")
    held = replicate(specialists(), rate_per_s=40, busy=0.5)
    assert "40/s are held with replicas busy 50.0 % at most; no fewer nodes do" in held.describe()
