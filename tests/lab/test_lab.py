"""The lab: every stage from plain Python, with real workers, a real store and real files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import leaks
import models
import pytest
import torch
from gates import Gate
from interrupting import interrupted_once
from models import KillsItself, MakesNan, Raises, mlp
from points import POINT
from torch import nn
from waiting import until

from esen_lab import FakeDevice, Lab, Plan
from esen_lab.errors import EsenError, ModelError, StoreError, UsageError, WorkerDied
from esen_lab.lab import Action
from esen_lab.lab.stages.profile import with_measured
from esen_lab.planner.plan import Lane
from esen_lab.profiler import ProfileStore
from esen_lab.profiler.store import PointKey, library_versions

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(device="cpu", store=tmp_path / "profiles.sqlite") as lab:
        yield lab


def two(lab: Lab) -> Lab:
    lab.register("a", mlp(seed=1), example=X)
    lab.register("b", mlp(seed=2))
    return lab


def by_hand(*lanes: tuple[str, ...], units: int = 1) -> Plan:
    return Plan(lanes=tuple(Lane(units=1, members=lane) for lane in lanes), units=units)


def measured(lab: Lab) -> Lab:
    lab.profile(budget_s=0.05).result(timeout=60)
    return lab


def expected(x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return torch.stack([mlp(seed=1)(x), mlp(seed=2)(x)]).mean(0)


# --- the whole way ----------------------------------------------------------------------------------------------


def test_the_python_face_end_to_end(tmp_path: Path) -> None:
    lab = Lab(device="cpu", store=tmp_path / "store.sqlite")
    lab.register("narrow", mlp(8), example=X)
    lab.register("wide", mlp(64))
    job = lab.profile(budget_s=0.05)
    assert job.snapshot().total == 2 * lab.device.units
    profile = job.result(timeout=60)
    assert set(profile.names) == {"narrow", "wide"}
    plan = lab.search(searcher="exact")
    assert lab.plan is plan
    assert plan.jct_s is not None
    assert plan.bound_s is not None
    assert plan.jct_s >= plan.bound_s * (1 - 1e-9)
    y = lab.run(X)
    with torch.inference_mode():
        torch.testing.assert_close(y, (mlp(8)(X) + mlp(64)(X)) / 2)
    assert lab.report is not None
    assert lab.report.predicted_s == plan.jct_s
    table = lab.compare(X, rounds=2, strategies=["sequential", "unlimited"])
    assert table.to_dict()["rows"][-1]["strategy"] == "plan"
    lab.save(tmp_path / "plan.json")
    assert replace(lab.load(tmp_path / "plan.json"), notes=()) == replace(plan, notes=())
    plans = {"saved": tmp_path / "plan.json", "by hand": replace(plan, searcher="hand")}
    table = lab.compare(X, rounds=1, strategies=["sequential"], plans=plans)
    assert [row.strategy for row in table.rows] == ["sequential", "saved", "by hand", "plan"]
    exported = lab.export(tmp_path / "plan.py")
    assert Path(exported.script).exists()
    lab.close()


def test_a_second_profile_reuses_every_stored_point_even_in_another_lab(lab: Lab, tmp_path: Path) -> None:
    measured(two(lab))
    with Lab(device="cpu", store=tmp_path / "profiles.sqlite") as other:
        job = two(other).profile(budget_s=0.05)
        profile = job.result(timeout=60)
    assert all(point.reused for point in profile.points)
    assert job.snapshot().reused == len(profile.points)


def test_a_run_inside_inference_mode_leaves_later_runs_alone(lab: Lab) -> None:
    two(lab)
    with torch.inference_mode():
        torch.testing.assert_close(lab.run(X), expected(X))
    torch.testing.assert_close(lab.run(X), expected(X))


# --- registering ------------------------------------------------------------------------------------------------


def test_registering_again_replaces_in_place_and_the_next_run_uses_it(lab: Lab) -> None:
    two(lab)
    lab.plan = by_hand(("a", "b"))
    torch.testing.assert_close(lab.run(X), expected(X))
    lab.register("a", mlp(seed=2))
    assert lab.ensemble.names == ("a", "b")
    with torch.inference_mode():
        torch.testing.assert_close(lab.run(X), mlp(seed=2)(X))


def test_a_factory_and_an_import_path_register_like_a_module(lab: Lab) -> None:
    lab.register("factory", mlp, example=X, kwargs={"seed": 1})
    lab.register("path", "models:mlp", kwargs={"seed": 2})
    torch.testing.assert_close(lab.run(X), expected(X))


@pytest.mark.parametrize("name", ["", "a b", "../a", "a'b", 'a"', "a\nb", "1"])
def test_a_name_that_could_break_out_is_refused_and_nothing_is_lost(lab: Lab, name: str) -> None:
    two(lab)
    with pytest.raises(UsageError, match="A name starts"):
        lab.register(name, mlp())
    assert lab.ensemble.names == ("a", "b")


def test_a_module_that_raises_or_does_not_take_its_example_is_refused_and_nothing_is_lost(lab: Lab) -> None:
    two(lab)
    with pytest.raises(EsenError, match="picky"):
        lab.register("picky", Raises())
    with pytest.raises(EsenError, match="misfit"):
        lab.register("misfit", mlp(inputs=9))
    assert lab.ensemble.names == ("a", "b")


def test_the_first_sub_model_needs_an_example(lab: Lab) -> None:
    with pytest.raises(UsageError, match="example"):
        lab.register("a", mlp())


def test_unregistering_removes_and_an_unknown_name_is_refused(lab: Lab) -> None:
    two(lab).unregister("a")
    assert lab.ensemble.names == ("b",)
    with pytest.raises(UsageError):
        lab.unregister("a")


def test_nothing_works_on_zero_sub_models_and_every_verb_says_what_to_do(lab: Lab) -> None:
    for verb in (lab.profile, lab.points.fit, lab.search, lambda: lab.run(X), lambda: lab.compare(X)):
        with pytest.raises(UsageError, match="Register one"):
            verb()
    for keep in (lab.save, lab.export):
        with pytest.raises(UsageError, match="no plan yet"):
            keep("somewhere")
    assert lab.status().next_step.action is Action.REGISTER


# --- choosing ---------------------------------------------------------------------------------------------------


def test_searching_before_profiling_names_what_is_missing(lab: Lab) -> None:
    with pytest.raises(UsageError, match="a, b"):
        two(lab).search()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"searcher": "exect"}, "Did you mean exact"),
        ({"limits": {"pinned": {"aa": 1}}}, "Did you mean a"),
        ({"limits": {"min_units": {"a": 10_000}}}, "all the device has"),
    ],
)
def test_what_no_search_can_be_is_refused_before_anything_is_to_be_measured(
    lab: Lab, asked: dict[str, Any], message: str
) -> None:
    lab.register("a", mlp(), example=torch.ones(2, 8))
    with pytest.raises(UsageError, match=message):
        lab.search(**asked)


def test_an_unknown_searcher_or_option_is_refused_with_the_known_ones(lab: Lab) -> None:
    measured(two(lab))
    with pytest.raises(UsageError, match="exact"):
        lab.search("magic")
    with pytest.raises(UsageError):
        lab.search("exact", colour="red")
    assert lab.plan is None


def test_a_new_version_of_a_sub_model_has_to_be_measured_again(lab: Lab) -> None:
    measured(two(lab))
    lab.register("a", mlp(seed=3))
    with pytest.raises(UsageError, match="no finished measurement of a"):
        lab.points.fit()
    measured(lab)
    assert set(lab.points.fit()) == {"a", "b"}


def test_measuring_one_more_share_keeps_the_points_of_the_others(lab: Lab) -> None:
    two(lab).profile(shares=[1], budget_s=0.05).result(timeout=60)
    lab.profile(["b"], shares=[1], budget_s=0.05, fresh=True).result(timeout=60)
    assert lab.measurements is not None
    assert lab.measurements.names == ("a", "b")


# --- running ----------------------------------------------------------------------------------------------------


def test_without_a_plan_the_sub_models_run_one_after_another_and_the_report_says_so(lab: Lab) -> None:
    torch.testing.assert_close(two(lab).run(X), expected(X))
    assert lab.report is not None
    assert "No plan yet" in lab.report.notes[0]


def test_lanes_stay_warm_between_runs_and_a_new_plan_swaps_in(lab: Lab) -> None:
    two(lab).plan = by_hand(("a", "b"))
    lab.run(X)
    first = lab.state.executor
    lab.run(X)
    assert lab.state.executor is first
    lab.plan = by_hand(("b", "a"))
    torch.testing.assert_close(lab.run(X), expected(X))
    assert lab.state.executor is not first


class HomeOnly(nn.Module):
    """Runs here, and in no worker that is started after `flag` exists."""

    def __init__(self, flag: str) -> None:
        super().__init__()
        self.flag = flag

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if os.path.exists(self.flag):
            raise RuntimeError("not today")
        return x


def test_a_plan_that_cannot_start_leaves_the_old_one_in_force(lab: Lab, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    lab.register("a", HomeOnly(str(flag)), example=X)
    lab.register("b", nn.Identity())
    old = by_hand(("a", "b"))
    lab.plan = old
    lab.run(X)
    flag.touch()
    lab.plan = by_hand(("b", "a"))
    with pytest.raises(ModelError, match="not today") as caught:
        lab.run(X)
    assert any("stays in force" in note for note in caught.value.__notes__)
    assert lab.plan is old
    flag.unlink()
    torch.testing.assert_close(lab.run(X), X)


def test_changing_the_combine_rule_does_not_restart_the_lanes(lab: Lab) -> None:
    two(lab).run(X)
    before = lab.state.executor
    lab.combine("stack")
    assert lab.run(X).shape == (2, 4, 3)
    assert lab.state.executor is before
    with pytest.raises(UsageError, match="mean"):
        lab.combine("magic")


def test_a_worker_killed_during_a_run_is_named_and_the_next_run_starts_afresh(lab: Lab) -> None:
    lab.register("fatal", KillsItself(), example=X.abs())
    with pytest.raises(WorkerDied, match=r"SIGKILL.*fatal"):
        lab.run(-X.abs())
    torch.testing.assert_close(lab.run(X.abs()), X.abs())


def test_an_interrupt_during_a_run_leaves_the_lab_usable(lab: Lab, gate: Gate) -> None:
    lab.register("slow", gate.member(2.0), example=X)
    lab.run(X)
    gate.close()
    with interrupted_once(gate.has_begun, then=gate.open):
        lab.run(X)
    torch.testing.assert_close(lab.run(X), 2 * X)


def test_nan_outputs_are_in_the_report(lab: Lab) -> None:
    lab.register("bad", MakesNan(), example=X)
    assert lab.run(X).isnan().all()
    assert lab.report is not None
    assert lab.report.nan == ("bad",)


def test_a_run_and_a_profile_take_turns_on_the_device(lab: Lab) -> None:
    two(lab).run(X)
    job = lab.profile(budget_s=0.2)
    for _ in range(5):
        torch.testing.assert_close(lab.run(X), expected(X))
    assert len(job.result(timeout=60).points) == 2 * lab.device.units


# --- keeping ----------------------------------------------------------------------------------------------------


def test_loading_says_what_differs_from_here(lab: Lab, tmp_path: Path) -> None:
    two(lab)
    lab.plan = replace(
        by_hand(("a", "b")),
        device={"kind": "cpu", "name": "Another Processor", "units": 1},
        fingerprints={"a": "old", "b": lab.ensemble.fingerprints["b"]},
        example="float32[1, 8]",
        combine="stack",
    )
    lab.save(tmp_path / "plan.json")
    notes = " ".join(lab.load(tmp_path / "plan.json").notes)
    for word in ("Another Processor", "another version of a ", "float32[1, 8]", "stack"):
        assert word in notes
    again = lab.load(tmp_path / "plan.json")
    assert len(set(again.notes)) == len(again.notes)


def test_a_plan_for_more_cores_or_other_sub_models_is_refused_and_the_old_one_stays(lab: Lab, tmp_path: Path) -> None:
    two(lab).plan = by_hand(("a", "b"))
    old = lab.plan
    by_hand(("a",), ("b",), units=64).save(tmp_path / "large.json")
    by_hand(("a", "c")).save(tmp_path / "other.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(UsageError, match="a plan for 64"):
        lab.load(tmp_path / "large.json")
    with pytest.raises(UsageError, match="'c' is in the plan only; 'b' is in the ensemble only"):
        lab.load(tmp_path / "other.json")
    with pytest.raises(StoreError):
        lab.load(tmp_path / "broken.json")
    assert lab.plan is old


# --- the end ----------------------------------------------------------------------------------------------------


def test_closing_ends_everything_and_the_lab_may_be_used_again(lab: Lab) -> None:
    two(lab).run(X)
    lab.close()
    lab.close()
    torch.testing.assert_close(lab.run(X), expected(X))


def test_closing_from_another_thread_frees_a_run_that_hangs(lab: Lab, gate: Gate) -> None:
    lab.register("slow", gate.member(1.0), example=X)
    lab.run(X)
    gate.close()

    def close() -> None:
        gate.begun()
        lab.close()

    other = threading.Thread(target=close)
    other.start()
    with pytest.raises(EsenError):
        lab.run(X + 1)
    other.join()


CODE = """
import sys, torch
from esen_lab import Lab
from models import Sleeper
lab = Lab(device="cpu", store=sys.argv[1])
lab.register("a", Sleeper(0.2), example=torch.ones(2))
lab.run(torch.ones(2))
job = lab.profile(budget_s=30)
print("ready", flush=True)
input()
"""


@pytest.mark.parametrize("end", ["exit", "kill"])
def test_a_process_that_ends_in_the_middle_leaves_nothing(tmp_path: Path, end: str) -> None:
    import psutil

    temporary = tmp_path / "tmp"
    temporary.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(Path(models.__file__).parent), "TMPDIR": str(temporary)}
    command = [sys.executable, "-c", CODE, str(tmp_path / "store.sqlite")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=environment, **pipes) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        family = psutil.Process(child.pid).children(recursive=True)
        assert family
        if end == "kill":
            child.kill()
        child.stdin.close()
        child.wait(timeout=60)
    assert leaks.still_alive(family, within_s=60) == []
    until(lambda: not list(temporary.iterdir()))


def test_a_sub_model_known_at_few_shares_is_predicted_by_what_the_store_knows_of_the_device(tmp_path: Path) -> None:
    device = FakeDevice({"a": {2: 0.006, 8: 0.003, 16: 0.0025}}, units=16)
    store = ProfileStore(tmp_path / "points.sqlite3")
    for index in range(20):  # networks that all like 11 units
        for units in range(1, 17):
            key = PointKey(
                fingerprint=f"network {index % 5}",
                example=f"batch {index}",
                device=device.identity.key,
                versions=library_versions(),
                units=units,
            )
            median_s = (1e-3 + (1 + index) * 1e-3 / units) * (0.8 if units == 11 else 1.0)
            store.put(key, replace(POINT, units=units, median_s=median_s))
    with Lab(device, store=store.path) as lab:
        lab.register("a", mlp(), example=X)
        lab.profile(shares=[2, 8, 16], budget_s=0.05).result(60)
        model = lab.points.fit()["a"]
        assert model.notes[0].startswith("corrected by 20 complete curves of this device")
        assert model.active_units[11] == 11
        assert lab.points.fit("q90")["a"].active_units[11] != 11


def test_what_was_measured_is_recorded_and_planned_with_elsewhere(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has been measured"):
        lab.points.record(tmp_path / "here.json")
    profile = measured(two(lab)).measurements
    assert profile is not None
    path = lab.points.record(tmp_path / "here.json")
    assert json.loads(path.read_text())["measured"]["examples"] == dict(profile.examples)
    with Lab(device=f"fake:{path}", store=tmp_path / "elsewhere.sqlite") as elsewhere:
        two(elsewhere).profile(budget_s=0.05).result(timeout=60)
        assert elsewhere.device.identity.simulated
        assert elsewhere.device.identity.name.startswith(lab.device.identity.name)
        plan = elsewhere.search()
        assert plan.units == lab.device.units
        elsewhere.run(X)
    with pytest.raises(StoreError, match="there is room"):
        lab.points.record(tmp_path / "no such folder" / "here.json")


def test_every_member_is_measured_on_the_batch_that_a_run_gives_it(lab: Lab) -> None:
    lab.register("a", mlp(seed=1), example=X.repeat(16, 1))
    small = lab.register("b", mlp(seed=2), example=X)
    assert any("the ensemble's is float32[64, 8]" in note for note in small.notes)
    profile = measured(lab).measurements
    assert profile is not None
    assert dict(profile.examples) == {"a": "float32[64, 8]", "b": "float32[64, 8]"}
    lab.search()
    again = lab.register("b", mlp(seed=2), example=X.repeat(16, 1))
    assert not again.notes
    lab.search()  # it is what was measured


def test_points_of_another_batch_are_not_planned_with(lab: Lab) -> None:
    measured(two(lab)).search()
    for name, seed in (("a", 1), ("b", 2)):
        lab.register(name, mlp(seed=seed), example=X.repeat(16, 1))
    assert lab.measurements is None or not lab.measurements.points
    assert lab.status().next_step.action is Action.PROFILE
    with pytest.raises(UsageError, match="no finished measurement of a, b"):
        lab.search()


# --- predictions that are questioned ----------------------------------------------------------------------------------


def test_a_run_far_from_its_prediction_says_so_why_and_what_to_do(lab: Lab) -> None:
    measured(two(lab))
    plan = lab.search()
    lab.plan = replace(plan, jct_s=1e-7, created_at="2020-01-01T00:00:00+00:00")
    for _ in range(3):
        lab.run(X)
    assert lab.report is not None
    told = " ".join(lab.report.notes)
    assert "Far from its prediction" in told
    assert "median of the last 3 runs" in told
    assert "the plan was made" in told
    assert "profile(fresh=True)" in told
    assert lab.report.far == lab.report.notes[-len(lab.report.far) :]


def test_old_points_behind_a_plan_are_named_where_it_is_far_off(lab: Lab) -> None:
    measured(two(lab))
    plan = lab.search()
    profile = lab.measurements
    assert profile is not None
    old = tuple(replace(point, measured_at="2020-01-01T00:00:00+00:00") for point in profile.points)
    lab._runtime.change(lambda state: with_measured(state, replace(profile, points=old)))
    lab.plan = replace(plan, jct_s=1e-7)
    lab.run(X)
    assert lab.report is not None
    assert any("days ago: a at" in note for note in lab.report.notes), lab.report.notes
    lab.plan = replace(plan, jct_s=1e-7, device={**plan.device, "name": "another one"})
    lab.run(X)
    assert not any("days ago: a at" in note for note in lab.report.notes), "its points are not these"
    assert any("made on another device" in note for note in lab.report.notes)


def test_another_batch_than_profiled_has_no_prediction_and_says_how_to_get_one(lab: Lab) -> None:
    measured(two(lab))
    lab.plan = replace(lab.search(), jct_s=1e-7)
    lab.run(torch.randn(9, 8))
    assert lab.report is not None
    assert lab.report.predicted_s is None
    assert any("nothing is predicted" in note for note in lab.report.notes)
    assert lab.report.far == ()


@pytest.mark.parametrize("label", [-1, 99])
def test_a_comparison_refuses_a_label_that_is_no_class_and_goes_on_after_it(lab: Lab, label: int) -> None:
    two(lab)
    with pytest.raises(UsageError, match=f"A label is one of the .* Given: {label}"):
        lab.compare(X, y=[0, 0, 0, label], rounds=1, strategies=["sequential"])
    rows = lab.compare(X, y=[0, 0, 0, 1], rounds=1, strategies=["sequential"]).rows
    assert all(row.accuracy is not None for row in rows if row.times_s)


def test_what_no_comparison_can_be_asked_for_is_refused_before_its_plan_is_looked_at(lab: Lab) -> None:
    two(lab)._runtime.set(plan=by_hand(("a",), ("gone",)))
    with pytest.raises(UsageError, match="hold the same sub-models"):
        lab.compare(X)
    for wrong, message in (
        ({"rounds": 0}, "at least one round"),
        ({"strategies": ["seqential"]}, "Did you mean sequential"),
        ({"ways": {"plan": str}}, "a name that no strategy has"),
    ):
        with pytest.raises(UsageError, match=message):
            lab.compare(X, **wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="at least one run"):
        lab.check_numerics(X, runs=0)


def test_a_comparison_before_any_search_neither_wins_nor_loses(lab: Lab) -> None:
    found = two(lab).compare(X, rounds=2, strategies=["sequential"])
    assert found.verdict.startswith("No plan was searched")
