"""What engines have made of sub-models goes along with an export, so that it is not made again elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from backend_nets import lacking
from models import mlp

from esen_lab import Lab
from esen_lab.export import Exported, describe_bundle, open_bundle
from esen_lab.planner.plan import Lane, Plan

pytestmark = [lacking("openvino"), lacking("onnxruntime")]

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
ROOT = Path(__file__).parents[2]
PLAN = Plan(
    lanes=(
        Lane(units=1, members=("a", "c"), backends=("openvino", "eager")),
        Lane(units=1, members=("b",), backends=("onnxruntime",)),
    ),
    units=2,
)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """An export whose plan has run."""
    home = tmp_path_factory.mktemp("graphs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESEN_LAB_HOME", str(home / "first"))
        with Lab(device="cpu", store=home / "profiles.sqlite3") as lab:
            for seed, name in enumerate("abc"):
                lab.register(name, mlp(seed=seed), example=X)
            lab.plan = PLAN
            lab.run(X)
            found = lab.export(home / "plan.py")
    return found


@pytest.fixture
def exported(original: Exported, tmp_path: Path) -> Path:
    """A copy of it, as on another machine; the script."""
    shutil.copytree(original.folder, tmp_path / "plan_files")
    return Path(shutil.copy(original.script, tmp_path / "plan.py"))


def started(script: Path, home: Path) -> tuple[set[Path], float]:
    """Run a script for a user who has kept nothing; what is kept then, and how long it took in seconds."""
    environment = {**os.environ, "ESEN_LAB_HOME": str(home), "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    began = time.monotonic()
    words = [sys.executable, str(script), "--warmup", "0"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300, check=False)
    took_s = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    assert "runs eagerly" not in done.stdout
    return {path for path in (home / "backends-1").rglob("*") if path.is_file()}, took_s


def test_graphs_lie_beside_the_weights_and_are_described_as_code(original: Exported) -> None:
    assert {"graph_00.bin", "graph_01.bin"} <= {path.name for path in original.files}
    lines = describe_bundle(original.folder)
    assert "sub-model 'a': has 'openvino' execute the graph 'graph_00.bin'" in lines
    assert "sub-model 'b': has 'onnxruntime' execute the graph 'graph_01.bin'" in lines


def test_a_graph_that_is_not_the_one_that_was_exported_is_made_anew(exported: Path) -> None:
    folder = exported.with_name("plan_files")
    assert sorted(open_bundle(folder, trust=True).graphs) == ["a", "b"]
    (folder / "graph_00.bin").write_bytes((folder / "graph_00.bin").read_bytes() + b"x")
    (folder / "graph_01.bin").unlink()
    found = open_bundle(folder, trust=True)
    assert found.graphs == {}
    assert found.ensemble.names == ("a", "b", "c"), "the rest is as good as before"


@pytest.mark.slow  # new processes that import torch and start lanes, one of which converts networks
def test_the_first_start_elsewhere_converts_nothing_where_graphs_are_there(exported: Path, tmp_path: Path) -> None:
    with_graphs, with_s = started(exported, tmp_path / "with")
    assert len(with_graphs) == 2, "what probes found of both; the graphs that were brought along are used"
    assert all(path.stat().st_size < 1_000 for path in with_graphs), "and nothing was made of them"
    for graph in exported.with_name("plan_files").glob("graph_*"):
        graph.unlink()
    without, without_s = started(exported, tmp_path / "without")
    assert len(without) == 5, "two graphs, what probes found of both, and what OpenVINO compiled of its own"
    print(f"first start with graphs {with_s:.1f} s, without {without_s:.1f} s")
