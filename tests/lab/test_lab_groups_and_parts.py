"""A lab that groups equal networks and splits batches: measured, searched, run, edited, saved, exported."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from choosing_lab import with_points
from models import mlp
from points import POINT
from torch import nn

from esen_lab import Lab, Plan
from esen_lab.common.answers import Difference, difference
from esen_lab.devices.cpu.device import CpuDevice
from esen_lab.errors import UsageError
from esen_lab.lab.stages.profile import NotDerived, with_measured
from esen_lab.planner.plan import Lane
from esen_lab.profiler.records import Profile
from esen_lab.run.lane_steps import submodel_of
from esen_lab.run.numerics import CheckedAnswers

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
PLAIN = {"a": [2e-3, 1.9e-3], "b": [2e-3, 1.9e-3], "c": [2e-3, 1.9e-3], "big": [9e-3, 8e-3]}
DERIVED = {"a+b+c": [1.5e-3, 1.4e-3], "a+b": [2.2e-3, 2.1e-3], "big 1/2": [4.6e-3, 4.5e-3]}
TOGETHER = {"a+b+c", "big 1/2", "big 2/2"}


def with_points_of(lab: Lab, tables: Mapping[str, Sequence[float]]) -> Profile:
    points = tuple(
        replace(POINT, name=name, units=units, median_s=seconds, quantile_90_s=2 * seconds)
        for name, table in tables.items()
        for units, seconds in enumerate(table, start=1)
    )
    return Profile(
        device=lab.device.identity.to_dict(),
        units=lab.device.units,
        points=points,
        examples=dict.fromkeys(tables, "float32[4, 8]"),
        fingerprints={name: submodel_of(name, lab.ensemble).fingerprint for name in tables},
    )


def modules() -> dict[str, nn.Module]:
    return {**{name: mlp(seed=seed) for seed, name in enumerate("abc")}, "big": mlp(seed=9, width=64)}


@pytest.fixture
def held() -> dict[str, nn.Module]:
    return modules()


@pytest.fixture
def lab(held: dict[str, nn.Module], tmp_path: Path) -> Iterator[Lab]:
    with Lab(device=CpuDevice(cores=[(0,), (0,)]), store=tmp_path / "profiles.sqlite") as lab:
        for name, module in held.items():
            lab.register(name, module, example=X)
        with_points(lab, PLAIN)
        made = with_points_of(lab, DERIVED)
        lab._runtime.change(lambda state: with_measured(state, made, derived=tuple(DERIVED)))
        yield lab


def mean_of(held: Mapping[str, nn.Module], x: torch.Tensor = X) -> torch.Tensor:
    with torch.no_grad():
        return torch.stack([module(x) for module in held.values()]).mean(0)


def test_a_search_takes_groups_and_parts_that_were_measured_and_proves_over_all_ways(lab: Lab) -> None:
    plan = lab.search()
    assert set(plan.steps) == TOGETHER
    assert plan.names != plan.steps
    assert plan.gap == pytest.approx(0.0, abs=1e-9)
    assert plan.fingerprints == lab.ensemble.fingerprints


def test_a_search_can_be_told_to_leave_them_out(lab: Lab) -> None:
    assert "a+b+c" not in lab.search(groups=False).steps
    assert "big" in lab.search(parts=False).steps
    plain = lab.search(groups=False, parts=False)
    assert plain.steps == plain.names
    assert not any("ways" in note for note in plain.notes)


def test_a_background_search_finds_the_same(lab: Lab) -> None:
    assert set(lab.start_search().result(timeout=60).steps) == TOGETHER
    assert lab.plan is not None
    assert set(lab.plan.steps) == TOGETHER


def test_other_searchers_search_the_plain_way(lab: Lab) -> None:
    assert lab.search("sequential").steps == lab.search("sequential").names


def test_runs_answer_as_the_notebook_does_for_any_batch(lab: Lab, held: dict[str, nn.Module]) -> None:
    lab.search()
    for rows in (4, 1, 9):
        x = torch.randn(rows, 8)
        assert difference(lab.run(x), mean_of(held, x)).agrees
    assert lab.report is not None
    assert {span.name for span in lab.report.spans} == TOGETHER


def test_weights_that_changed_are_sent_again_and_points_stay(lab: Lab, held: dict[str, nn.Module]) -> None:
    lab.search()
    lab.run(X)
    for name in ("b", "big"):
        with torch.no_grad():
            held[name][0].weight.mul_(3.0)
        assert difference(lab.run(X), mean_of(held)).agrees
    assert set(lab.search().steps) == TOGETHER, "new weights take the same time"


def test_networks_of_another_shape_are_searched_without_the_old_points(lab: Lab) -> None:
    lab.register("c", mlp(seed=3, width=7), example=X)
    with_points(lab, PLAIN)
    assert set(lab.search().steps) == {"a+b", "c", "big 1/2", "big 2/2"}


def test_the_editor_takes_over_groups_and_parts_and_moves_them_whole(lab: Lab, held: dict[str, nn.Module]) -> None:
    editor = lab.tune()
    assert set(editor.models) == set(PLAIN)
    plan = lab.search()
    assert lab.tune() is editor
    assert set(editor.models) == TOGETHER
    assert editor.state.in_force
    home = editor.state.lanes[0].members
    state = editor.move("b", "1" if "a+b+c" not in home else "2")
    assert sorted(len(lane.members) for lane in state.lanes) in ([1, 2], [3])
    with pytest.raises(UsageError, match="by its own name"):
        editor.move("big", "1")
    moved = editor.apply()
    assert set(moved.steps) == set(plan.steps)
    assert difference(lab.run(X), mean_of(held)).agrees


def test_a_draft_of_ones_own_keeps_its_steps_when_a_search_finds_others(lab: Lab) -> None:
    editor = lab.tune()
    editor.move("a", None)
    lab.search()
    assert set(lab.tune().models) == set(PLAIN)


def test_refinement_keeps_to_the_groups_and_parts_of_the_plan(lab: Lab) -> None:
    lab.search()
    refined = lab.studies.refine(X, rounds=2, runs=2)
    assert set(refined.plan.steps) == TOGETHER


def test_a_saved_plan_is_loaded_and_runs(lab: Lab, held: dict[str, nn.Module], tmp_path: Path) -> None:
    plan = lab.search()
    lab.save(tmp_path / "plan.json")
    lab.search(groups=False, parts=False)
    assert lab.load(tmp_path / "plan.json").lanes == plan.lanes
    assert difference(lab.run(X), mean_of(held)).agrees


def test_an_exported_script_runs_groups_and_parts(lab: Lab, tmp_path: Path) -> None:
    lab.search()
    script = lab.export(tmp_path / "plan.py").script
    run = [sys.executable, str(script), "--json"]
    done = subprocess.run(run, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {name for lane in json.loads(done.stdout)["lanes"] for name in lane["members"]} == TOGETHER


def test_a_share_at_which_a_group_answered_wrongly_is_used_by_no_later_search(lab: Lab) -> None:
    row = CheckedAnswers(
        name="b",
        lane=0,
        units=1,
        in_force="",
        worst=Difference(dtype="float32", error=1.0),
        wrong=1,
        runs=1,
        backend="group of 3",
    )
    lab._runtime.change(lambda state: state.knowing(state.here.with_wrong([row], state.ensemble.fingerprints)))
    plan = lab.search()
    assert all(lane.units != 1 or "a+b+c" not in lane.members for lane in plan.lanes)
    grouped = Plan(lanes=(Lane(units=1, members=("a+b+c",)), Lane(units=1, members=("big",))), units=2)
    assert lab.state.here.wrong_in(grouped, lab.ensemble) == [("a+b+c", 1)]
    alone = Plan(lanes=(Lane(units=1, members=("a", "b", "c", "big")),), units=2)
    assert lab.state.here.wrong_in(alone, lab.ensemble) == []


def test_plans_whose_groups_nobody_measured_run_but_are_not_edited(lab: Lab, held: dict[str, nn.Module]) -> None:
    thirds = Lane(units=1, members=("big 1/3", "big 2/3", "big 3/3"))
    lab.apply(Plan(lanes=(Lane(units=1, members=("b+c", "a")), thirds), units=2))
    assert difference(lab.run(X), mean_of(held)).agrees
    with pytest.raises(UsageError, match="no finished measurement of big 1/3"):
        lab.tune()


def test_a_plan_with_a_group_of_which_one_is_gone_is_edited_as_what_is_left(lab: Lab) -> None:
    assert "a+b+c" in lab.search().steps
    lab.unregister("c")
    state = lab.tune().state
    assert sorted(name for lane in state.lanes for name in lane.members) == ["a", "b", "big"]
    assert not state.in_force


def test_ways_of_execution_are_chosen_for_whole_sub_models(lab: Lab) -> None:
    lab.search()
    with pytest.raises(UsageError, match="groups=False"):
        lab.lanes.choose_backends()


# --- measured for real ------------------------------------------------------------------------------------------------


def test_groups_and_parts_are_profiled_as_sub_models_are_and_come_from_the_store_next_time(tmp_path: Path) -> None:
    store = tmp_path / "profiles.sqlite"
    device = CpuDevice(cores=[(0,), (0,)])
    for reused in (False, True):
        with Lab(device=device, store=store) as lab:
            for name, module in modules().items():
                lab.register(name, module, example=X)
            with_points(lab, PLAIN)
            profile = lab.profile(budget_s=0.02, groups=True, parts=True).result(timeout=100)
            assert {"a+b+c", "a+b", "big 1/2"} <= set(profile.names)
            assert all(point.reused is reused for point in profile.points if point.name == "a+b+c")
            assert set(lab.measurements.names) == set(PLAIN), "groups are known beside the sub-models"
            assert lab.state.here.derived_model("b+c", lab.ensemble, 2, "median") is not None, "sizes alone count"
            assert any("4 ways" in note or "6 ways" in note for note in lab.search().notes)


def test_what_cannot_be_grouped_or_split_is_said(lab: Lab) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        lab.register("big", nn.Sequential(mlp(seed=9), nn.Softmax(dim=0)), example=X)
        with_points(lab, PLAIN)
        lab.profile(budget_s=0.01, groups=True, parts=True).result(timeout=100)
    assert any(issubclass(one.category, NotDerived) and "depends on other rows" in str(one.message) for one in said)


def test_a_profile_of_groups_that_cannot_be_is_refused_before_anything_is_measured() -> None:
    with Lab(device=CpuDevice(cores=[(0,)])) as lab:
        lab.register("a", mlp(width=3), example=X)
        lab.register("b", mlp(width=5))
        with pytest.raises(UsageError, match="no two sub-models are of one architecture"):
            lab.profile(groups=True)
        with pytest.raises(UsageError, match="one unit"):
            lab.profile(parts=True)
        lab.use_device(CpuDevice(cores=[(0,), (0,)]))
        lab.register("c", mlp(width=7), example=X)
        with_points(lab, {"a": [1e-3, 1e-3], "b": [1e-3, 1e-3], "c": [1e-3, 1e-3]})
        with pytest.raises(UsageError, match="fair share"):
            lab.profile(parts=True)
        with pytest.raises(UsageError, match="adaptive"):
            lab.profile(parts=True, adaptive=True)
        assert lab.job is None


def test_groups_of_another_batch_than_that_of_a_run_are_not_planned_with(lab: Lab) -> None:
    known, ensemble = lab._runtime.state.here, lab.ensemble
    assert known.derived.of("a+b", ensemble) is not None
    first = ensemble.submodels[0]
    other = replace(first, name="other", example=X.repeat(3, 1))
    larger = replace(ensemble, submodels=(other, *ensemble.submodels))
    assert known.derived.of("a+b", larger) is None


def test_groups_and_parts_that_were_measured_are_named(lab: Lab) -> None:
    assert set(lab.points.derived) >= {"a+b+c"}
