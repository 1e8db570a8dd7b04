"""Tuning a real lab: moves, hot swap of real lanes, a failing apply."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from choosing_lab import with_points
from models import mlp
from torch import nn

from esen_lab import Lab, Plan
from esen_lab.devices.cpu.device import CpuDevice
from esen_lab.errors import EsenError, UsageError
from esen_lab.planner.plan import Lane

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(device="cpu", store=tmp_path / "profiles.sqlite") as lab:
        lab.register("a", mlp(seed=1), example=X)
        lab.register("b", mlp(seed=2))
        lab.profile(budget_s=0.05).result(timeout=60)
        yield lab


def test_editor_needs_measurements(tmp_path: Path) -> None:
    with Lab(device="cpu", store=tmp_path / "s.sqlite") as lab, pytest.raises(UsageError, match="once a sub-model"):
        lab.tune()


def test_there_is_one_editor_and_it_follows_the_labs_plan(lab: Lab) -> None:
    editor = lab.tune()
    assert lab.tune() is editor
    plan = lab.search()
    assert editor.state.describe() == plan.describe()
    assert editor.state.in_force


def test_sliders_show_the_bound_that_the_labs_search_proved_whichever_came_first() -> None:
    with Lab(device=CpuDevice(cores=[(0,), (0,)])) as lab:
        for seed, name in enumerate("abc"):
            lab.register(name, mlp(seed=seed), example=X)
        with_points(lab, {name: [1e-3, 0.9e-3] for name in "abc"})
        lab.search(limits={"one_each": False, "max_lanes": 1})
        quick_s = lab.tune().state.bound_s
        plan = lab.search()
        assert plan.bound_s is not None
        assert plan.bound_s > quick_s * 1.01, "else this test shows nothing"
        assert lab.tune().state.bound_s == plan.bound_s
        lab._runtime.set(editor=None)
        assert lab.tune().state.bound_s == plan.bound_s


def test_applying_swaps_the_lanes_and_measuring_runs_them(lab: Lab) -> None:
    editor = lab.tune()
    expected = lab.run(X)
    measured = editor.measure(repeats=3)
    assert measured.median_s > 0
    assert lab.plan is not None
    assert lab.plan.searcher == "by hand"
    torch.testing.assert_close(lab.run(X), expected)
    assert lab.report is not None
    assert lab.report.predicted_s == lab.plan.jct_s


@pytest.mark.skipif(CpuDevice().units < 2, reason="two lanes need two cores")
def test_two_lanes_by_hand_give_the_same_answer(lab: Lab, tmp_path: Path) -> None:
    expected = lab.run(X)
    editor = lab.tune()
    editor.split("b")
    plan = editor.apply()
    assert len(plan.lanes) == 2
    torch.testing.assert_close(lab.run(X), expected)
    saved = Plan.load(editor.save(tmp_path / "plan.json"))
    assert saved.lanes == plan.lanes
    assert saved.fingerprints == lab.ensemble.fingerprints
    editor.undo()
    exported = editor.export(tmp_path / "plan.py")
    assert exported.script.exists()
    assert lab.plan is plan


def test_an_apply_that_fails_leaves_the_old_plan_running(lab: Lab) -> None:
    editor = lab.tune()
    editor.apply()
    old, expected = lab.plan, lab.run(X)
    lab.register("b", KillsLater())  # the draft still covers the names; its lane cannot start
    editor.share(pin=["a"])
    with pytest.raises(EsenError):
        editor.apply()
    assert lab.plan is old
    assert editor.state.failed
    assert "In force stays" in editor.state.message
    lab.register("b", mlp(seed=2))
    torch.testing.assert_close(lab.run(X), expected)


class KillsLater(nn.Module):
    """Runs here, where it is registered; raises in a worker."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if os.environ.get("ESEN_LAB_TEST_HOME_PROCESS") != str(os.getpid()):
            raise RuntimeError("not in a worker")
        return x[:, :3]


@pytest.fixture(autouse=True)
def home_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESEN_LAB_TEST_HOME_PROCESS", str(os.getpid()))


def test_a_plan_for_other_sub_models_is_not_applied(lab: Lab) -> None:
    with pytest.raises(UsageError, match="hold the same sub-models"):
        lab.apply(Plan(lanes=(Lane(units=1, members=("a", "c")),), units=1))


def test_sliders_move_while_the_lanes_are_swapped(lab: Lab) -> None:
    editor = lab.tune()
    editor.apply()
    lab.register("a", mlp(seed=3))  # so that the lanes start anew
    thread = threading.Thread(target=editor.apply)
    thread.start()
    while thread.is_alive():
        editor.share(pin=["a"])
        editor.share(unpin=["a"])
    thread.join()
    assert editor.state.doing == ""
    assert not editor.state.failed


def test_what_the_plan_in_force_leaves_out_stays_out(lab: Lab) -> None:
    lab.plan = Plan(lanes=(Lane(units=1, members=("a",)),), units=lab.device.units, left_out=("b",))
    editor = lab.tune()
    assert [lane.members for lane in editor.state.lanes] == [("a",)]
    editor.apply()
    assert lab.plan is not None
    assert lab.plan.left_out == ("b",)
    with torch.inference_mode():
        torch.testing.assert_close(lab.run(X), mlp(seed=1)(X))


def test_a_point_of_the_front_is_taken_and_runs_are_told_beside_the_draft(lab: Lab) -> None:
    from esen_lab.planner import allocate
    from esen_lab.studies.front import Choice, ParetoFront

    known = lab.points.fit()
    tables = {name: known[name].table(lab.device.units) for name in ("a", "b")}
    choices = tuple(
        Choice(
            names=names,
            accuracy=0.8 + 0.1 * len(names),
            allocation=allocate({name: tables[name] for name in names}, units=lab.device.units),
        )
        for names in (("b",), ("a", "b"))
    )
    lab._runtime.set(front=(lab.ensemble, ParetoFront(choices=choices, exact=True, evaluations=3)))
    lab.search()
    lab.run(X)
    editor = lab.tune()
    assert [(offered.members, offered.in_force) for offered in editor.offered] == [(("b",), False), (("a", "b"), True)]
    ran = editor.ran()
    assert ran is not None
    assert {span[0] for span in ran.spans} == {"a", "b"}
    assert editor.past[0].measured_s == ran.jct_s
    editor.take(0)
    assert lab.plan is not None
    assert lab.plan.left_out == ("a",)
    assert [lane.members for lane in editor.state.lanes] == [("b",)]
    assert editor.state.in_force
    with pytest.raises(UsageError, match="by its number"):
        editor.take(7)
    lab.combine("stack")
    assert editor.offered == (), "the front was that of another ensemble"
