from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cuda_doubles import GPU, MACHINE, scripted_programs

from esen_lab import Lab, __version__
from esen_lab.cli import REQUIRED, main
from esen_lab.devices import CpuDevice
from esen_lab.devices.catalogue import Catalogue
from esen_lab.devices.offer import Verdict

Capture = pytest.CaptureFixture[str]
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def own_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("ESEN_LAB_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "profiles.sqlite3"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script of an ensemble of two, exported."""
    import torch

    from esen_lab.planner.plan import sequential_plan

    folder = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch, Lab(device="cpu") as lab:
        patch.setenv("ESEN_LAB_HOME", str(folder / "home"))
        for name in ("a", "b"):
            lab.register(name, torch.nn.Linear(4, 2), example=torch.randn(3, 4))
        lab.plan = sequential_plan(["a", "b"], lab.device.units)
        return lab.export(folder / "plan.py").script


def _exits(argv: list[str]) -> int:
    with pytest.raises(SystemExit) as left:
        main(argv)
    return int(left.value.code or 0)


def test_the_version_is_the_packages(capsys: Capture) -> None:
    assert _exits(["--version"]) == 0
    assert capsys.readouterr().out == f"esen_lab {__version__}\n"


@pytest.mark.parametrize("argv", [["-h"], ["doctor", "-h"]])
def test_help_is_a_success(argv: list[str], capsys: Capture) -> None:
    assert _exits(argv) == 0
    assert "usage: esen-lab" in capsys.readouterr().out


def test_the_help_of_run_has_the_options_of_the_script(capsys: Capture) -> None:
    assert _exits(["run", "-h"]) == 0
    assert "--repeat N" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [[], ["dokter"], ["doctor", "--devise", "x"], ["run", "--repeat", "3", "plan"]])
def test_a_wrong_command_line_is_status_2(argv: list[str], capsys: Capture) -> None:
    assert _exits(argv) == 2
    assert "error:" in capsys.readouterr().err


def test_run_without_a_plan_is_status_2_and_one_line(capsys: Capture) -> None:
    assert main(["run"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(("name", "said"), [("nowhere", "which is not there"), (".", "a plan alone holds no networks")])
def test_what_is_no_exported_plan_is_status_1_and_one_line(
    name: str, said: str, capsys: Capture, tmp_path: Path
) -> None:
    assert main(["run", str(tmp_path / name)]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert said in told.err
    assert told.err.count("\n") == 1


def test_the_doctor_names_device_limits_store_and_what_is_in_force(capsys: Capture, own_store: Path) -> None:
    assert main(["doctor"]) == 0
    told = {line[:20].strip(): line[20:] for line in capsys.readouterr().out.splitlines()}
    assert told["esen_lab"].startswith(__version__)
    assert told["device"].startswith("cpu: ")
    assert told["units"].endswith(" x core")
    assert told["offer cpu"].startswith("can be had")
    assert "cuda:0 mps" in " ".join(told)
    assert told["profile store"] == f"{own_store} (will be made)"
    assert "asked for 1 core found" in told["share in force"]
    assert "core" in told["inside"]
    assert CpuDevice().units < 2 or "memory bandwidth" in told, "measured, or why not"
    assert "Ready." in told
    assert not own_store.exists()


def test_the_doctor_names_gpus_and_the_state_of_mps(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, own_store: Path, tmp_path: Path
) -> None:
    programs = scripted_programs(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(programs.control.parent), prepend=os.pathsep)
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path / "nobody"))
    busy = replace(MACHINE, gpus=(replace(GPU, processes=2, used_bytes=20 * 10**9),))
    machine = Catalogue(lambda: busy, test=lambda name: Verdict(passed=True, text="66 of 132 SMs"))
    monkeypatch.setattr("esen_lab.devices.this_machine", lambda: machine)
    monkeypatch.setattr("esen_lab.devices.offers", machine.offers)
    assert main(["doctor", "--device", "cpu", "--no-worker"]) == 0
    told = {line[:20].strip(): line[20:] for line in capsys.readouterr().out.splitlines()}
    assert told["NVIDIA driver"] == "580.159, CUDA 13.0"
    assert told["GPU 0"].startswith("double of an H200, 132 SMs, compute capability 9.0")
    assert told["in use"] == "20.0 GB of its memory; 2 processes of others compute on it"
    assert told["SM activity (GPM)"] == "can be read"
    assert told["MPS programs"].startswith(str(programs.control))
    assert told["MPS daemon"] == f"none in {tmp_path / 'nobody'}"
    assert told["offer cuda:0 mps"].startswith("can be had")


def test_the_doctor_says_that_a_store_is_damaged_and_leaves_it(capsys: Capture, own_store: Path) -> None:
    own_store.parent.mkdir()
    own_store.write_bytes(b"no database" * 100)
    assert main(["doctor", "--no-worker"]) == 0
    assert "damaged or unreadable" in capsys.readouterr().out
    assert own_store.read_bytes() == b"no database" * 100


def test_the_doctor_looks_for_all_that_running_a_plan_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(REQUIRED) == {re.split(r"[<>=~]", wanted)[0] for wanted in project["dependencies"]}


def test_a_package_without_which_nothing_can_be_asked_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "msgspec.py").write_text("raise ModuleNotFoundError('no msgspec', name='msgspec')")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-m", "esen_lab", "doctor"]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert told.returncode == 1
    assert told.stderr == "esen_lab needs the package msgspec: pip install msgspec\n"


def test_the_doctor_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr("esen_lab.cli.REQUIRED", ("torch", "a-package-nobody-has"))
    assert main(["doctor"]) == 1
    told = capsys.readouterr().out
    assert "a-package-nobody-has: pip install a-package-nobody-has" in told
    assert told.endswith("Something needed is missing.\n")


def test_an_unknown_device_is_named(capsys: Capture) -> None:
    assert main(["doctor", "--device", "abacus"]) == 2
    known = "cpu, cpu:all, cpu:fast, cpu:slow, cuda:0 mps, cuda:0 green, fake:FILE"
    assert capsys.readouterr().err == f"esen-lab: A device is one of: {known}. Given: abacus.\n"


@pytest.mark.parametrize("which", ["folder", "plan.json", "script"])
def test_an_exported_plan_runs_from_each_of_its_names(
    which: str, exported: Path, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESEN_LAB_HOME", str(exported.with_name("home")))  # of whoever exported it
    folder = exported.with_name("plan_files")
    given = {"folder": folder, "plan.json": folder / "plan.json", "script": exported}[which]
    answer = tmp_path / "y.npy"
    assert main(["run", str(given), "--repeat", "2", "--output", str(answer)]) == 0
    assert "2 runs" in capsys.readouterr().out
    assert np.load(answer).shape == (3, 2)


def test_a_script_that_was_renamed_is_run_with_the_folder_that_it_names(
    exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("ESEN_LAB_HOME", str(exported.with_name("home")))
    other = exported.with_name("other.py")
    other.write_bytes(exported.read_bytes())
    assert main(["run", str(other)]) == 0
    alone = exported.with_name("alone")
    alone.mkdir()
    (alone / "other.py").write_bytes(exported.read_bytes())
    capsys.readouterr()
    assert main(["run", str(alone / "other.py")]) == 1
    assert "beside which there is no 'plan_files'. Copy that folder, too." in capsys.readouterr().err


@pytest.mark.parametrize("words", [("--trust", "PLAN"), ("PLAN", "--trust")])
def test_a_plan_that_somebody_else_exported_is_described_and_runs_when_trusted(
    words: tuple[str, ...], exported: Path, capsys: Capture
) -> None:
    plan = str(exported.with_name("plan_files"))
    assert main(["run", plan]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert "sub-model 'a': makes what 'submodel_00.json' names: 'torch.nn.modules.linear:Linear'" in told.err
    assert "--trust" in told.err.splitlines()[-1]
    assert main(["run", *(plan if word == "PLAN" else word for word in words)]) == 0


def test_it_is_a_program() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "esen_lab", "run", "nowhere"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("python -m esen_lab: A plan is run from the folder that was exported with it.")
    assert "'nowhere', which is not there" in ran.stderr
