"""The quickstart, executed as `make run` does it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

from esen_lab.devices import CpuDevice
from esen_lab.run import PEERS, STRATEGIES, peers_here

ROOT = Path(__file__).parents[2]
RUNNER = ROOT / "notebooks" / "run_quickstart.py"

pytestmark = pytest.mark.slow  # trains five networks, measures them and compares strategies: about a minute


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    out = tmp_path_factory.mktemp("quick start")
    ipython = tmp_path_factory.mktemp("ipython")
    startup = ipython / "profile_default" / "startup" / "quiet.py"
    startup.parent.mkdir(parents=True)
    # Outputs say how busy the machine was while they were made, at length where it was: here it counts as quiet.
    startup.write_text("import esen_lab.devices.cpu.contention\nesen_lab.devices.cpu.contention.LOADED = 1.0\n")
    words = [sys.executable, str(RUNNER), "--out", str(out)]
    environment = {**os.environ, "IPYTHONDIR": str(ipython)}
    done = subprocess.run(words, capture_output=True, text=True, timeout=840, check=False, cwd=ROOT, env=environment)
    return done, out


@pytest.fixture(scope="module")
def found(ran: tuple[subprocess.CompletedProcess[str], Path]) -> dict[str, Any]:
    done, out = ran
    assert done.returncode == 0, done.stdout + done.stderr
    figures: dict[str, Any] = json.loads((out / "quickstart.json").read_text(encoding="utf-8"))
    return figures


def test_the_ensemble_is_more_accurate_than_its_best_member(found: dict[str, Any]) -> None:
    right = found["accuracy"]
    assert len(right["members"]) == 5
    assert right["ensemble"] > max(right["members"].values()) + 0.005
    assert min(right["members"].values()) > 0.8


def test_every_cell_is_shown_with_its_title(ran: tuple[subprocess.CompletedProcess[str], Path], found: object) -> None:
    lines = [line for line in ran[0].stdout.splitlines() if line.startswith("[")]
    cells = nbformat.read(ROOT / "notebooks" / "quickstart.ipynb", as_version=4).cells
    assert len(lines) == sum(cell.cell_type == "code" for cell in cells)
    assert any("7. Compare" in line for line in lines)


def test_the_table_has_every_strategy_and_the_plan_last(found: dict[str, Any]) -> None:
    strategies = [row["strategy"] for row in found["table"]["rows"]]
    assert strategies == [*STRATEGIES, *peers_here(CpuDevice()), "plan"]


def test_only_vmap_and_peers_that_take_long_to_prepare_cannot_be_run_and_say_why(found: dict[str, Any]) -> None:
    failed = {row["strategy"]: row["failed"] for row in found["table"]["rows"] if row["failed"]}
    assert "architecture" in failed.pop("vmap")
    assert failed.keys() <= PEERS.keys()
    assert all("not prepared in time" in why for why in failed.values())


def test_every_strategy_gives_the_same_answers(found: dict[str, Any]) -> None:
    assert [row["strategy"] for row in found["table"]["rows"] if not (row["agrees"] or row["failed"])] == []


def test_the_plan_holds_every_network_once(found: dict[str, Any]) -> None:
    members = sorted(name for lane in found["plan"]["lanes"] for name in lane["members"])
    assert members == sorted(found["accuracy"]["members"])
    assert found["plan"]["bound_s"] <= found["plan"]["jct_s"] * (1 + 1e-9)


def test_the_printed_table_says_what_the_figures_say(
    ran: tuple[subprocess.CompletedProcess[str], Path], found: dict[str, Any]
) -> None:
    assert found["table"]["verdict"] in ran[0].stdout
    for row in found["table"]["rows"]:
        assert any(line.startswith(row["strategy"]) for line in ran[0].stdout.splitlines())


def test_the_exported_script_ran_and_gave_the_same_bits(found: dict[str, Any]) -> None:
    assert found["bit_equal"] is True


def test_what_it_names_is_there(ran: tuple[subprocess.CompletedProcess[str], Path], found: dict[str, Any]) -> None:
    for name in ("quickstart_executed.ipynb", "plan.json", found["script"], "quickstart.json"):
        assert (ran[1] / name).is_file()
        assert str(ran[1] / name) in ran[0].stdout


def test_a_failing_cell_shows_its_traceback_and_fails_the_command(tmp_path: Path) -> None:
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell("# Broken"), nbformat.v4.new_code_cell("1 / 0")]
    )
    nbformat.write(notebook, tmp_path / "broken.ipynb")
    words = [sys.executable, str(RUNNER), "--notebook", str(tmp_path / "broken.ipynb"), "--out", str(tmp_path / "out")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "FAILED" in done.stdout
    assert "ZeroDivisionError" in done.stderr
    assert (tmp_path / "out" / "quickstart_executed.ipynb").is_file()


def test_a_run_makes_the_notebook_grow_by_less_than_50_kb(
    ran: tuple[subprocess.CompletedProcess[str], Path], found: object
) -> None:
    executed = nbformat.read(ran[1] / "quickstart_executed.ipynb", as_version=4)
    for cell in executed.cells:
        cell.metadata.pop("execution", None)  # the times of cells: nbclient's, not ours
    plain = nbformat.read(ROOT / "notebooks" / "quickstart.ipynb", as_version=4)
    grown = len(nbformat.writes(executed)) - len(nbformat.writes(plain))
    assert grown < 50_000
