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
from esen_lab.ensemble.weights import from_bytes, to_bytes
from esen_lab.errors import StoreError, UsageError
from esen_lab.export import bundle
from esen_lab.export.bundle import load_bundle
from esen_lab.export.bundle_files import bundle_files
from esen_lab.planner.plan import Plan

CHECK = """
import sys
import numpy, torch
from esen_lab.export import load_bundle
plan, ensemble = load_bundle(sys.argv[1], trust=True)
with torch.inference_mode():
    found = ensemble.combine({s.name: s.build()(s.example) for s in ensemble.submodels})
numpy.save(sys.argv[2], found.numpy())
"""


def written(folder: Path, plan: Plan, ensemble: Ensemble) -> Path:
    folder.mkdir()
    for name, data in bundle_files(plan, ensemble).items():
        (folder / name).write_bytes(data)
    return folder


def test_what_is_loaded_is_what_was_saved(tmp_path: Path, plan: Plan, ensemble: Ensemble, answer: Any) -> None:
    again_plan, again = load_bundle(written(tmp_path / "b", plan, ensemble), trust=True)
    assert again_plan == plan
    assert again.fingerprints == ensemble.fingerprints
    assert [s.recipe.kind for s in again.submodels] == ["skeleton", "source", "import", "program"]
    for old, new in zip(ensemble.submodels, again.submodels, strict=True):
        assert (old.output_spec, old.parameters, old.memory_bytes) == (
            new.output_spec,
            new.parameters,
            new.memory_bytes,
        )
        assert torch.equal(old.example, new.example)
    assert torch.equal(answer(again), answer(ensemble))


def test_another_process_gets_the_same_bits(tmp_path: Path, plan: Plan, ensemble: Ensemble, answer: Any) -> None:
    folder = written(tmp_path / "b", plan, ensemble)
    subprocess.run(
        [sys.executable, "-c", CHECK, str(folder), str(tmp_path / "y.npy")],
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
        check=True,
        timeout=180,
    )
    assert (np.load(tmp_path / "y.npy") == answer(ensemble).numpy()).all()


def test_a_loaded_bundle_can_be_saved_again_alike(tmp_path: Path, plan: Plan, ensemble: Ensemble) -> None:
    first = bundle_files(plan, ensemble)
    again = bundle_files(*load_bundle(written(tmp_path / "b", plan, ensemble), trust=True))
    assert sorted(again) == sorted(first)
    assert {n for n in first if again[n] != first[n]} <= {"bundle.json"}


def test_files_are_called_by_number_and_hold_no_pickle(plan: Plan, ensemble: Ensemble) -> None:
    files = bundle_files(plan, ensemble)
    assert sorted(files) == [
        "bundle.json", "combine.py", "example.npy", "example_00.safetensors", "plan.json",
        "submodel_00.json", "submodel_00.py", "submodel_00.safetensors",
        "submodel_01.py", "submodel_01.safetensors", "submodel_01_uses.py",
        "submodel_02.safetensors", "submodel_03.pt2",
    ]  # fmt: skip
    assert files["submodel_01.py"] == b"width = 6\nNet(width)"
    assert b"class Net" in files["submodel_00.py"]
    assert b"class Net" in files["submodel_01_uses.py"]


def test_inputs_by_keyword_come_back(tmp_path: Path, planned: Any) -> None:
    one = make_submodel("a", nn.Bilinear(2, 2, 1), {"input1": torch.ones(1, 2), "input2": torch.ones(1, 2)})
    two = make_submodel("b", nn.Linear(2, 1).bfloat16(), {"input": torch.ones(1, 2).bfloat16()})
    ensemble = Ensemble(submodels=(one, two), combine=make_combine("weighted", weights={"a": 1, "b": 3}))
    _, again = load_bundle(written(tmp_path / "b", planned(ensemble), ensemble), trust=True)
    assert again.get("a").input_keys == ("input1", "input2")
    assert again.get("b").example["input"].dtype == torch.bfloat16
    assert again.combine == ensemble.combine


def test_other_weights_are_refused_and_named(tmp_path: Path, plan: Plan, ensemble: Ensemble) -> None:
    folder = written(tmp_path / "b", plan, ensemble)
    path = folder / "submodel_00.safetensors"
    tensors = from_bytes(path.read_bytes())
    tensors["two.bias"][0] += 1e-6
    path.write_bytes(to_bytes(tensors))
    with pytest.raises(StoreError, match=r"submodel_00\.safetensors has other values in two\.bias\. "):
        load_bundle(folder, trust=True)


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("submodel_00.safetensors", lambda data: data[:-3], "submodel_00.safetensors is damaged"),
        ("submodel_01.py", lambda data: data + b"\n", "submodel_01.py has changed"),
        ("submodel_03.pt2", lambda data: b"", "submodel_03.pt2 has changed"),
        ("plan.json", lambda data: b"{}", "plan.json has changed"),
        ("combine.py", None, "combine.py is missing"),
        ("bundle.json", None, "may be read"),
        ("bundle.json", lambda data: b"{", "bundle.json is JSON"),
        ("bundle.json", lambda data: b"[]", "bundle_version None"),
        (
            "bundle.json",
            lambda data: data.replace(b'"bundle_version": 1', b'"bundle_version": 99'),
            "bundle_version 99",
        ),
        ("bundle.json", lambda data: data.replace(b'"kind": "import"', b'"kind": "other"'), "known kinds"),
        ("bundle.json", lambda data: data.replace(b'"recipe"', b'"recite"'), "required field recipe"),
        ("bundle.json", lambda data: data.replace(b'"plan.json":', b'"../plan.json":'), "its own folder"),
    ],
)
def test_a_damaged_bundle_says_what_is_wrong(
    tmp_path: Path, plan: Plan, ensemble: Ensemble, name: str, change: Any, says: str
) -> None:
    folder = written(tmp_path / "b", plan, ensemble)
    if change is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(change((folder / name).read_bytes()))
    with pytest.raises(StoreError, match=says.replace(".", r"\.")):
        load_bundle(folder, trust=True)


def test_a_plan_of_another_ensemble_is_refused(simple: Ensemble, planned: Any) -> None:
    plan = planned(simple)
    changed = simple.with_submodel(make_submodel("a", nn.Linear(8, 3), simple.example))
    with pytest.raises(UsageError, match="'a' has changed since the plan was made"):
        bundle_files(plan, changed)
    with pytest.raises(UsageError, match="'b' is in the plan only"):
        bundle_files(plan, simple.without("b"))
    more = simple.with_submodel(make_submodel("c", nn.Linear(8, 3), simple.example))
    with pytest.raises(UsageError, match="'c' is in the ensemble only"):
        bundle_files(plan, more)


def test_fingerprints_of_plan_and_files_are_compared(tmp_path: Path, simple: Ensemble, planned: Any) -> None:
    folder = written(tmp_path / "b", planned(simple), simple)
    manifest = json.loads((folder / "bundle.json").read_text())
    manifest["submodels"][1]["fingerprint"] = "0" * 32
    (folder / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match="'b' has changed since the plan was made"):
        load_bundle(folder, trust=True)


# --- what somebody may have made, with digests that fit ---------------------------------------------------------------


def rewritten(folder: Path, change: Any) -> None:
    """Change the manifest as data."""
    manifest = json.loads((folder / "bundle.json").read_text())
    change(manifest)
    (folder / "bundle.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["files"].pop("plan.json"),
        lambda m: m["files"].pop("example_00.safetensors"),
        lambda m: m.update(submodels=[]),
        lambda m: m.update(submodels=m["submodels"] * 300),
        lambda m: m.update(files=5),
        lambda m: m["files"].update({"a\0b": "x"}),
        lambda m: m["files"].update({"..": "x"}),
        lambda m: m["combine"].update(rule=["mean"]),
        lambda m: m["combine"].update(rule="source", name="x", closure={"modules": 5}),
        lambda m: m["submodels"][0].update(parameters="many"),
        lambda m: m["submodels"][0].update(memory_bytes=10**400),
        lambda m: m["submodels"][0].update(notes=[{}]),
        lambda m: m["submodels"][0].update(recipe=[]),
        lambda m: m["submodels"][0]["recipe"].update(args=5, kind="import"),
        lambda m: m["submodels"][0]["recipe"].update(kind="program"),
        lambda m: m["submodels"][0]["recipe"].update(weights="gone.safetensors"),
        lambda m: m["submodels"][0]["example"].update(structure=[]),
        lambda m: m["submodels"][0]["example"].update(structure=["tuple", [["tensor"], ["tensor"]]]),
        lambda m: m["submodels"][0]["example"].update(structure=["dict", [[]], [["tensor"]]]),
        lambda m: m["submodels"][0]["example"].update(structure=["const", []]),
        lambda m: m["submodels"][0]["output"].update(tensors=[]),
        lambda m: m["submodels"][0]["output"].update(tensors=[["float32", [10**10, 10**10], False]]),
        lambda m: m["submodels"][0]["output"].update(tensors=[["float32", [-1], False]]),
    ],
)
def test_a_manifest_that_cannot_be_is_refused(tmp_path: Path, simple: Ensemble, planned: Any, change: Any) -> None:
    folder = written(tmp_path / "b", planned(simple), simple)
    rewritten(folder, change)
    with pytest.raises(StoreError):
        load_bundle(folder, trust=True)


@pytest.mark.parametrize("what", ["pipe", "folder", "loop"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, simple: Ensemble, planned: Any, what: str) -> None:
    folder = written(tmp_path / "b", planned(simple), simple)
    for name in ("example.npy", "bundle.json"):
        path = folder / name
        path.unlink()
        if what == "pipe":
            os.mkfifo(path)
        elif what == "folder":
            path.mkdir()
        else:
            path.symlink_to(name)
        with pytest.raises(StoreError, match=name.replace(".", r"\.")):
            load_bundle(folder, trust=True)


def test_arguments_that_json_does_not_hold_are_refused_when_it_is_exported(planned: Any) -> None:
    submodel = make_submodel("a", "torch.nn:Hardtanh", torch.ones(1), args=(0.0, float("inf")))
    ensemble = Ensemble(submodels=(submodel,))
    with pytest.raises(UsageError, match="finite numbers"):
        bundle_files(planned(ensemble), ensemble)


def test_a_folder_that_is_replaced_while_it_is_read_is_the_one_or_the_other(
    tmp_path: Path, simple: Ensemble, planned: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Ensemble(submodels=tuple(make_submodel(s.name, nn.Linear(8, 3), s.example) for s in simple.submodels))
    folder = written(tmp_path / "b", planned(simple), simple)
    written(tmp_path / "c", planned(other), other)
    read = bundle.read_bytes

    def slowly(path: Path) -> bytes:
        data = read(path)
        if path.name == "bundle.json" and (tmp_path / "c").exists():
            folder.rename(tmp_path / "old")
            (tmp_path / "c").rename(folder)
        return data

    monkeypatch.setattr(bundle, "read_bytes", slowly)
    assert load_bundle(folder, trust=True)[1].fingerprints == other.fingerprints
