"""What nodes are doing, read without ever waiting for one; nodes are threads or nothing at all here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import contract
import pytest
import torch
from local_nodes import LocalNodes
from waiting import until

from esen_lab import Lab
from esen_lab.cluster.held_nodes import HeldNodes
from esen_lab.cluster.node_readings import NodeReadings, NodesMeter, key_of
from esen_lab.cluster.node_watch import NodeReading, NodeWatch
from esen_lab.cluster.nodes import NodeLost
from esen_lab.devices.telemetry import Channel
from esen_lab.lab.stages import nodes

X = contract.X
CPU = Channel(key="cpu", label="CPU, mean of all", unit="%", group="utilization")
MEMORY = Channel(key="memory", label="memory in use", unit="B", group="memory")


class Scripted:
    """A way to nodes that answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers: dict[object, Any] = {}
        self.ended: list[str] = []

    def watch(self, node: Any) -> Any:
        return Asked(self, node.name)

    def wait(self, calls: Sequence[Any], timeout_s: float) -> Sequence[Any]:
        assert timeout_s == 0, "nobody waits for a node"
        return [call for call in calls if call in self.answers]

    def result(self, call: Any) -> Any:
        answer = self.answers[call]
        if isinstance(answer, Exception):
            raise answer
        return answer


class Asked:
    def __init__(self, reach: Scripted, name: str) -> None:
        self._reach, self._name = reach, name

    def call(self, method: str, *arguments: Any) -> str:
        assert method == "read"
        self._reach.asked.append(self._name)
        return f"{self._name} {self._reach.asked.count(self._name)}"

    def close(self) -> None:
        self._reach.ended.append(self._name)


class Node:
    """As much of a held node as is read."""

    loaded = None

    def __init__(self, name: str) -> None:
        self.name, self.gone, self.node = name, "", self


def reading(cpu: float) -> NodeReading:
    return NodeReading(channels=(CPU, MEMORY), values={"cpu": cpu, "memory": 5e9})


@pytest.fixture
def scripted() -> Scripted:
    return Scripted()


@pytest.fixture
def now() -> list[float]:
    return [100.0]


@pytest.fixture
def readings(scripted: Scripted, now: list[float]) -> NodeReadings:
    held = HeldNodes(scripted)  # type: ignore[arg-type]
    held.all = (Node("left"), Node("right"))  # type: ignore[assignment]
    return NodeReadings(held, lambda: now[0])


def values(readings: NodeReadings) -> Mapping[str, Any]:
    return readings.read()[1]


def test_a_node_that_has_not_told_yet_has_no_number(readings: NodeReadings, scripted: Scripted) -> None:
    channels, found = readings.read()
    assert [(channel.label, channel.group) for channel in channels] == [
        ("left, cores", "nodes"),
        ("right, cores", "nodes"),
    ]
    assert set(found.values()) == {"it is asked for the first time"}
    values(readings)
    assert scripted.asked == ["left", "right"], "who has not answered is not asked again"


def test_each_node_is_shown_as_it_told_last(readings: NodeReadings, scripted: Scripted, now: list[float]) -> None:
    values(readings)
    scripted.answers["left 1"] = reading(70.0)
    scripted.answers["right 1"] = reading(20.0)
    channels, found = readings.read()
    assert (found[key_of("left")], found[key_of("right")]) == (70.0, 20.0)
    assert [channel.label for channel in channels if channel.group == "memory"] == [
        "left, memory in use",
        "right, memory in use",
    ]
    assert scripted.asked == ["left", "right"] * 2
    now[0] += 1.0
    assert values(readings)[key_of("left")] == 70.0
    now[0] += 10.0
    assert values(readings)[key_of("left")] == "node left has told nothing for 11 s"


def test_a_node_whose_reader_died_gets_another_after_a_while(
    readings: NodeReadings, scripted: Scripted, now: list[float]
) -> None:
    values(readings)
    scripted.answers["left 1"] = NodeLost("killed")
    assert values(readings)[key_of("left")] == "killed"
    assert scripted.ended == ["left"]
    asked = len(scripted.asked)
    values(readings)
    assert len(scripted.asked) == asked
    now[0] += 11.0
    values(readings)
    assert scripted.asked[-1] == "left"
    scripted.answers["left 2"] = reading(30.0)
    assert values(readings)[key_of("left")] == 30.0


def test_a_node_that_is_gone_is_asked_no_more(readings: NodeReadings, scripted: Scripted) -> None:
    values(readings)
    readings._nodes.all[1].gone = "the cluster does not see it any more"
    assert values(readings)[key_of("right")] == "the cluster does not see it any more"
    assert scripted.ended == ["right"]


def test_what_reads_the_nodes_ends_when_nobody_watches_and_with_the_plan(
    readings: NodeReadings, scripted: Scripted
) -> None:
    meter = NodesMeter(lambda: readings)
    meter.read()
    meter.close()
    assert scripted.ended == ["left", "right"]
    meter.read()
    assert scripted.asked == ["left", "right"] * 2
    readings.close()
    assert readings.read() == ((), {})
    assert scripted.ended == ["left", "right"] * 2


def test_after_the_plans_end_the_plots_stay_and_say_so(readings: NodeReadings) -> None:
    found: list[NodeReadings | None] = [readings]
    meter = NodesMeter(lambda: found[0])
    assert meter.channels == ()
    meter.read()
    found[0] = None
    assert set(meter.read().values()) == {"no plan runs on nodes"}
    assert len(meter.channels) == 2


def test_of_many_nodes_no_lanes_are_shown(scripted: Scripted) -> None:
    held = HeldNodes(scripted)  # type: ignore[arg-type]
    held.all = tuple(Node(f"n{number}") for number in range(13))  # type: ignore[misc]
    readings = NodeReadings(held)
    readings.read()
    lane = Channel(key="lane7", label="lane 1 on n0, CPU", unit="%", group="lanes")
    told = NodeReading(channels=(CPU, lane), values={"cpu": 5.0, "lane7": 99.0})
    scripted.answers.update({f"n{number} 1": told for number in range(13)})
    assert {channel.group for channel in readings.read()[0]} == {"nodes"}


def test_a_node_reads_its_own_cores_and_lanes() -> None:
    watch = NodeWatch()
    first = watch.read([("lane 1 on left", 1)])
    assert {"cpu", "memory", "lane1"} <= {channel.key for channel in first.channels}
    assert first.values["memory"] > 0  # type: ignore[operator]
    watch.close()
    watch.close()


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab("cpu") as made:
        contract.ensemble_of(made)
        nodes.connect(made._runtime, LocalNodes("left", "right"))
        yield made


def test_who_watches_a_lab_sees_its_nodes_and_who_glances_starts_nothing(lab: Lab) -> None:
    reach = lab._runtime.state.reach
    assert isinstance(reach, LocalNodes)
    lab.plan = contract.plan_for(("a", "b"), ("c", "d"))
    lab.run(X)
    lab.readings.glance()
    assert not reach.watches
    sampler = lab.readings.watch(interval_s=0.05)
    until(lambda: {key_of("left"), key_of("right")} <= set(sampler.last.values if sampler.last else ()))
    until(lambda: any(channel.label == "lane 2 on right, CPU" for channel in sampler.channels))
    assert key_of("left") in lab.readings.glance()
    lab.readings.unwatch()
    assert torch.equal(lab.run(X), lab.run(X))


def test_a_glance_at_the_cluster_asks_nobody(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: LocalNodes) -> Any:
        raise AssertionError("the cluster was asked")

    lab.plan = contract.plan_for(("a", "b"), ("c", "d"))
    lab.run(X)
    monkeypatch.setattr(LocalNodes, "nodes", fails)
    found = lab.cluster.glance()
    assert found is not None
    assert [(node.name, node.state, node.members) for node in found.nodes] == [
        ("left", "ready", ("a", "b")),
        ("right", "ready", ("c", "d")),
    ]
    lab.cluster.leave()
    assert lab.cluster.glance() is None
