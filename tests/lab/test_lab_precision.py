"""A precision that the user chose: checked by real engines, offered, kept out where it disagrees, given up."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backend_nets import lacking
from models import mlp
from test_lab_backends import BY_HAND, Scripted, in_full, ways

from esen_lab import Lab
from esen_lab.common.answers import IN_PRECISION, difference
from esen_lab.devices import CpuDevice
from esen_lab.devices.cpu.precision import slower_in
from esen_lab.errors import UsageError
from esen_lab.lab.backend_choice import allowed, refused, variants
from esen_lab.lab.stages import checks
from esen_lab.profiler.backends import BackendPoint, BackendTable, choose
from esen_lab.studies.precision_table import PrecisionPoint, PrecisionTable

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
DATA = torch.rand(50, 8, generator=torch.Generator().manual_seed(1))
pytestmark = [lacking("openvino@int8")]


def two() -> CpuDevice:
    return CpuDevice(cores=[(0,), (0,)])


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(device=two()) as made:
        made.register("a", mlp(outputs=3), example=X)
        made.register("b", mlp(outputs=3, seed=1), example=X)
        made.plan = BY_HAND
        yield made


def table_of(lab: Lab, **why: str) -> PrecisionTable:
    """A check in bf16 that allows "openvino@bf16" but where it says why not."""
    one = PrecisionPoint(name="", backend="openvino@bf16", error=1e-3, agreement=1.0, together=1.0)
    points = tuple(replace(one, name=name, why=why.get(name, "")) for name in lab.ensemble.names)
    return PrecisionTable(
        precision="bf16",
        points=points,
        agree=0.999,
        error=6e-2,
        samples=50,
        together=1.0,
        combinations=(4, 4),
        fingerprints=lab.ensemble.fingerprints,
    )


def checked(lab: Lab, monkeypatch: pytest.MonkeyPatch, **why: str) -> None:
    """Choose bf16; what the check finds is scripted."""
    found = table_of(lab, **why)
    monkeypatch.setattr("esen_lab.lab.stages.precision.check_precision", lambda *_, **__: found)
    lab.lanes.choose_precision("bf16", on=DATA)


class Fast(Scripted):
    """A double of `measure_backends` in which what is offered besides the plain backends is the fastest."""

    def __call__(self, submodels: Any, *_: Any, **options: Any) -> BackendTable:
        points: list[BackendPoint] = []
        for submodel, units in submodels:
            one = BackendPoint(name=submodel.name, units=units, backend="eager", median_s=0.02)
            found = [one, replace(one, backend="openvino", median_s=0.01)]
            found += [replace(one, backend=way, median_s=0.005) for way in options["more"][submodel.name]]
            points += choose(found)
        return BackendTable(points=tuple(points), units=2, measured=in_full(points))


def choose_fastest(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "measure_backends", Fast())
    lab.lanes.choose_backends()


def test_it_is_fp32_unless_asked(lab: Lab) -> None:
    assert lab.lanes.precision is None
    assert variants(lab.state, "a") == ()
    assert refused(lab.state, "a") == {}


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "openvino@bf16",
            r"compared with that first\. Given: 'openvino@bf16'.*choose_precision\('bf16'\)",
        ),
        ("opnvino", r"ESEN_LAB_BACKENDS: A backend.* Given: 'opnvino'"),
    ],
)
def test_the_environment_names_backends_and_no_precision_that_nobody_checked(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, said: str, told: str
) -> None:
    monkeypatch.setenv("ESEN_LAB_BACKENDS", f"eager, {said}")
    with pytest.raises(UsageError, match=told):
        allowed(lab.state)
    monkeypatch.setenv("ESEN_LAB_BACKENDS", "eager, openvino")
    assert allowed(lab.state) == {"a": ("openvino",), "b": ("openvino",)}


def test_what_agrees_is_offered_measured_and_run(lab: Lab) -> None:
    labels = torch.zeros(50, dtype=torch.int64)
    table = lab.lanes.choose_precision("bf16", on=(DATA, labels), backends=["eager", "openvino"])
    assert table is not None
    assert lab.lanes.precision is table is lab.state.here.precision
    assert variants(lab.state, "a") == ("eager@bf16", "openvino@bf16")
    for point in table.points:
        assert point.error is not None
        # OpenVINO computes in float32 where the processor has nothing for bfloat16, whatever it is asked.
        rounded = point.backend.startswith("eager") or not slower_in("bf16")
        assert (1e-5 if rounded else 0) <= point.error < 2e-2
        assert point.agreement is not None
    assert table.samples == 50
    assert set(table.accuracy) == {"a", "b"}
    lab.plan = BY_HAND.with_backends({"a": "openvino@bf16"})
    answer, wanted = lab.run(X), lab.ensemble.combine({s.name: s.build()(X) for s in lab.ensemble.submodels})
    assert difference(answer, wanted, IN_PRECISION["bf16"]).agrees
    assert lab.report is not None
    assert "In another precision, as the plan says: a (openvino@bf16)." in lab.report.notes
    assert lab.plan is not None
    assert table.summary in lab.plan.notes
    assert json.loads(json.dumps(lab.plan.to_dict()))["lanes"][0]["backends"] == ["openvino@bf16"]


def test_backends_are_chosen_among_what_was_allowed_too(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    checked(lab, monkeypatch, b="it is far off")
    choose_fastest(lab, monkeypatch)
    assert ways(lab.plan) == {"a": "openvino@bf16", "b": "openvino"}
    lab.lanes.choose_precision("fp32")
    assert lab.lanes.precision is None
    assert ways(lab.plan) == {"a": "openvino", "b": "openvino"}, "the fastest that was measured in fp32"


@pytest.mark.slow  # all backends are measured
def test_real_backends_are_measured_in_the_precision_too(lab: Lab) -> None:
    lab.lanes.choose_precision("bf16", on=DATA, backends=["eager", "channels_last", "openvino"])
    found = lab.lanes.choose_backends(budget_s=0.02)
    assert found.of("a")["openvino@bf16"].median_s is not None
    assert "channels_last@bf16" not in found.of("a"), "it has no images"
    assert "channels_last" in found.of("a")
    found = lab.lanes.choose_backends(backends=["openvino"], budget_s=0.02)
    assert set(found.of("a")) == {"eager", "openvino"}, "ways that are named are those alone"


def test_what_disagrees_is_in_no_plan(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    checked(lab, monkeypatch, a="it is far off")
    assert refused(lab.state, "a") == {"openvino@bf16": "it is far off"}
    lab.plan = BY_HAND.with_backends({"a": "openvino@bf16", "b": "openvino@bf16"})
    assert ways(lab.plan) == {"a": "eager", "b": "openvino@bf16"}
    table = lab.lanes.choose_backends(backends=["openvino@bf16"], budget_s=0.02)
    assert table.of("a")["openvino@bf16"].why == "it is far off"
    assert "No openvino@bf16 for a: it is far off." in table.hindrances


def test_a_check_that_fails_takes_the_precision_out_of_the_plan(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    checked(lab, monkeypatch)
    choose_fastest(lab, monkeypatch)
    assert ways(lab.plan) == {"a": "openvino@bf16", "b": "openvino@bf16"}
    checked(lab, monkeypatch, b="it is far off")
    assert ways(lab.plan) == {"a": "openvino@bf16", "b": "openvino"}
    assert lab.search_job is None
    assert variants(lab.state, "b") == ()


def test_weights_that_change_end_what_was_checked_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    module = mlp(outputs=3)
    with Lab(device=two()) as lab:
        lab.register("a", module, example=X)
        lab.register("b", mlp(outputs=3, seed=1), example=X)
        lab.plan = BY_HAND
        checked(lab, monkeypatch)
        choose_fastest(lab, monkeypatch)
        with torch.no_grad():
            module[0].weight.mul_(2.0)
        lab.run(X)
        assert ways(lab.plan) == {"a": "openvino", "b": "openvino@bf16"}
        assert lab.report is not None
        assert any(
            "a computes in its own precision until lab.lanes.choose_precision" in note for note in lab.report.notes
        )
        assert variants(lab.state, "a") == ()
        assert variants(lab.state, "b") == ("openvino@bf16",)
        lab.register("b", mlp(outputs=3, seed=2), example=X)
        assert variants(lab.state, "b") == ()
        assert ways(lab.plan)["b"] == "openvino"


def test_int8_is_offered_no_more_where_its_data_went_with_an_unregistered_member(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = table_of(lab)
    points = tuple(replace(point, backend="openvino@int8") for point in found.points)
    found = replace(found, precision="int8", points=points)
    monkeypatch.setattr("esen_lab.lab.stages.precision.check_precision", lambda *_, **__: found)
    lab.lanes.choose_precision("int8", on=DATA)
    assert variants(lab.state, "a") == ("openvino@int8",)
    lab.unregister("a")
    lab.register("a", mlp(outputs=3), example=X)
    assert lab.ensemble.get("a").calibration is None
    assert variants(lab.state, "a") == (), "a lane would refuse it"
    assert variants(lab.state, "b") == ("openvino@int8",)


def test_another_device_is_checked_anew_and_this_one_is_remembered(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    checked(lab, monkeypatch)
    choose_fastest(lab, monkeypatch)
    left = lab.use_device(CpuDevice(cores=[(0,)]))
    assert (
        "Here all compute in their own precision: lab.lanes.choose_precision('bf16') checks the other one."
        in left.notes
    )
    assert lab.lanes.precision is None
    assert variants(lab.state, "a") == ()
    lab.register("b", mlp(outputs=3, seed=2), example=X)
    back = lab.use_device(two())
    assert "Here bf16 was checked before, and may be taken." in back.notes
    assert variants(lab.state, "a") == ("openvino@bf16",)
    assert ways(lab.plan) == {"a": "openvino@bf16", "b": "eager"}, "b has other weights since"


@pytest.mark.slow  # two engines quantise, and a script starts lanes of its own
@pytest.mark.filterwarnings("error::esen_lab.run.fidelity.AnswersDiffer")
def test_int8_is_calibrated_run_exported_and_run_by_the_script(lab: Lab, tmp_path: Path) -> None:
    table = lab.lanes.choose_precision("int8", on=DATA, agree=0.9, backends=["openvino", "onnxruntime"])
    assert table is not None
    assert variants(lab.state, "a") == ("openvino@int8", "onnxruntime@int8")
    lab.plan = BY_HAND.with_backends({"a": "openvino@int8", "b": "onnxruntime@int8"})
    x = DATA[:4]
    answer, wanted = lab.run(x), lab.ensemble.combine({s.name: s.build()(x) for s in lab.ensemble.submodels})
    found = difference(answer, wanted, IN_PRECISION["int8"])
    assert found.agrees
    assert found.error > 1e-5
    assert lab.report is not None
    assert not any("runs eagerly" in note for note in lab.report.notes)
    assert lab.check_numerics(x, runs=1).passed
    assert lab.check_numerics(100 * X, runs=1).passed, "far from what it was calibrated with"
    script = lab.export(tmp_path / "ours.py").script
    assert (tmp_path / "ours_files" / "calibration_00.safetensors").exists()
    np.save(tmp_path / "x.npy", x.numpy())
    code = "import ours, numpy, torch\nwith ours.load() as run:\n    y = run(torch.from_numpy(numpy.load('x.npy')))\n"
    code += "    print(run.report.notes)\n    numpy.save('y.npy', y.numpy())\n"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=script.parent, capture_output=True, text=True, timeout=180, check=True
    )
    assert "a (openvino@int8), b (onnxruntime@int8)" in done.stdout
    assert torch.allclose(torch.from_numpy(np.load(tmp_path / "y.npy")), answer, atol=1e-6)
    # The same network again, for another batch: what was checked of it holds.
    lab.register("a", mlp(outputs=3), example=DATA[:8])
    assert variants(lab.state, "a") == ("openvino@int8", "onnxruntime@int8")
    assert lab.ensemble.get("a").calibration is not None
    lab.lanes.choose_precision("fp32")
    assert lab.ensemble.get("a").calibration is None
    assert ways(lab.plan) == {"a": "eager", "b": "eager"}
    lab.export(tmp_path / "ours.py")
    assert not (tmp_path / "ours_files" / "calibration_00.safetensors").exists()


def test_int8_sees_some_of_the_data_and_no_labels(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spied(ensemble: Any, *given: Any, **_: Any) -> PrecisionTable:
        seen.extend(submodel.calibration for submodel in ensemble.submodels)
        return table_of(lab)

    monkeypatch.setattr("esen_lab.lab.stages.precision.check_precision", spied)
    many = torch.arange(1000.0)[:, None].expand(-1, 8)
    lab.lanes.choose_precision("int8", on=(many, torch.full((1000,), 7)))
    assert all(tuple(data.shape) == (256, 8) for data in seen)
    assert (seen[0][0, 0], seen[0][-1, 0]) == (0, 999), "from all over it"


@pytest.mark.parametrize(
    ("precision", "options", "rule"),
    [
        ("fp8", {}, "one of fp32, bf16, fp16, int8"),
        ("int8", {}, "int8 is calibrated with data"),
        ("bf16", {"agree": 0.9}, "Agreement is measured on data"),
        ("bf16", {"agree": 99.9, "on": DATA}, "above 0, at most 1"),
        ("bf16", {"error": 1.0}, "at most 0.06"),
        ("bf16", {"on": (DATA, None, None)}, "a tuple of 3"),
        ("fp16", {}, "Some backend computes in fp16 on this device.*for GPUs"),
        ("bf16", {"backends": ["onnxruntime"]}, "does not compute in bfloat16"),
        ("bf16", {"backends": ["magic"]}, "one of eager"),
        ("bf16", {"backends": ["openvino", "eager@int8"]}, r"chosen \(bf16\). Given: eager@int8. Name them without"),
        ("bf16", {"on": (DATA, [1, 2])}, "one whole number"),
        ("bf16", {"on": DATA[:0]}, "has its samples"),
        ("bf16", {"on": DATA * float("nan")}, "holds numbers. Given: NaN"),
    ],
)
def test_what_cannot_be_chosen_is_said_and_changes_nothing(
    lab: Lab, precision: str, options: dict[str, Any], rule: str
) -> None:
    before = lab.state
    with pytest.raises(UsageError, match=rule):
        lab.lanes.choose_precision(precision, **options)
    assert lab.state is before


def test_a_processor_that_is_not_faster_is_said(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esen_lab.lab.stages.precision.check_precision", lambda *_, **__: table_of(lab))
    monkeypatch.setattr("esen_lab.lab.stages.precision.slower_in", lambda precision: f"{precision} will not be faster.")
    table = lab.lanes.choose_precision("bf16", on=DATA)
    assert table is not None
    assert "bf16 will not be faster." in table.notes


def test_a_table_of_a_network_that_is_another_one_says_so(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    checked(lab, monkeypatch)
    assert lab.lanes.precision is lab.state.here.precision
    lab.register("a", mlp(outputs=3, seed=7), example=X)
    table = lab.lanes.precision
    assert table is not None
    assert any(note.startswith("a changed since") for note in table.notes)
