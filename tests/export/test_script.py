"""The exported script in a process of its own, with real lanes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from esen_lab.ensemble import Ensemble, make_combine, make_submodel
from esen_lab.export import Exported, export_plan

ROOT = Path(__file__).parents[2]
HEAVY = ["IPython", "ipykernel", "bokeh", "ipywidgets", "optuna", "anywidget"]  # torch.export loads pynvml by itself


@pytest.fixture
def exported(tmp_path: Path, ensemble: Ensemble, planned: Any) -> Exported:
    return export_plan(planned(ensemble, ("live", "cell"), ("path", "program")), ensemble, tmp_path / "plan.py")


def python(*args: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, args)],
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ.get("PATH", ""), "HOME": str(cwd)},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_the_script_gives_the_notebooks_very_bits(exported: Exported, ensemble: Ensemble, answer: Any) -> None:
    folder = exported.script.parent
    x = torch.randn(4, 8)
    np.save(folder / "x.npy", x.numpy())
    done = python("plan.py", "--input", "x.npy", "--output", "y.npy", "--repeat", "100", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert (np.load(folder / "y.npy") == answer(ensemble, x).numpy()).all()
    assert "JCT     median" in done.stdout
    assert "100 runs" in done.stdout
    assert done.stdout.count("lane ") == 2


def test_it_runs_from_anywhere_on_its_stored_example(exported: Exported, ensemble: Ensemble, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = python(exported.script, "--json", cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["input"], report["output"]) == ("float32[4, 8]", "float32[4, 3]")
    assert report["timing"]["median_s"] > 0
    assert [lane["members"] for lane in report["lanes"]] == [["live", "cell"], ["path", "program"]]
    assert not list(elsewhere.iterdir())


def test_it_can_be_imported_and_needs_no_notebook(exported: Exported, ensemble: Ensemble, answer: Any) -> None:
    folder = exported.script.parent
    program = (
        "import sys, numpy, torch\n"
        "from plan import load\n"
        "if __name__ == '__main__':\n"
        "    with load() as ensemble:\n"
        "        x = ensemble.ensemble.example\n"
        "        numpy.save('y.npy', ensemble(x).numpy())\n"
        "        assert ensemble.report.jct_s > 0\n"
        f"    print([name for name in {HEAVY} if name in sys.modules])\n"
    )
    done = python("-c", program, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
    assert (np.load(folder / "y.npy") == answer(ensemble).numpy()).all()


def test_it_can_be_moved_with_its_folder(exported: Exported, tmp_path: Path) -> None:
    target = tmp_path / "moved"
    target.mkdir()
    for path in (exported.script, exported.folder):
        path.rename(target / path.name)
    assert python(target / "plan.py", cwd=tmp_path).returncode == 0


def test_without_its_folder_it_says_what_is_missing(exported: Exported, tmp_path: Path) -> None:
    exported.folder.rename(tmp_path / "hidden")
    done = python("plan.py", cwd=tmp_path)
    assert done.returncode == 1
    assert "beside its folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unfit_input_is_one_clear_line(exported: Exported) -> None:
    folder = exported.script.parent
    np.save(folder / "x.npy", np.ones((4, 9), dtype=np.float32))
    done = python("plan.py", "--input", "x.npy", cwd=folder)
    assert done.returncode == 1
    assert "shapes" in done.stderr.splitlines()[0]


def test_trees_go_in_and_out_as_npz(tmp_path: Path, planned: Any) -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(2, 3)

        def forward(self, left: torch.Tensor, file: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": self.net(left) + file, "left": left}

    example = {"left": torch.randn(2, 2), "file": torch.randn(2, 3)}
    ensemble = Ensemble(
        submodels=tuple(make_submodel(name, Pair(), example) for name in "ab"), combine=make_combine("mean")
    )
    export_plan(planned(ensemble), ensemble, tmp_path / "plan.py")
    np.savez(tmp_path / "x.npz", left=np.ones((5, 2), np.float32))
    assert python("plan.py", "--input", "x.npz", cwd=tmp_path).returncode == 1
    assert (tmp_path / "plan_files" / "example.npz").exists()
    done = python("plan.py", "--input", "plan_files/example.npz", "--output", "y.npz", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with torch.inference_mode():
        outputs = [s.build()(**example) for s in ensemble.submodels]
    found = np.load(tmp_path / "y.npz")
    assert sorted(found.files) == ["left", "logits"]
    assert (found["logits"] == ((outputs[0]["logits"] + outputs[1]["logits"]) / 2).numpy()).all()
