"""What the panel shows of a lab: a real lab, looked at from its first moment to a comparison."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from esen_lab import Lab
from esen_lab.devices import CpuDevice, DeviceIdentity
from esen_lab.planner.plan import Lane, Plan
from esen_lab.ui.panel.messages import problem, schema
from esen_lab.ui.panel.sections import NAMES, _utilization, running_jobs, sections


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


class WrongOnOneThread(nn.Module):
    """A double of a kernel that is wrong at some shares."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (1.2 if torch.get_num_threads() == 1 else 1.0)


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
        job.result(timeout=30)
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
