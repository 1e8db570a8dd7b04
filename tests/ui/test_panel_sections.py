"""What the panel shows of a lab: a real lab, looked at from its first moment to a comparison."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from local_nodes import LocalNodes
from models import WrongOnOneThread, mlp
from torch import nn

from esen_lab import Lab
from esen_lab.cluster import ClusterNode, ClusterStatus, key_of
from esen_lab.devices import CpuDevice, DeviceIdentity
from esen_lab.errors import DeviceError
from esen_lab.lab.stages import nodes as on_nodes
from esen_lab.planner.plan import Lane, Plan
from esen_lab.ui.colours import COLOURS, PALETTE
from esen_lab.ui.panel.messages import problem, schema
from esen_lab.ui.panel.sections import NAMES, _nodes, _plan, _utilization, running_jobs, sections


@pytest.fixture
def lab() -> Iterator[Lab]:
    made = Lab()
    yield made
    made.close()


def look(lab: Lab | None, **given: Any) -> dict[str, Any]:
    found = sections(lab, **{"cell_busy": False, **given})
    assert tuple(found) == NAMES
    json.dumps(found, allow_nan=False)  # a page reads JSON, which knows no NaN
    assert [wrong for name in NAMES if (wrong := problem(found[name], schema()["sections"][name], name))] == []
    return found


def enabled(found: dict[str, Any]) -> set[str]:
    return {action["id"] for action in found["actions"] if action["enabled"]}


def test_without_a_lab_there_is_a_first_step_and_no_device() -> None:
    found = look(None)
    assert found["device"] is None
    assert found["ensemble"]["submodels"] == []
    assert found["next_step"]["action"] == "register"
    assert enabled(found) == {"register", "watch", "doctor"}


def test_every_stage_shows_and_opens_the_next_action(lab: Lab) -> None:
    x = torch.randn(4, 8)
    for name in ("a", "b"):
        lab.register(name, nn.Linear(8, 8), example=x)
    found = look(lab, input_name="x")
    assert [row["state"] for row in found["ensemble"]["submodels"]] == ["none", "none"]
    assert {"profile", "run"} <= enabled(found)
    assert "search" not in enabled(found)
    assert found["next_step"]["action"] == "profile"

    lab.profile(budget_s=0.01).result(timeout=120)
    found = look(lab, input_name="x")
    assert {row["state"] for row in found["ensemble"]["submodels"]} == {"done"}
    assert (found["jobs"][0]["state"], found["jobs"][0]["id"]) == ("done", "profile")
    assert "search" in enabled(found)

    lab.search()
    found = look(lab, input_name="x")
    plan = found["plan"]
    assert sum(lane["units"] for lane in plan["lanes"]) == plan["total_units"] <= plan["units"] == lab.device.units
    assert plan["measured_s"] is None
    assert not plan["warm"]

    lab.run(x)
    found = look(lab, input_name="x")
    assert found["plan"]["measured_s"] == lab.report.jct_s  # type: ignore[union-attr]
    assert [row["lane"] for row in found["device"]["in_force"]] == list(range(1, len(plan["lanes"]) + 1))
    assert found["device"]["free_bytes"] > 0

    lab.compare(x, rounds=2, strategies=["equal"])
    found = look(lab, input_name="x")
    assert found["comparison"]["rows"][0]["strategy"] == "sequential"
    assert sum(row["best"] for row in found["comparison"]["rows"]) >= 1
    assert found["next_step"]["action"] == "export"


def test_answers_under_the_plan_are_unchecked_then_the_same_or_wrong(tmp_path: Path) -> None:
    x = torch.randn(4, 8)
    with Lab(CpuDevice(cores=[(0,), (0,)]), store=tmp_path / "points.sqlite") as lab:
        lab.register("right", nn.ReLU(), example=x)
        lab.register("wrong", WrongOnOneThread(), example=x)
        lab.plan = Plan(lanes=(Lane(units=2, members=("right", "wrong")),), units=2)
        assert look(lab)["plan"]["answers"] == {"state": "unchecked", "text": ""}
        assert {"numerics", "export"} <= enabled(look(lab)), "a plan by hand or from a file needs no profile"
        lab.check_numerics(runs=1)
        assert look(lab)["plan"]["answers"]["state"] == "same"
        lab.plan = Plan(lanes=tuple(Lane(units=1, members=(name,)) for name in ("right", "wrong")), units=2)
        assert look(lab)["plan"]["answers"]["state"] == "unchecked", "the verdict is on other lanes"
        lab.check_numerics(runs=1)
        answers = look(lab)["plan"]["answers"]
        assert answers["state"] == "wrong"
        assert "wrong with 1 core" in answers["text"]
        assert [member["backend"] for lane in look(lab)["plan"]["lanes"] for member in lane["submodels"]] == [
            "eager",
            "eager",
        ]


def test_a_strategy_that_failed_has_no_figures(lab: Lab) -> None:
    x = torch.randn(4, 8)
    lab.register("a", nn.Linear(8, 8), example=x)
    lab.register("b", nn.ReLU(), example=x)
    lab.profile(budget_s=0.01, shares=[1]).result(timeout=120)
    lab.search()
    lab.compare(x, rounds=1, strategies=["vmap"])
    row = next(row for row in look(lab)["comparison"]["rows"] if row["strategy"] == "vmap")
    assert (row["median_s"], row["best"]) == (None, False)
    assert row["outputs"]


def test_a_running_profile_counts_its_points_and_can_be_cancelled(lab: Lab) -> None:
    x = torch.randn(4, 8)
    lab.register("a", nn.Linear(8, 8), example=x)
    job = lab.profile(budget_s=20.0, fresh=True)
    found = look(lab)
    assert found["jobs"][0]["state"] == "running"
    row = found["ensemble"]["submodels"][0]
    assert (row["state"], row["points_wanted"]) == ("running", found["jobs"][0]["total"])
    assert "profile" not in enabled(found)
    running_jobs(lab)["profile"]()
    with pytest.raises(Exception, match="cancel"):
        job.result(timeout=60)
    assert look(lab)["jobs"][0]["state"] == "cancelled"
    assert running_jobs(lab) == {}


def test_without_a_fitting_input_run_says_what_to_do(lab: Lab) -> None:
    lab.register("a", nn.Linear(8, 8), example=torch.randn(4, 8))
    run = next(action for action in look(lab)["actions"] if action["id"] == "run")
    assert not run["enabled"]
    assert "YOUR_INPUT" in run["why"]


def test_utilization_is_a_part_of_one_or_absent(lab: Lab) -> None:
    lab.readings.glance()  # the first look has no percentage yet
    used = look(lab)["device"]["utilization"]
    assert used is None or 0 <= used <= 1
    assert lab.readings.watched is None, "a glance is no watching"


@pytest.mark.parametrize(
    ("kind", "readings", "used", "label"),
    [
        ("cpu", {"cpu": 25.0, "cpu0": 90.0, "gpu0sm": 70.0}, 0.25, "CPU"),
        ("cuda mps", {"cpu": 25.0, "gpu0sm": 70.0, "gpu0util": 100.0}, 0.7, "SM activity"),
        ("cuda green", {"cpu": 25.0, "gpu0util": 100.0}, 1.0, "GPU-Util (any kernel ran)"),
        ("cuda mps", {"gpu0sm": 70.0, "gpu1sm": 10.0}, None, ""),
        ("cuda mps", {"cpu": 25.0}, None, ""),
    ],
)
def test_utilization_is_the_devices_own_and_named_for_what_it_is(
    kind: str, readings: dict[str, float], used: float | None, label: str
) -> None:
    double = SimpleNamespace(
        readings=SimpleNamespace(glance=lambda: readings), device=SimpleNamespace(identity=SimpleNamespace(kind=kind))
    )
    assert _utilization(double) == (used, label)


def test_the_free_memory_of_a_gpu_is_what_its_one_reading_leaves(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = DeviceIdentity(kind="cuda mps", name="double", units=100, unit="%", details={"memory_bytes": "1000"})
    lab.device.close()
    lab._runtime.set(device=SimpleNamespace(identity=identity, free_bytes=lambda: None, close=lambda: None))
    monkeypatch.setattr(lab.readings, "glance", lambda: {"gpu0memory": 400.0})
    assert lab.readings.free_bytes() == 600
    monkeypatch.setattr(lab.readings, "glance", lambda: {"gpu0memory": 400.0, "gpu1memory": 1.0})
    assert lab.readings.free_bytes() is None


def test_the_schema_names_the_sections_that_there_are() -> None:
    assert tuple(schema()["sections"]) == NAMES


def test_the_plans_section_says_what_is_extrapolated_and_that_runs_are_far_off(lab: Lab) -> None:
    x = torch.randn(4, 8)
    lab.register("a", nn.Linear(8, 8), example=x)
    lab.plan = Plan(lanes=(Lane(units=1, members=("a",)),), units=1, jct_s=1e-7, unmeasured={"a": "extrapolated"})
    plan = look(lab)["plan"]
    assert plan["lanes"][0]["submodels"][0]["unmeasured"] == "extrapolated"
    assert "(extrapolated: a)" in plan["text"]
    lab.run(x)
    assert "Far from its prediction" in look(lab)["plan"]["text"]


def test_the_nodes_of_a_cluster_are_shown_with_what_runs_there_and_what_to_do_when_one_is_gone(lab: Lab) -> None:
    x = torch.randn(4, 8)
    for name in ("last", "first"):
        lab.register(name, mlp(outputs=8), example=x)
    assert look(lab)["nodes"] is None
    threads = LocalNodes("left", "right")
    on_nodes.connect(lab._runtime, threads)
    found = look(lab)["nodes"]
    assert (found["address"], found["dashboard"], found["text"]) == ("threads of this process", "", "")
    assert [(row["name"], row["units"], row["gpus"], row["state"], row["submodels"]) for row in found["nodes"]] == [
        ("left", 1, 0, "idle", []),
        ("right", 1, 0, "idle", []),
    ]

    lanes = (Lane(units=1, members=("first",), device="left"), Lane(units=1, members=("last",), device="right"))
    lab.plan = Plan(lanes=lanes, units=1, devices={"left": 1, "right": 1})
    lab.run(x)
    COLOURS.forget()
    found = look(lab)
    assert [(row["state"], row["busy"], row["submodels"][0]["name"]) for row in found["nodes"]["nodes"]] == [
        ("ready", None, "first"),
        ("ready", None, "last"),
    ]
    own = {row["name"]: row["colour"] for row in found["ensemble"]["submodels"]}
    assert {row["name"]: row["colour"] for node in found["nodes"]["nodes"] for row in node["submodels"]} == own
    assert own == {"last": PALETTE[0], "first": PALETTE[1]}, "by the order of registration, not by that of nodes"

    threads.links["right"].kill(for_good=True)
    with pytest.raises(DeviceError, match="right"):
        lab.run(x)
    found = look(lab)["nodes"]
    assert [(row["name"], row["state"]) for row in found["nodes"]] == [("left", "ready"), ("right", "gone")]
    assert found["nodes"][1]["notes"]
    assert found["text"] == "Node right is gone: lab.cluster.replan_without('right') goes on without it."
    lab.cluster.replan_without("right")
    assert look(lab)["nodes"]["text"] == "", "it is no node of the plan any more"
    lab.run(x)
    lab.cluster.leave()
    assert look(lab)["nodes"] is None


def a_node(name: str, **known: Any) -> ClusterNode:
    return ClusterNode(name=name, id=f"id-{name}", host="here", units=8, **known)


def with_nodes(*nodes: ClusterNode, devices: tuple[str, ...] = (), readings: dict[str, float] | None = None) -> Any:
    """A double of a lab whose cluster has these nodes, and whose plan is for those of `devices`."""
    status = ClusterStatus(address="one:6379", dashboard="http://one:8265", nodes=nodes, notes=("A note.",))
    return SimpleNamespace(
        cluster=SimpleNamespace(glance=lambda: status),
        readings=SimpleNamespace(glance=lambda: readings or {}),
        plan=SimpleNamespace(devices=dict.fromkeys(devices, 1)) if devices else None,
    )


def test_how_busy_a_node_is_is_a_part_of_one_where_somebody_watches_and_absent_elsewhere() -> None:
    readings = {"cpu": 99.0, key_of("left"): 41.6, key_of("full"): 100.4, key_of("away"): 50.0}
    nodes = (a_node("left"), a_node("full"), a_node("right"), a_node("away", state="gone"))
    found = _nodes(with_nodes(*nodes, readings=readings))
    assert [row["busy"] for row in found["nodes"]] == [0.42, 1.0, None, None]
    assert found["dashboard"] == "http://one:8265"


@pytest.mark.parametrize(
    ("gone", "devices", "text"),
    [
        ((), ("n0", "n1"), ""),
        (("n2",), ("n0", "n1"), ""),
        (("n1",), (), ""),
        (("n1",), ("n0", "n1"), "Node n1 is gone: lab.cluster.replan_without('n1') goes on without it."),
        ((), ("n0", "left since"), "Node left since is gone: lab.cluster.replan_without('left since') goes on"),
        (
            ("n0", "n2"),
            ("n0", "n1", "n2"),
            "Nodes n0, n2 are gone: lab.cluster.replan_without('n0') goes on without n0, and so for each.",
        ),
        (("n0", "n1"), ("n0", "n1"), "Nodes n0, n1 are gone, and the plan has no other: lab.studies.place makes one"),
        (
            tuple(f"n{number}" for number in range(8)),
            tuple(f"n{number}" for number in range(9)),
            "Nodes n0, n1, n2, n3, n4 and 3 more are gone: ",
        ),
    ],
)
def test_what_is_said_of_nodes_is_what_to_do_when_one_of_the_plan_is_gone(
    gone: tuple[str, ...], devices: tuple[str, ...], text: str
) -> None:
    names = [f"n{number}" for number in range(9)]
    nodes = [a_node(name, state="gone" if name in gone else "ready") for name in names]
    said = _nodes(with_nodes(*nodes, devices=devices))["text"]
    assert said.startswith(text)
    assert said.removeprefix(text) if text else said == "A note."


def test_of_very_many_nodes_those_at_work_are_listed_and_the_others_counted() -> None:
    nodes = [a_node(f"n{number:03}", state="ready" if number > 900 else "idle") for number in range(1000)]
    found = _nodes(with_nodes(*nodes))
    assert problem(found, schema()["sections"]["nodes"]) == ""
    assert len(found["nodes"]) == 200
    assert sum(row["state"] == "ready" for row in found["nodes"]) == 99
    assert found["text"] == "200 of 1000 nodes are listed. A note."


def test_lanes_have_their_part_of_their_own_node_and_the_slowest_of_each_stage_limits(lab: Lab) -> None:
    lanes = (
        Lane(units=4, members=("a",), device="small"),
        Lane(units=16, members=("b",), device="large"),
        Lane(units=64, members=("c",), device="large", stage=1),
    )
    plan = Plan(
        lanes=lanes,
        units=64,
        devices={"small": 4, "large": 64},
        predicted_s={"a": 0.001, "b": 0.002, "c": 0.01},
        reach=(1.0, 0.5),
        threshold=0.9,
    )
    found = _plan(lab, plan)["lanes"]
    assert [lane["percent"] for lane in found] == [100.0, 25.0, 100.0]
    assert [lane["limiting"] for lane in found] == [False, True, False]


def test_a_lane_of_which_nothing_is_predicted_has_no_time_and_none_beside_it_is_the_slowest(lab: Lab) -> None:
    lanes = (Lane(units=1, members=("a", "b"), mode="threads"), Lane(units=1, members=("c",)))
    plan = Plan(lanes=lanes, units=2, predicted_s={"a": 0.001, "b": 0.001, "c": 0.01})
    found = _plan(lab, plan)["lanes"]
    assert [lane["jct_s"] for lane in found] == [None, 0.01]
    assert [lane["limiting"] for lane in found] == [False, False]
