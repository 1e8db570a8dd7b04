"""The program behind `make gpu-check`, without a GPU: its logic, its exit codes, its rehearsal."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks" / "gpu"
sys.path.insert(0, str(FOLDER))

import gpu_check  # noqa: E402
import gpu_sections  # noqa: E402
from gpu_check import NOT_WHOLE, REHEARSAL, SAME, in_child, is_whole, kept_from, main, run_all, sections  # noqa: E402
from gpu_models import ENSEMBLES, models_of  # noqa: E402
from gpu_sections import BASE, goals, paired  # noqa: E402
from gpu_steps import OutOfTime, Steps, failures_in  # noqa: E402
from gpu_tables import tables  # noqa: E402

from esen_lab.planner.plan import Lane, Plan  # noqa: E402
from esen_lab.run.plan_graph import PlanGraph  # noqa: E402


def test_without_a_gpu_it_measures_nothing_says_what_it_would_have_run_and_has_its_own_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "check.json"
    assert main(["--out", str(out)], gpu=lambda: False) == 3
    told = capsys.readouterr().out
    assert all(name in told for name in sections(False))
    assert not out.exists()


def test_a_rehearsal_runs_the_program_and_says_in_every_part_that_it_is_none_of_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out" / "check.json"
    monkeypatch.delenv("ESEN_LAB_BACKENDS")  # as where somebody measures
    assert main(["--rehearse", "--out", str(out), "--only", "facts", "gate", "transport", "mixed-cnns@1/cpu"]) == 0
    found = json.loads(out.read_text())
    assert found["kind"].startswith("REHEARSAL")
    assert all(part["rehearsal"].startswith("REHEARSAL") for part in found["sections"].values())
    assert failures_in(found["sections"]) == {}, "a step that fails here would fail on a GPU"
    assert all({"gpu_before", "gpu_after"} <= part.keys() for part in found["sections"].values())
    verdicts = found["sections"]["gate"]["cpu"]
    assert list(verdicts) == ["device", "float32", "tf32", "float16", "bfloat16"]
    assert all(verdict["passed"] for dtype, verdict in verdicts.items() if dtype != "device")
    ensemble = found["sections"]["mixed-cnns@1/cpu"]
    assert ensemble["profile"]["backend_points"] == [], "goals are of eager plans, and compiling would take the time"
    assert all("backends" not in lane for lane in ensemble["plan"]["lanes"]), "as of lanes that are all eager"
    ways = {"sequential", "unlimited", "equal", "threads", "vmap", "plan", "our shares"}
    assert ways <= set(ensemble["compared"]["rows"])
    assert {f"{way} + graphs" for way in ways - {"threads", "vmap"}} <= set(ensemble["compared"]["rows"])
    assert ensemble["compared"]["rows"]["plan + graphs"]["fell_back"], "there are no graphs on a CPU"
    held_against = {BASE, "plan", "plan + graphs", "one process with streams"}
    assert set(ensemble["paired"]) == set(ensemble["utilization"]) == held_against
    assert ensemble["paired"][BASE]["ratio_to_base"] == 1.0
    assert ensemble["paired"]["plan"]["rounds"] == ensemble["paired"][BASE]["rounds"] >= 3
    assert ensemble["paired"]["plan + graphs"]["fell_back"]
    assert set(ensemble["goals"].values()) == {None}
    assert "| plan + graphs |" in tables(found)
    assert "/ MPS default, same round" in tables(found)


def test_what_was_measured_becomes_tables_and_files_to_plan_with_on_any_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from esen_lab import FakeDevice

    out, folder = tmp_path / "check.json", tmp_path / "profiles"
    assert main(["--rehearse", "--out", str(out), "--only", "facts", "eight-equal@1/cpu"]) == 0
    assert main(["--table", str(out), "--profiles", str(folder)]) == 0
    told = capsys.readouterr().out
    assert "### eight-equal@1/cpu" in told
    (written,) = folder.iterdir()
    assert str(written) in told
    device = FakeDevice.load(written)
    assert set(device.latency_s) == {"member0", "member1"}
    assert device.units == 2
    assert json.loads(written.read_text())["of"]["kind"] == REHEARSAL


def test_a_section_that_takes_too_long_is_cut_off_and_the_others_run(tmp_path: Path) -> None:
    found = in_child("facts", True, 0.0, grace_s=120.0)
    assert found["not_whole"].startswith("no time was left for versions, machine, doctor")
    out = tmp_path / "check.json"
    assert main(["--rehearse", "--out", str(out), "--only", "facts", "--seconds", "0"]) == NOT_WHOLE
    assert json.loads(out.read_text())["sections"]["facts"]["not_whole"] == "no time was left"


def test_what_starting_a_section_takes_is_of_its_own_time(tmp_path: Path) -> None:
    out = tmp_path / "section.json"
    command = ["--rehearse", "--section", "facts", "--out", str(out), "--until"]
    assert main([*command, str(time.monotonic() - 1.0)]) == 0
    assert json.loads(out.read_text())["skipped"] == ["versions", "machine", "doctor"]


def test_a_section_that_hangs_is_ended_and_what_it_had_done_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs = tmp_path / "hangs.py"
    hangs.write_text(
        "import json, sys, time\n"
        "out = sys.argv[sys.argv.index('--out') + 1]\n"
        "open(out, 'w').write(json.dumps({'first': 1}))\n"
        "time.sleep(600)\n"
    )
    monkeypatch.setattr(gpu_check, "__file__", str(hangs))
    found = in_child("any", True, 0.0)  # the child gets five seconds more than it may take
    assert found["first"] == 1
    assert found["not_whole"].startswith("cut off after")


def test_steps_keep_what_is_done_name_what_failed_and_skip_what_has_no_time_left(tmp_path: Path) -> None:
    now = [0.0]
    out = tmp_path / "section.json"
    steps = Steps(out, 10, clock=lambda: now[0])

    def slow() -> str:
        now[0] = 8.0
        return "done"

    def fails() -> None:
        raise ValueError("no such thing")

    assert steps.do("group.slow", slow) == "done"
    assert json.loads(out.read_text()) == {"group": {"slow": "done"}}
    assert steps.do("fails", fails) is None
    assert steps.do("long", slow, needs_s=5) is None
    assert json.loads(out.read_text()) == {
        "group": {"slow": "done"},
        "fails": {"failed": "ValueError: no such thing"},
        "skipped": ["long"],
    }


def test_a_step_that_was_done_is_not_done_again_and_one_that_ran_out_of_time_goes_on() -> None:
    before = {"whole": 1, "bad": {"failed": "x"}, "group": {"a": 2}, "skipped": ["late"]}
    steps = Steps(None, 100, before=before)
    done: list[str] = []

    def noted(name: str, result: Any = 9) -> Any:
        def make() -> Any:
            done.append(name)
            return result

        return make

    assert steps.do("whole", noted("whole")) == 1
    assert steps.do("group.a", noted("a")) == 2
    assert steps.do("bad", noted("bad")) == 9
    assert steps.do("late", noted("late")) == 9
    assert steps.do("whole", noted("again"), always=True) == 9
    assert done == ["bad", "late", "again"]
    assert "skipped" not in steps.found

    def too_long() -> Any:
        raise OutOfTime

    assert steps.do("long", too_long) is None
    assert steps.found["skipped"] == ["long"]


def test_a_later_call_goes_on_with_what_is_of_the_same_sources_versions_and_machine_only(tmp_path: Path) -> None:
    out = tmp_path / "check.json"
    known = {"kind": "measured", "commit": "abc", "driver": "580", "gpus": ["H200"], "versions": {"torch": "2.11"}}
    assert set(known) == set(SAME)
    before = {**known, "sections": {"facts": {"a": 1}, "gate": {"not_whole": "no time", "mps": {"float32": 1}}}}
    out.write_text(json.dumps(before))
    assert kept_from(out, known) == before["sections"]
    for key, other in {"commit": "abd", "gpus": ["H100"], "versions": {"torch": "2.12"}, "driver": "590"}.items():
        assert kept_from(out, {**known, key: other}) == {}, key
    assert kept_from(tmp_path / "none.json", known) == {}
    dirty = {**known, "commit": "abc-dirty"}
    out.write_text(json.dumps({**before, **dirty}))
    assert kept_from(out, dirty) == {}, "nobody knows whether the sources are the same"


def test_figures_without_a_commit_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_check, "commit", lambda: "unknown")
    with pytest.raises(SystemExit):
        main(["--rehearse", "--out", str(tmp_path / "x.json"), "--only", "proof"])
    assert "--commit" in capsys.readouterr().err


def test_sections_take_a_minute_or_their_part_of_the_time_and_go_on_when_all_have_had_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, float, int]] = []

    def child(name: str, rehearse: bool, timeout_s: float, *, before: Any, points: Path) -> dict[str, Any]:
        assert points.is_dir()
        done = before.get("done", 0) + 1
        asked.append((name, timeout_s, done))
        if name == "stuck":
            return {"skipped": ["x"], "not_whole": "x", "done": done}
        if name == "slow":  # its third step hangs
            return {"done": done, "steps": dict.fromkeys("ab"[:done], 1), "not_whole": "cut off after 65 s"}
        if name == "breaks":
            return {"step": {"failed": "why"}}
        left = ["a"] * (3 - done)
        return {"done": done, **({"skipped": left, "not_whole": "no time"} if left else {})}

    monkeypatch.setattr(gpu_check, "in_child", child)
    result: dict[str, Any] = {"sections": {}}
    run_all(["long", "stuck", "slow", "breaks"], result, tmp_path / "out.json", 245.0, False)
    assert [name for name, _, _ in asked] == [
        *("long", "stuck", "slow", "breaks"),
        *("long", "stuck", "slow"),
        "long",
        "slow",
    ]
    assert [timeout for _, timeout, _ in asked[:4]] == pytest.approx([60.0, 80.0, 120.0, 240.0], abs=1.0)
    assert {name: is_whole(one) for name, one in result["sections"].items()} == {
        "long": True,
        "stuck": False,
        "slow": False,
        "breaks": False,
    }


def test_a_rehearsal_in_short_calls_makes_the_whole_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "check.json"
    monkeypatch.setattr(gpu_check, "commit", lambda: "clean")
    command = ["--rehearse", "--out", str(out), "--only", "proof", "eight-equal@1/cpu"]
    assert main([*command, "--seconds", "14"]) == NOT_WHOLE
    first = json.loads(out.read_text())["sections"]
    codes = [main([*command, "--resume", "--seconds", "60"]) for _ in range(2)]
    assert codes[-1] == 0
    found = json.loads(out.read_text())
    assert found["sections"]["proof"] == first["proof"], "what was whole was not run again"
    assert "Kept: proof" in capsys.readouterr().out
    assert found["sections"]["eight-equal@1/cpu"]["goals"]
    assert REHEARSAL in found["kind"]


def test_an_unknown_section_is_refused_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--rehearse", "--only", "fact"])
    assert "no section fact; there are facts, limits" in capsys.readouterr().err


def test_goals_are_met_missed_or_absent_where_something_was_not_measured() -> None:
    ways: dict[str, Any] = {
        BASE: {"median_s": 0.010, "ratio_to_base": 1.0, "agrees": True},
        "plan": {"median_s": 0.0088, "ratio_to_base": 0.8, "agrees": True},
        "plan + graphs": {"median_s": 0.006, "ratio_to_base": 0.6, "fell_back": True, "agrees": True},
        "one process with streams": {"median_s": 0.009, "ratio_to_base": 0.9, "agrees": True},
    }
    busy = {word: {"percent": {"SM activity": value}} for word, value in ((BASE, 50.0), ("plan", 60.0))}
    found = goals(ways, busy, 0.2, 0.008)
    assert found["jct_lower_than_mps_default"] == pytest.approx(0.2), "by the ratios of rounds, not by the medians"
    assert found["jct_goal_met"] is True
    assert found["graphs_goal_met"] is None  # a graph that fell back to eager is not a figure of a graph
    assert found["streams_lower_than_mps_default"] == pytest.approx(0.1)
    assert found["sm_activity_goal_met"] is False
    assert found["gap_goal_met"] is False
    assert found["measured_gap_to_bound"] == pytest.approx(0.1)
    assert found["measured_gap_goal_met"] is True
    wrong = {**ways, "plan": {"median_s": 0.001, "ratio_to_base": 0.1, "agrees": False}}
    assert goals(wrong, {}, None)["jct_lower_than_mps_default"] is None
    assert goals(wrong, {}, None, 0.008)["measured_gap_goal_met"] is None


def test_ratios_are_of_the_same_round() -> None:
    class Way:
        def __init__(self, factor: float) -> None:
            self.factor, self.calls = factor, 0

        def run(self, x: Any) -> Any:
            self.calls += 1
            jct_s = self.factor * (10.0 if self.calls % 2 else 1.0)  # a machine that slows down slows all of them
            return SimpleNamespace(output=x, report=SimpleNamespace(jct_s=jct_s))

    found = paired({BASE: Way(1.0), "plan": Way(0.5)}, torch.ones(2), 7, 60.0, set())
    assert found["plan"]["ratio_to_base"] == 0.5
    assert found["plan"]["ratio_quartiles"] == [0.5, 0.5]
    assert found["plan"]["agrees"] is True


def test_the_sample_in_which_the_loop_begins_is_left_out() -> None:
    samples: list[Any] = []
    runs = [0]

    def run(x: Any) -> None:
        runs[0] += 1
        if runs[0] % 10 == 0:  # the first one covers the idle time before the loop
            samples.append(SimpleNamespace(values={"gpu0sm": 1.0 if len(samples) < 2 else 90.0}))

    samples.append(SimpleNamespace(values={"gpu0sm": 1.0}))
    sampler = SimpleNamespace(
        samples=lambda: tuple(samples), channels=[SimpleNamespace(unit="%", label="GPU 0 SM activity", key="gpu0sm")]
    )
    lab = SimpleNamespace(readings=SimpleNamespace(watch=lambda interval_s: sampler, unwatch=lambda: None))
    found = gpu_sections._utilization(lab, SimpleNamespace(run=run), None, True)
    assert found["percent"] == {"GPU 0 SM activity": 90.0}
    assert found["samples"] == len(samples) - 2


def test_green_contexts_are_held_against_clients_of_mps_too(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[str, int, int]] = []

    def start(plan: Any, ensemble: Any, device: Any, fork_server: Any) -> Any:
        started.append((device.identity.kind, len(plan.lanes), plan.units))
        report = SimpleNamespace(notes=(), jct_s=1.0)
        return SimpleNamespace(run=lambda x: SimpleNamespace(output=x, report=report), close=lambda: None)

    def device(kind: str, units: int) -> Any:
        return SimpleNamespace(identity=SimpleNamespace(kind=kind), units=units, close=lambda: None)

    monkeypatch.setattr("esen_lab.run.Executor.start", start)
    monkeypatch.setattr(gpu_sections, "_opened", lambda backend, rehearse: device(f"cuda {backend}", 100))
    monkeypatch.setattr(gpu_sections, "_utilization", lambda *_: {"percent": {}})
    ensemble = SimpleNamespace(names=("a", "b"), submodels=())
    plan = Plan(lanes=(Lane(units=8, members=("a",)), Lane(units=4, members=("b",))), units=16)
    lab = SimpleNamespace(device=device("cuda green", 16), ensemble=ensemble)
    steps = Steps(None, 60)
    gpu_sections._against_the_base(lab, torch.ones(2), plan, steps)
    assert started == [("cuda mps", 2, 100), ("cuda green", 2, 16), ("cuda green", 2, 16), ("cuda green", 1, 16)]
    assert failures_in(steps.found) == {}
    assert set(steps.found["paired"]) == set(steps.found["utilization"])


def test_the_hosts_own_time_is_that_of_the_replay_alone() -> None:
    waited: list[str] = []
    one = SimpleNamespace(
        _graph=SimpleNamespace(replay=lambda: waited.append("replay")),
        _main=SimpleNamespace(synchronize=lambda: waited.append("idle")),
    )
    made = PlanGraph.__new__(PlanGraph)
    made._graph = one  # type: ignore[assignment]
    executor = SimpleNamespace(_graph=SimpleNamespace(graphs=SimpleNamespace(find=lambda ensemble, x: made)))
    cuda = SimpleNamespace(stream=lambda stream: contextlib.nullcontext())
    times = gpu_sections._replays_host_s(executor, None, None, cuda=cuda)
    assert len(times) == waited.count("replay") == 200
    assert waited[:4] == ["idle", "replay", "idle", "replay"], "nothing else is under way when it is queued"
    assert gpu_sections._replays_host_s(SimpleNamespace(_graph=None), None, None, cuda=cuda) == []


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_every_ensemble_runs_in_its_small_size(ensemble: str) -> None:
    models, x = models_of(ensemble, 2, True)
    assert len({tuple(model(x).shape) for model in models.values()}) == 1
