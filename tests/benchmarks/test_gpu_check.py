"""The program behind `make gpu-check`, without a GPU: its logic, its exit codes, its rehearsal."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks" / "gpu"
sys.path.insert(0, str(FOLDER))

import gpu_check  # noqa: E402
from gpu_check import REHEARSAL, in_child, kept_from, main, sections  # noqa: E402
from gpu_models import ENSEMBLES, models_of  # noqa: E402
from gpu_sections import goals  # noqa: E402
from gpu_steps import Steps  # noqa: E402
from gpu_tables import tables  # noqa: E402


def test_without_a_gpu_it_measures_nothing_says_what_it_would_have_run_and_has_its_own_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "check.json"
    assert main(["--out", str(out)], gpu=lambda: False) == 3
    told = capsys.readouterr().out
    assert all(name in told for name in sections(False))
    assert not out.exists()


def test_a_rehearsal_runs_the_program_and_says_in_every_part_that_it_is_none_of_a_gpu(tmp_path: Path) -> None:
    out = tmp_path / "check.json"
    assert main(["--rehearse", "--out", str(out), "--only", "facts", "gate", "mixed-cnns@1/cpu"]) == 0
    found = json.loads(out.read_text())
    assert found["kind"].startswith("REHEARSAL")
    assert all(part["rehearsal"].startswith("REHEARSAL") for part in found["sections"].values())
    verdicts = found["sections"]["gate"]["cpu"]
    assert list(verdicts) == ["device", "float32", "tf32", "float16", "bfloat16"]
    assert all(verdict["passed"] for dtype, verdict in verdicts.items() if dtype != "device")
    ensemble = found["sections"]["mixed-cnns@1/cpu"]
    ways = {"sequential", "unlimited", "equal", "threads", "vmap", "plan", "our shares"}
    assert ways <= set(ensemble["compared"]["rows"])
    assert {f"{way} + graphs" for way in ways - {"threads", "vmap"}} <= set(ensemble["compared"]["rows"])
    assert ensemble["compared"]["rows"]["plan + graphs"]["fell_back"], "there are no graphs on a CPU"
    assert set(ensemble["goals"].values()) == {None}
    assert "| plan + graphs |" in tables(found)


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
    found = in_child("facts", True, 0.0)
    assert found["failed"].startswith("no time was left for versions, machine, doctor")
    out = tmp_path / "check.json"
    assert main(["--rehearse", "--out", str(out), "--only", "facts", "--seconds", "0"]) == 1
    assert json.loads(out.read_text())["sections"]["facts"]["failed"] == "no time was left"


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
    found = in_child("any", True, -4.0)  # the child gets five seconds more than it may take
    assert found["first"] == 1
    assert found["failed"].startswith("cut off after")


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


def test_a_later_call_keeps_whole_sections_of_the_same_sources_and_machine_only(tmp_path: Path) -> None:
    out = tmp_path / "check.json"
    known = {"kind": "measured", "commit": "abc", "driver": "580", "gpus": ["H200"]}
    before = {**known, "sections": {"facts": {"a": 1}, "gate": {"failed": "cut off"}}}
    out.write_text(json.dumps(before))
    assert kept_from(out, known) == {"facts": {"a": 1}}
    assert kept_from(out, {**known, "commit": "abd"}) == {}
    assert kept_from(out, {**known, "gpus": ["H100"]}) == {}
    assert kept_from(tmp_path / "none.json", known) == {}
    dirty = {**known, "commit": "abc-dirty"}
    out.write_text(json.dumps({**before, **dirty}))
    assert kept_from(out, dirty) == {}, "nobody knows whether the sources are the same"


def test_a_rehearsal_is_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "check.json"
    command = ["--rehearse", "--out", str(out), "--only", "proof"]
    assert main(command) == 0
    first = json.loads(out.read_text())
    out.write_text(json.dumps({**first, "commit": "clean"}))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(gpu_check, "commit", lambda: "clean")
        assert main([*command, "--resume"]) == 0
    assert "Kept: proof" in capsys.readouterr().out
    assert json.loads(out.read_text())["sections"]["proof"] == first["sections"]["proof"]
    assert REHEARSAL in json.loads(out.read_text())["kind"]


def test_an_unknown_section_is_refused_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--rehearse", "--only", "fact"])
    assert "no section fact; there are facts, limits" in capsys.readouterr().err


def test_goals_are_met_missed_or_absent_where_something_was_not_measured() -> None:
    rows: dict[str, Any] = {
        "unlimited": {"median_s": 0.010, "agrees": True},
        "plan": {"median_s": 0.008, "agrees": True, "ratio_to_bound": 1.1},
        "plan + graphs": {"median_s": 0.006, "fell_back": True},
    }
    busy = {word: {"percent": {"SM activity": value}} for word, value in (("unlimited", 50.0), ("plan", 60.0))}
    found = goals(rows, busy, 0.2)
    assert found["jct_lower_than_unlimited"] == pytest.approx(0.2)
    assert found["jct_goal_met"] is True
    assert found["graphs_goal_met"] is None  # a graph that fell back to eager is not a figure of a graph
    assert found["sm_activity_goal_met"] is False
    assert found["gap_goal_met"] is False
    assert found["measured_gap_goal_met"] is True
    wrong = {**rows, "plan": {"median_s": 0.001, "agrees": False, "ratio_to_bound": 0.1}}
    assert goals(wrong, {}, None)["jct_lower_than_unlimited"] is None
    assert goals(wrong, {}, None)["measured_gap_goal_met"] is None


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_every_ensemble_runs_in_its_small_size(ensemble: str) -> None:
    models, x = models_of(ensemble, 2, True)
    assert len({tuple(model(x).shape) for model in models.values()}) == 1
