"""Members that are no networks in Python, small ones of every kind; all take `X` or what is said."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from esen_lab.ensemble.kinds.openvino_model import imported

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
TABLE = np.random.default_rng(0).normal(size=(120, 6)).astype("float32")
LABELS = (TABLE[:, 0] > 0).astype(int) + (TABLE[:, 1] > 0)
WEIGHT = np.random.default_rng(1).normal(size=(6, 3)).astype("float32")


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


def onnx_graph(weight: Any = WEIGHT, *, wide: bool = False, text: bool = False) -> Any:
    """x @ weight; `wide`: a second input "scale" and a second answer "sums"; `text`: a further answer that is text."""
    onnx = pytest.importorskip("onnx")
    helper, numbers = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [helper.make_node("MatMul", ["x", "w"], ["product"])]
    inputs = [helper.make_tensor_value_info("x", numbers, ["batch", 6])]
    outputs = [helper.make_tensor_value_info("scores", numbers, ["batch", 3])]
    if wide:
        inputs.append(helper.make_tensor_value_info("scale", numbers, ["batch", 3]))
        outputs.append(helper.make_tensor_value_info("sums", numbers, ["batch", 3]))
        nodes += [
            helper.make_node("Mul", ["product", "scale"], ["scores"]),
            helper.make_node("Sub", ["product", "scale"], ["sums"]),
        ]
    else:
        nodes.append(helper.make_node("Identity", ["product"], ["scores"]))
    if text:
        nodes.append(helper.make_node("Cast", ["product"], ["label"], to=onnx.TensorProto.STRING))
        outputs.append(helper.make_tensor_value_info("label", onnx.TensorProto.STRING, ["batch", 3]))
    weights = [onnx.numpy_helper.from_array(np.asarray(weight), "w")]
    graph = helper.make_graph(nodes, "small", inputs, outputs, initializer=weights)
    return helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)])


def onnx_file(folder: Path) -> Path:
    path = folder / "small.onnx"
    path.write_bytes(onnx_graph().SerializeToString())
    return path


def openvino_quietly() -> Any:
    """OpenVINO without its reports to its makers, which leave a thread."""
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("OpenVINO is not installed")
    return imported()


def ir_model(folder: Path) -> Any:
    return openvino_quietly().Core().read_model(str(onnx_file(folder)))


def ir_file(folder: Path) -> Path:
    openvino_quietly().save_model(ir_model(folder), str(folder / "small.xml"), compress_to_fp16=False)
    return folder / "small.xml"


def script(_: Path | None = None) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(network(), X)


def script_file(folder: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(script(), str(folder / "small.pt"))
    return folder / "small.pt"


def program(_: Path | None = None) -> Any:
    return torch.export.export(network(), (X,), dynamic_shapes=({0: torch.export.Dim.AUTO},))


def program_file(folder: Path) -> Path:
    torch.export.save(program(), folder / "small.pt2")
    return folder / "small.pt2"


def forest(_: Path | None = None) -> Any:
    ensemble = pytest.importorskip("sklearn.ensemble")
    return ensemble.RandomForestClassifier(6, random_state=0).fit(TABLE, LABELS)


def pipeline(_: Path | None = None) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression()).fit(TABLE, LABELS)


def ridge(_: Path | None = None) -> Any:
    return pytest.importorskip("sklearn.linear_model").Ridge().fit(TABLE, LABELS)


def xgboost_classifier(_: Path | None = None) -> Any:
    return pytest.importorskip("xgboost").XGBClassifier(n_estimators=4, n_jobs=1).fit(TABLE, LABELS)


def xgboost_booster(_: Path | None = None) -> Any:
    return xgboost_classifier().get_booster()


def xgboost_file(folder: Path) -> Path:
    xgboost_classifier().save_model(folder / "small.ubj")
    return folder / "small.ubj"


def lightgbm_classifier(_: Path | None = None) -> Any:
    return pytest.importorskip("lightgbm").LGBMClassifier(n_estimators=4, verbose=-1, n_jobs=1).fit(TABLE, LABELS)


def lightgbm_of_two(_: Path | None = None) -> Any:
    return pytest.importorskip("lightgbm").LGBMClassifier(n_estimators=4, verbose=-1, n_jobs=1).fit(TABLE, LABELS > 0)


def lightgbm_regressor(_: Path | None = None) -> Any:
    return pytest.importorskip("lightgbm").LGBMRegressor(n_estimators=4, verbose=-1, n_jobs=1).fit(TABLE, LABELS)


def lightgbm_file(folder: Path) -> Path:
    lightgbm_classifier().booster_.save_model(str(folder / "small.txt"))
    return folder / "small.txt"


def product_of_arrays(table: Any) -> Any:
    """A function of NumPy arrays."""
    return np.tanh(np.asarray(table)) @ WEIGHT


def softmax_of_tensors(x: torch.Tensor) -> torch.Tensor:
    """A function of tensors."""
    return x.softmax(-1)[:, :3]


class Scale:
    """A callable object."""

    def __init__(self, by: float) -> None:
        self.by = torch.tensor(by)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.by


class Counting:
    """A callable object that keeps state."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x + self.calls


def proba(made: Any) -> Any:
    return made.predict_proba(X.numpy())


def plain(made: Any) -> Any:
    return made.predict(X.numpy())


def by_runtime(made: Any) -> Any:
    runtime = pytest.importorskip("onnxruntime")
    if not isinstance(made, bytes):
        made = made.read_bytes() if isinstance(made, Path) else made.SerializeToString()
    return runtime.InferenceSession(made, providers=["CPUExecutionProvider"]).run(None, {"x": X.numpy()})[0]


def by_openvino(made: Any) -> Any:
    openvino = openvino_quietly()
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    return openvino.Core().compile_model(str(made) if isinstance(made, Path) else made, "CPU", settings)([X.numpy()])[0]


def by_torch(made: Any) -> Any:
    if isinstance(made, Path):
        return by_torch(torch.export.load(made)) if made.suffix == ".pt2" else torch.jit.load(str(made))(X)
    return (made.module() if isinstance(made, torch.export.ExportedProgram) else made)(X)


def by_dmatrix(made: Any) -> Any:
    xgboost = pytest.importorskip("xgboost")
    if isinstance(made, Path):
        made = xgboost.Booster(model_file=str(made))
    return made.predict(xgboost.DMatrix(X.numpy()))


def by_lightgbm(made: Any) -> Any:
    return pytest.importorskip("lightgbm").Booster(model_file=str(made)).predict(X.numpy())


MEMBERS: dict[str, tuple[Callable[[Path], Any], Callable[[Any], Any], str, str]] = {
    "onnx file": (onnx_file, by_runtime, "ONNX model", "onnx"),
    "onnx bytes": (lambda _: onnx_graph().SerializeToString(), by_runtime, "ONNX model", "onnx"),
    "onnx proto": (lambda _: onnx_graph(), by_runtime, "ONNX model", "onnx"),
    "ir file": (ir_file, by_openvino, "OpenVINO model", "openvino"),
    "ir model": (ir_model, by_openvino, "OpenVINO model", "openvino"),
    "script": (script, by_torch, "ScriptModule", "torchscript"),
    "script file": (script_file, by_torch, "ScriptModule", "torchscript"),
    "program": (program, by_torch, "ExportedProgram", "program"),
    "program file": (program_file, by_torch, "ExportedProgram", "program"),
    "forest": (forest, proba, "estimator", "pickle"),
    "pipeline": (pipeline, proba, "estimator", "pickle"),
    "ridge": (ridge, plain, "estimator", "pickle"),
    "xgboost": (xgboost_classifier, proba, "estimator", "xgboost"),
    "xgboost booster": (xgboost_booster, by_dmatrix, "estimator", "xgboost"),
    "xgboost file": (xgboost_file, by_dmatrix, "estimator", "xgboost"),
    "lightgbm": (lightgbm_classifier, proba, "estimator", "lightgbm"),
    "lightgbm of two": (lightgbm_of_two, proba, "estimator", "lightgbm"),
    "lightgbm regressor": (lightgbm_regressor, plain, "estimator", "lightgbm"),
    "lightgbm file": (lightgbm_file, by_lightgbm, "estimator", "lightgbm"),
    "function of tensors": (lambda _: softmax_of_tensors, lambda made: made(X), "function", "live"),
    "function of arrays": (lambda _: product_of_arrays, lambda made: made(X.numpy()), "function", "live"),
    "lambda": (lambda _: lambda x: x.mean(1), lambda made: made(X), "function", "live"),
    "object": (lambda _: Scale(2.5), lambda made: made(X), "function", "live"),
    "operator": (lambda _: torch.sigmoid, lambda made: made(X), "function", "live"),
}
"""By name: what makes it in a folder, what the notebook computes with it, its kind and the form of its recipe."""
