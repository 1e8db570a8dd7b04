"""Every backend of the CPU on networks of many kinds, and what each says of those it does not take."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from backend_nets import Branches, Counts, ManyKinds, Wide, executed, lacking, many_kinds
from models import mlp
from torch import nn

from esen_lab.common.answers import difference
from esen_lab.common.trees import call_with, map_tensors
from esen_lab.errors import DeviceError
from esen_lab.lanes.backends import backend, why_not
from esen_lab.lanes.backends._executed import Executed
from esen_lab.lanes.backends._protocol import BackendSettings

sys.path.insert(0, str(Path(__file__).parents[2] / "ensemble"))

from module_zoo import ZOO

ENGINES = [pytest.param(name, marks=lacking(name)) for name in ("openvino", "onnxruntime")]
INDUCTOR = pytest.param("inductor", marks=lacking("inductor"))
KINDS = [
    "odd attributes",
    "channels last",
    "double",
    "bfloat16",
    "two parametrizations",
    "transformer",
    "attention",
    "lstm",
    "embedding",
    "remembers",
    "hook",
    "nothing",
]
NOT_TAKEN = {("openvino", "double"): "float64 may be off by", ("onnxruntime", "bfloat16"): r"no kernel for Gemm\(13\)"}
CLOSE = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 2e-2}
X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


def check(module: nn.Module, name: str, inputs: list[Any]) -> None:
    """Executed by a backend, a module answers as it does eagerly: the first time, and when nothing is compared."""
    fast = executed(module, name)
    with torch.inference_mode():
        for x in inputs:
            wanted = call_with(module, x)
            for _ in range(2):
                answer = call_with(fast, x)
                assert difference(answer, wanted, CLOSE).agrees, str(difference(answer, wanted, CLOSE))
    assert all(call is not fast._eagerly for call in fast._calls.values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_answers_as_eager(name: str, kind: str) -> None:
    make, x = ZOO[kind]
    torch.manual_seed(0)
    module = make().eval()
    if (name, kind) in NOT_TAKEN:
        with torch.no_grad(), pytest.raises(DeviceError, match=NOT_TAKEN[name, kind]):
            call_with(executed(module, name), x)
    else:
        check(module, name, [x, map_tensors(lambda leaf: leaf.flip(0), x)])


@pytest.mark.slow  # a compiler works for some seconds per network
@pytest.mark.parametrize("kind", ["batch norm", "attention", "lstm"])
@pytest.mark.parametrize("name", [INDUCTOR])
def test_a_compiled_network_answers_as_eager(name: str, kind: str) -> None:
    make, x = ZOO[kind]
    check(make().eval(), name, [x])


def test_channels_last_answers_as_eager_and_leaves_layouts_as_they_were() -> None:
    make, x = ZOO["batch norm"]
    module = make().eval()
    with torch.inference_mode():
        wanted = module(x)
        answer = executed(module, "channels_last")(x)
    assert difference(answer, wanted, CLOSE).agrees
    assert answer.is_contiguous()
    with pytest.raises(DeviceError, match="no weights of four or five dimensions"):
        executed(mlp(), "channels_last")(X)


@pytest.mark.parametrize("name", ENGINES)
def test_inputs_by_keyword_and_trees_of_several_dtypes_come_through(name: str) -> None:
    check(ManyKinds().eval(), name, [many_kinds(), many_kinds()])


@pytest.mark.parametrize("name", ENGINES)
def test_batches_of_other_sizes_need_no_new_trace(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    traces = []
    original = torch.export.export
    monkeypatch.setattr(torch.export, "export", lambda *a, **k: traces.append(1) or original(*a, **k))
    check(mlp(), name, [torch.randn(size, 8) for size in (4, 7, 1, 4)])
    assert len(traces) == 1


@pytest.mark.parametrize("name", ENGINES)
def test_inputs_that_are_not_dense_are_read_right(name: str) -> None:
    module, fast = mlp(), executed(mlp(), name)
    with torch.inference_mode():
        for x in (X, torch.randn(8, 4).t(), torch.randn(4, 16)[:, ::2], X):
            torch.testing.assert_close(fast(x), module(x))


@pytest.mark.parametrize("name", ENGINES)
def test_answers_lie_in_the_same_memory_every_time(name: str) -> None:
    fast = executed(mlp(), name)
    with torch.inference_mode():
        assert fast(X).data_ptr() == fast(X + 1).data_ptr()


@pytest.mark.parametrize("name", ENGINES)
def test_what_cannot_be_converted_says_why_in_a_sentence(name: str) -> None:
    orthogonal = ZOO["orthogonal"][0]().eval()
    cases: list[tuple[nn.Module, torch.Tensor, str]] = [
        (orthogonal, torch.randn(2, 3), r"has no (rule|function) for aten\.linalg_matrix_exp\.default"),
        (Branches(), X, "torch.export cannot trace it: .*data-dependent"),
        (Counts(), X, "a call changes its calls"),
    ]
    for module, x, why in cases:
        with torch.no_grad(), pytest.raises(DeviceError, match=why) as caught:
            executed(module, name)(x)
        assert "\n" not in str(caught.value.given)
        assert len(str(caught.value.given)) <= 400


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name in {"openvino", "onnx", "onnxscript", "torch_tensorrt"} else real(name),
    )
    assert why_not("openvino") == "OpenVINO is not installed (pip install 'esen_lab[openvino]')"
    assert why_not("onnxruntime").endswith("onnx, onnxscript are not installed (pip install 'esen_lab[onnx]')")
    for name in ("openvino", "onnxruntime", "tensorrt"):  # as where a plan from elsewhere is run
        with torch.no_grad(), pytest.raises(DeviceError, match=f"{name} can execute .* not installed"):
            executed(mlp(), name)(X)
    assert why_not("tensorrt", "cuda:0") == "torch_tensorrt is not installed"
    assert "NVIDIA GPUs only" in why_not("tensorrt")
    assert "NVIDIA GPUs only" in why_not("cuda-graph")
    assert why_not("cuda-graph", "cuda:0") == ""
    assert "on the CPU" in why_not("openvino", "cuda:0")
    assert "bfloat16" in why_not("onnxruntime@bf16")
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "C++ compiler" in why_not("inductor")
    with pytest.raises(DeviceError, match="no-such-compiler"):
        executed(mlp(), "inductor")(X)


def test_an_old_openvino_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr("esen_lab.lanes.backends.openvino.package_version", lambda _: "2025.4.1")
    assert why_not("openvino") == "OpenVINO 2026 or newer is needed, and 2025.4.1 is installed"


@lacking("openvino")
def test_openvino_computes_in_float32_unless_asked() -> None:
    module, x = Wide().eval(), torch.randn(32, 256)
    with torch.inference_mode():
        wanted = module(x)
        exact = executed(module, "openvino")(x)
        executed(module, "openvino@bf16")(x)  # compared with the tolerance of bfloat16
    assert (exact - wanted).abs().max() / wanted.abs().max() < 1e-5


@lacking("openvino")
@lacking("onnxruntime")
def test_engines_report_to_nobody(tmp_path: Path) -> None:
    code = f"""if True:
        import sys, tempfile
        sys.path[:0] = {[str(Path(__file__).parents[2] / "doubles")]!r}
        import torch
        from backend_nets import executed
        from models import mlp
        for name in ("openvino", "onnxruntime"):
            with torch.no_grad():
                executed(mlp(), name)(torch.randn(4, 8))
        import openvino.tools.ovc.telemetry_utils as reporting
        print(reporting.tm.__name__, "openvino_telemetry" in sys.modules)
    """
    nothing = {**os.environ, "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    nothing.pop("ORT_DISABLE_TELEMETRY", None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=nothing, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split() == ["openvino.tools.ovc.telemetry_stub", "False"]
    assert list(tmp_path.iterdir()) == []  # what reports leaves an identity behind


class ByBatch(nn.Module):
    """Does one thing for small batches, and another for larger ones; divides by their size."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(x)
        return y * 2 if x.shape[0] > 3 else y / int(x.shape[0])


@lacking("openvino")
def test_what_a_network_makes_of_the_size_of_a_batch_is_traced_for_each(recwarn: pytest.WarningsRecorder) -> None:
    module = ByBatch().eval()
    fast = executed(module, "openvino")
    with torch.no_grad():
        for size in (4, 6, 2, 3, 1):
            x = torch.randn(size, 8)
            torch.testing.assert_close(fast(x).clone(), module(x))
    assert not [warning for warning in recwarn if "leaves an input to eager" in str(warning.message)]


class LooksUp(nn.Module):
    """No size but one that is known while it is traced can be looked up, or given as a number."""

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        return {"y": x * {2: 0.5, 4: 0.25}[x.shape[0]], "rows": x.shape[0]}


@pytest.mark.parametrize("name", ENGINES)
def test_a_network_that_cannot_leave_its_batch_open_is_traced_for_the_one_it_has(name: str) -> None:
    check(LooksUp(), name, [X, X[:2]])


@pytest.mark.parametrize("name", ENGINES)
def test_an_input_without_elements_is_left_to_eager_in_words(name: str, recwarn: pytest.WarningsRecorder) -> None:
    module = mlp()
    fast = executed(module, name)
    with torch.inference_mode():
        for x in (X, X[:0]):
            assert fast(x).shape == module(x).shape
    assert "does not take tensors without elements" in str(recwarn.pop(UserWarning).message)


@lacking("openvino")
@lacking("onnxruntime")
def test_engines_that_hold_the_same_sub_model_trace_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    traced: list[int] = []
    export = torch.export.export
    monkeypatch.setattr(torch.export, "export", lambda *args, **more: traced.append(1) or export(*args, **more))

    def held(name: str, fingerprint: str, module: nn.Module) -> Executed:
        return Executed(module, name, backend(name), BackendSettings(fingerprint=fingerprint))

    x = torch.randn(4, 256, generator=torch.Generator().manual_seed(0))
    module = Wide().eval()
    first, second = held("openvino", "f", module), held("onnxruntime", "f", deepcopy(module))
    other = held("onnxruntime", "g", Wide().eval())
    with torch.no_grad():
        for times, network in ((1, first), (1, second), (2, other)):
            torch.testing.assert_close(network(x), network.module(x), rtol=1e-4, atol=1e-5)
            assert len(traced) == times
