from __future__ import annotations

import json
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from esen_lab.devices.base import DeviceIdentity
from esen_lab.ensemble import Ensemble
from esen_lab.errors import UsageError, WorkerDied
from esen_lab.export import Running, run_command
from esen_lab.export.command import timing_of


class FakeRunner:
    """Answers at once, with the JCTs it is given."""

    def __init__(self, ensemble: Ensemble) -> None:
        self.ensemble, self.runs = ensemble, 0
        self.asides, self.kept_aside = 0, list[int]()

    def run(self, x: Any, *, at_turn: Any = None) -> types.SimpleNamespace:
        self.runs += 1
        lane = types.SimpleNamespace(units=1, members=("a", "b"), in_force="CPU 0")
        report = types.SimpleNamespace(jct_s=self.runs / 1000, lanes=(lane,), notes=("a note",))
        output = self.ensemble.combine({s.name: s.build()(x) for s in self.ensemble.submodels})
        return types.SimpleNamespace(output=output, report=report)

    @contextmanager
    def measuring(self) -> Iterator[None]:
        self.asides += 1
        yield
        self.kept_aside.append(self.runs)

    def look_at_session(self) -> None:
        """Nothing is sent to doubles."""

    @property
    def unlike(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        self.runs = -1


@pytest.fixture
def load(simple: Ensemble, planned: Any) -> Any:
    def load(device: str | None = None) -> Running:
        runner = FakeRunner(simple)
        identity = DeviceIdentity(kind="cpu", name="a chip", units=8, unit="core")
        return Running(
            plan=planned(simple, jct_s=0.002),
            ensemble=simple,
            device=types.SimpleNamespace(identity=identity, close=lambda: None),
            runner=runner,
            fork_server=runner,
        )

    return load


def test_statistics_are_the_usual_ones() -> None:
    found = timing_of([0.005, 0.001, 0.002, 0.004, 0.003])
    assert (found.median_s, found.spread_s, found.best_s, found.repeats) == (0.003, 0.002, 0.001, 5)
    assert found.quantile_90_s == pytest.approx(np.quantile([1, 2, 3, 4, 5], 0.9) / 1000)
    assert found.quantile_99_s == pytest.approx(np.quantile([1, 2, 3, 4, 5], 0.99) / 1000)
    assert timing_of([0.5]).quantile_99_s == 0.5


def test_warm_ups_do_not_count(load: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(load, ["--repeat", "3", "--warmup", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["timing"]["repeats"] == 3
    assert report["timing"]["median_s"] == 0.004
    assert report["notes"] == ["a note", "The plan was made for another device: units 2, here 8."]


def test_the_answer_is_written(load: Any, simple: Ensemble, tmp_path: Path, answer: Any) -> None:
    x = torch.randn(2, 8)
    np.save(tmp_path / "x.npy", x.numpy())
    assert run_command(load, ["--input", str(tmp_path / "x.npy"), "--output", str(tmp_path / "y.npy")]) == 0
    assert (np.load(tmp_path / "y.npy") == answer(simple, x).numpy()).all()


def test_the_text_names_what_matters(load: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(load, ["--repeat", "2"]) == 0
    out = capsys.readouterr().out
    for part in (
        "median 4.50 ms",
        "p90",
        "p99",
        "a chip, 8 cores",
        "lane 1  1: a + b (CPU 0)",
        "planned 2.00 ms",
        "a note",
    ):
        assert part in out


def test_hostile_remarks_are_shown_and_json_stays_json(load: Any, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "".join(map(chr, range(0xA0))) + "\u202e"

    def noted(device: str | None = None) -> Running:
        made = load()
        made.plan = made.plan.with_origin(notes=(evil,))
        return made

    assert run_command(noted, ["--json"]) == 0
    assert evil in json.loads(capsys.readouterr().out)["notes"]
    assert run_command(noted, []) == 0
    assert all(c == "\n" or c.isprintable() for c in capsys.readouterr().out)


def test_trust_is_handed_on_only_when_it_is_given(load: Any) -> None:
    given: list[dict[str, Any]] = []

    def asked(**options: Any) -> Running:
        given.append(options)
        return load()

    run_command(asked, [])
    run_command(asked, ["--trust"])
    assert given == [{"device": None}, {"device": None, "trust": True}]


def test_an_error_is_one_line_and_a_status(load: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run_command(load, ["--input", str(tmp_path / "gone.npy")]) == 1
    assert run_command(load, ["--output", str(tmp_path / "gone" / "y.npy")]) == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 2
    assert "Traceback" not in err


def test_a_workers_traceback_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    def load(device: str | None = None) -> Running:
        raise WorkerDied("lane 1 ended", worker_traceback="Traceback: here")

    assert run_command(load, []) == 1
    assert "Traceback: here" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--repeat", "0"], ["--repeat", "x"], ["--warmup", "-1"], ["--nope"]])
def test_bad_options_are_refused(load: Any, options: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run_command(load, options)
    assert caught.value.code == 2


def test_the_device_option_is_handed_on(capsys: pytest.CaptureFixture[str]) -> None:
    def load(device: str | None = None) -> Running:
        raise UsageError("A device is one of: cpu", given=device)

    assert run_command(load, ["--device", "toaster"]) == 1
    assert "toaster" in capsys.readouterr().err


def test_a_prediction_that_is_extrapolated_is_marked_in_the_printout(
    load: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def marked(device: str | None = None) -> Running:
        running: Running = load(device)
        running.plan = replace(running.plan, unmeasured={"a": "extrapolated"})
        return running

    assert run_command(marked, []) == 0
    assert "planned 2.00 ms (extrapolated: a)" in capsys.readouterr().out
    assert run_command(marked, ["--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unmeasured"] == {"a": "extrapolated"}


def test_of_many_runs_far_from_their_prediction_only_the_last_words_are_printed(
    load: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def far(device: str | None = None) -> Running:
        running: Running = load(device)
        plain = running.runner.run

        def run(x: Any, *, at_turn: Any = None) -> Any:
            ran = plain(x)
            ran.report.far = (f"Far from its prediction: {ran.report.jct_s}",)
            ran.report.notes = (*ran.report.notes, *ran.report.far)
            return ran

        running.runner.run = run  # type: ignore[method-assign]
        return running

    assert run_command(far, ["--repeat", "5"]) == 0
    assert capsys.readouterr().out.count("Far from its prediction") == 1


def test_an_answer_that_cannot_be_written_is_said_before_the_runs(
    tmp_path: Path, load: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "thesis.npy").write_text("mine")
    monkeypatch.delattr(FakeRunner, "run")
    assert run_command(load, ["--output", str(tmp_path / "thesis.npy"), "--repeat", "100"], program="plan.py") == 1
    assert capsys.readouterr().err.startswith("plan.py: An array is written only in the place of another one")
