from __future__ import annotations

import ast
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from esen_lab.ensemble import Ensemble, make_submodel
from esen_lab.errors import StoreError, UsageError
from esen_lab.export import export_plan, load_bundle
from esen_lab.export.script import script_text
from esen_lab.planner.plan import Lane, Plan

HOSTILE = [
    '"; import os; os.abort() #',
    "'''\"\"\"",
    "../../etc/passwd",
    "a\nb",
    "{folder}",
    "\\",
    "%s",
    "\u2028x",
    "nul\0",
]


def test_a_script_and_its_folder_are_written(tmp_path: Path, plan: Plan, ensemble: Ensemble) -> None:
    found = export_plan(plan, ensemble, tmp_path / "my_plan.py")
    assert (found.script, found.folder) == (tmp_path / "my_plan.py", tmp_path / "my_plan_files")
    assert sorted(os.listdir(tmp_path)) == ["my_plan.py", "my_plan_files"]
    assert set(found.files) == {found.script, *found.folder.iterdir()}
    assert load_bundle(found.folder)[0] == plan


def test_exporting_again_replaces_the_export(
    tmp_path: Path, simple: Ensemble, ensemble: Ensemble, planned: Any
) -> None:
    export_plan(planned(ensemble), ensemble, tmp_path / "plan.py")
    found = export_plan(planned(simple), simple, tmp_path / "plan.py")
    assert load_bundle(found.folder)[1].names == ("a", "b")
    assert not list(found.folder.glob("*.pt2")), "nothing of the old one is left"
    assert sorted(os.listdir(tmp_path)) == ["plan.py", "plan_files"]


def test_files_of_others_are_never_replaced(tmp_path: Path, simple: Ensemble, planned: Any) -> None:
    (tmp_path / "plan.py").write_text("print('mine')")
    with pytest.raises(UsageError, match=r"plan\.py', which is another file"):
        export_plan(planned(simple), simple, tmp_path / "plan.py")
    (tmp_path / "other_files").mkdir()
    (tmp_path / "other_files" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"other_files', which is another folder"):
        export_plan(planned(simple), simple, tmp_path / "other.py")
    assert sorted(os.listdir(tmp_path)) == ["other_files", "plan.py"]
    assert (tmp_path / "plan.py").read_text() == "print('mine')"


@pytest.mark.parametrize("path", ["plan", "plan.txt", ".py"])
def test_a_script_ends_with_py(path: str, simple: Ensemble, planned: Any) -> None:
    with pytest.raises(UsageError, match=r"ends with \.py"):
        export_plan(planned(simple), simple, path)


def test_a_missing_folder_is_said(tmp_path: Path, simple: Ensemble, planned: Any) -> None:
    with pytest.raises(StoreError, match="goes into a folder that is there"):
        export_plan(planned(simple), simple, tmp_path / "gone" / "plan.py")


def test_a_full_disk_keeps_the_old_export(tmp_path: Path, simple: Ensemble, planned: Any, monkeypatch: Any) -> None:
    plan = planned(simple)
    old = export_plan(plan, simple, tmp_path / "plan.py")
    before = {path: path.read_bytes() for path in old.files}

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    changed = simple.with_submodel(make_submodel("a", nn.Linear(8, 3), simple.example))
    with pytest.raises(StoreError, match="No space left"):
        export_plan(planned(changed), changed, tmp_path / "plan.py")
    assert {path: path.read_bytes() for path in old.files} == before
    assert sorted(os.listdir(tmp_path)) == ["plan.py", "plan_files"]


def test_what_cannot_be_saved_leaves_nothing_behind(tmp_path: Path, simple: Ensemble, planned: Any) -> None:
    plan = planned(simple)
    with pytest.raises(UsageError):
        export_plan(plan, simple.without("a"), tmp_path / "plan.py")
    assert not list(tmp_path.iterdir())


def test_the_script_opens_the_plans_own_device(tmp_path: Path, simple: Ensemble, planned: Any) -> None:
    text = export_plan(planned(simple), simple, tmp_path / "a.py").script.read_text()
    assert "DEVICE = 'cpu'" in text
    text = export_plan(planned(simple, device={"kind": "cuda mps"}), simple, tmp_path / "b.py").script.read_text()
    assert "DEVICE = None" in text


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_got_past_every_check_cannot_escape(tmp_path: Path, name: str) -> None:
    submodel = make_submodel("a", nn.Linear(2, 2), torch.ones(1, 2))
    object.__setattr__(submodel, "name", name)
    lane = Lane(units=1, members=("a",))
    plan = Plan(lanes=(lane,), units=1, device={"kind": name}, notes=(name,), combine=name, searcher=name)
    object.__setattr__(lane, "members", (name,))
    ensemble = Ensemble(submodels=(submodel,))
    try:
        found = export_plan(plan, ensemble, tmp_path / "plan.py", device=name)
    except UsageError:  # a step of that name cannot be
        assert os.listdir(tmp_path) == []
        return
    assert sorted(os.listdir(tmp_path)) == ["plan.py", "plan_files"]
    assert all(path.name.replace("_", "").replace(".", "").isalnum() for path in found.folder.iterdir())
    tree = ast.parse(found.script.read_text())
    harmless = ast.parse(script_text(stem="plan", folder="plan_files", device="cpu"))

    def fixed(module: ast.Module) -> list[str]:
        return [text for text in map(ast.unparse, module.body) if not text.startswith(("DEVICE =", "DIGEST ="))]

    assert fixed(tree) == fixed(harmless)
    device = next(n for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == "DEVICE")  # type: ignore[attr-defined]
    assert ast.literal_eval(device.value) == name


@pytest.mark.parametrize("stem", ["we'ird \"name", "a b", "{x}", "\\n", "é"])
def test_a_strange_file_name_cannot_escape(tmp_path: Path, stem: str, simple: Ensemble, planned: Any) -> None:
    found = export_plan(planned(simple), simple, tmp_path / f"{stem}.py")
    tree = ast.parse(found.script.read_text())
    constants = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)]
    assert f"{stem}_files" in constants
    assert load_bundle(found.folder)[1].names == ("a", "b")
