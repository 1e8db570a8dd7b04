"""Members of every kind through a whole lab: lanes, changes, comparison, export; each answers as the notebook does."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import other_kinds as kinds
import pytest
import torch
from other_kinds import LABELS, MEMBERS, TABLE, X

from esen_lab import Lab, Plan
from esen_lab.common.answers import OTHER_ORDER, difference
from esen_lab.errors import NotTrusted, UsageError
from esen_lab.export.bundle import describe_bundle, load_bundle
from esen_lab.planner.plan import Lane

ROOT = Path(__file__).parents[2]
NEEDED = {"xgboost": "xgboost", "lightgbm": "lightgbm", "onnx": "onnxruntime", "ir": "openvino", "forest": "sklearn"}
PER_KIND = ["onnx file", "ir file", "script", "program", "forest", "xgboost", "lightgbm", "function of arrays"]
PER_KIND = [name for name in PER_KIND if importlib.util.find_spec(NEEDED.get(name.split()[0], "torch")) is not None]


def in_one_lane(*names: str) -> Plan:
    return Plan(lanes=(Lane(units=1, members=names),), units=1)


def file_name(name: str) -> str:
    return name.replace(" ", "_")


def with_all(lab: Lab, folder: Path) -> dict[str, Any]:
    """A member of every kind, and what the notebook computes with each."""
    lab.combine("mean")
    own = {}
    for name in PER_KIND:
        make, call, *_ = MEMBERS[name]
        made = make(folder)
        lab.register(file_name(name), made, X)
        own[name] = torch.as_tensor(call(made))
    return own


def test_every_kind_side_by_side_in_lanes_answers_as_the_notebook_does(lab: Lab, tmp_path: Path) -> None:
    own = with_all(lab, tmp_path)
    names = [file_name(name) for name in PER_KIND]
    lab.plan = Plan(
        lanes=(Lane(units=1, members=tuple(names[::2])), Lane(units=1, members=tuple(names[1::2]))), units=2
    )
    wanted = torch.stack([answer.double() for answer in own.values()]).mean(0)
    assert difference(lab.run(X).double(), wanted, OTHER_ORDER).agrees
    assert lab.report is not None
    assert not [note for note in lab.report.notes if "differ" in note]


def test_a_plan_of_all_kinds_is_exported_and_runs_by_itself(lab: Lab, tmp_path: Path) -> None:
    own = with_all(lab, tmp_path)
    lab.plan = in_one_lane(*map(file_name, PER_KIND))
    lab.export(tmp_path / "plan.py")
    for gone in [path for path in tmp_path.iterdir() if path.stem == "small"]:
        gone.unlink()  # the files it was made from: an export stands alone
    done = subprocess.run(
        [sys.executable, str(tmp_path / "plan.py"), "--output", "y.npy", "--json"],
        env={"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests/doubles")]), "HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["combine"] == "mean"
    wanted = torch.stack([answer.double() for answer in own.values()]).mean(0)
    found = torch.from_numpy(np.load(tmp_path / "y.npy")).double()
    assert difference(found, wanted, OTHER_ORDER).agrees


def test_an_export_says_what_it_would_run_and_is_not_run_unasked(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_all(lab, tmp_path)
    lab.plan = in_one_lane(*map(file_name, PER_KIND))
    lab.export(tmp_path / "plan.py")
    folder = next(path for path in tmp_path.iterdir() if path.is_dir())
    told = "\n".join(describe_bundle(folder))
    assert "sub-model 'forest': unpickles 'submodel_" in told
    assert "of the form 'onnx', with its library" in told
    monkeypatch.setenv("ESEN_LAB_HOME", str(tmp_path / "somebody else"))
    with pytest.raises(NotTrusted, match="unpickles"):
        load_bundle(folder)


def test_an_estimator_that_is_fitted_again_is_what_the_next_run_uses_and_the_plan_stays(lab: Lab) -> None:
    forest = kinds.forest()
    lab.register("forest", forest, X)
    plan = lab.plan = in_one_lane("forest")
    lab.run(X)
    forest.fit(TABLE, (LABELS + 1) % 3)
    assert difference(lab.run(X)[0], torch.from_numpy(forest.predict_proba(X.numpy()))).agrees
    assert lab.report is not None
    assert any("what it was fitted to" in note for note in lab.report.notes)
    assert lab.plan is not None
    assert lab.plan.lanes == plan.lanes


def test_a_file_that_is_replaced_is_what_the_next_run_uses(lab: Lab, tmp_path: Path) -> None:
    path = kinds.onnx_file(tmp_path)
    lab.register("a", path, X, kwargs={"outputs": ["scores"]})
    lab.plan = in_one_lane("a")
    before = lab.run(X)
    path.write_bytes(kinds.onnx_graph(kinds.WEIGHT * 2).SerializeToString())
    assert torch.allclose(lab.run(X), before * 2)
    path.unlink()
    assert torch.allclose(lab.run(X), before * 2)


def test_a_function_follows_what_it_reads(lab: Lab) -> None:
    scale = kinds.Scale(1.0)
    lab.register("a", scale, X)
    lab.plan = in_one_lane("a")
    assert torch.equal(lab.run(X)[0], X)
    scale.by = torch.tensor(3.0)
    assert torch.equal(lab.run(X)[0], X * 3)


def test_a_callable_that_keeps_state_goes_on_in_its_lane(lab: Lab) -> None:
    lab.register("a", kinds.Counting(), X)
    lab.plan = in_one_lane("a")
    assert torch.equal(lab.run(X)[0], X + 1)
    assert torch.equal(lab.run(X)[0], X + 2)


def test_vmap_is_not_applicable_and_says_which_members_are_no_networks(lab: Lab) -> None:
    lab.register("a", kinds.forest(), X)
    lab.register("b", kinds.network(), X)
    lab.plan = in_one_lane("a", "b")
    table = lab.compare(X, rounds=1, strategies=["vmap"])
    row = next(row for row in table.rows if row.strategy == "vmap")
    assert "vmap needs networks of torch (a (estimator))" in str(row)


def test_what_runs_by_itself_is_measured_as_it_is_and_others_are_not_tried_on_it(lab: Lab, tmp_path: Path) -> None:
    lab.register("onnx", kinds.onnx_file(tmp_path), X)
    lab.register("forest", kinds.forest(), X)
    lab.plan = in_one_lane("onnx", "forest")
    table = lab.lanes.choose_backends(backends=["openvino", "onnxruntime"])
    assert table.of("forest")["openvino"].why.endswith("the library that fitted it computes it as it is (estimator)")
    assert table.of("onnx")["onnxruntime"].median_s is not None
    assert table.of("onnx")["openvino"].median_s is not None
    assert difference(lab.run(X)[0].double(), torch.from_numpy(X.numpy() @ kinds.WEIGHT).double(), OTHER_ORDER).agrees


def test_an_input_that_a_member_does_not_take_is_said_before_it_is_a_member(lab: Lab, tmp_path: Path) -> None:
    lab.register("net", torch.nn.Linear(4, 3), torch.ones(2, 4))
    with pytest.raises(UsageError, match=r"'forest'.*tables of 6 columns"):
        lab.register("forest", kinds.forest())
    assert lab.ensemble.names == ("net",)
