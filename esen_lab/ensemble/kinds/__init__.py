"""Members that are no networks in Python: each becomes one module, made alike in the notebook and in lanes.

    onnx_model.py      an ONNX file, its bytes, an `onnx.ModelProto`
    openvino_model.py  OpenVINO IR (.xml beside .bin), an `openvino.Model`
    script.py          a ScriptModule, its file or its bytes
    exported.py        an `ExportedProgram`, a .pt2 file
    estimator.py       what has `predict_proba`, `predict` or `transform`: scikit-learn, and what follows its interface
    xgboost_model.py   XGBoost's estimators and boosters
    lightgbm_model.py  those of LightGBM
    function.py        any callable of tensors or of arrays

Each file has `adapt`, which looks at what is registered, and, where it has a format of its own, `load`, which makes the
module of what was kept. Whoever adds one names it in `_KINDS` here. Importing this loads neither torch nor a library.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esen_lab.common.words import unknown
from esen_lab.ensemble.origin import is_module
from esen_lab.errors import UsageError
from esen_lab.files import PICKLE_SUFFIXES, check_no_stand_in, is_model_file, names_beside

if TYPE_CHECKING:
    from esen_lab.ensemble.kinds.adapted import Adapted

_KINDS = ("onnx_model", "openvino_model", "script", "exported", "xgboost_model", "lightgbm_model", "estimator")
"""In the order in which they are asked: what XGBoost and LightGBM make are estimators, too."""


def adapted(source: Any, options: Mapping[str, Any]) -> Adapted | None:
    """A member made of `source`, or None where it is of none of these kinds (a network, a factory, a function).

    Args:
        source: What is registered.
        options: What the user says besides, by keyword; each kind names its own.

    Raises:
        UsageError: It is of one of these kinds and cannot be used; or an option is unknown.
    """
    if isinstance(source, os.PathLike) or (isinstance(source, str) and (is_model_file(source) or _is_file(source))):
        source = _path(source)
    elif isinstance(source, (bytearray, memoryview)):
        source = bytes(source)
    elif isinstance(source, (str, type)) or source is None:
        return None
    for kind in _KINDS:
        found: Adapted | None = importlib.import_module(f"{__name__}.{kind}").adapt(source, options)
        if found is not None:
            return found
    if isinstance(source, (Path, bytes)):
        raise UsageError(
            "A model's file is ONNX, OpenVINO IR (.xml), TorchScript, a torch.export program (.pt2), or a booster of "
            "XGBoost (.ubj, .json) or LightGBM (.txt)",
            given=repr(str(source)) if isinstance(source, Path) else f"{len(source):,} bytes of another kind",
            hint="Load it with the library that wrote it, and register what that gives.",
        )
    return None


def _is_file(text: str) -> bool:
    """Whether a text is the path of some file: of none that is known, and of no import path either."""
    return bool(Path(text).suffix) and os.path.isfile(os.path.expanduser(text))


def _path(source: str | os.PathLike[str]) -> Path:
    path = Path(os.path.abspath(Path(source).expanduser()))
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise UsageError(
            "A model's file is in a format that runs nothing when it is read, and a pickle is none",
            given=repr(str(path)),
            hint="If you trust it, load it yourself (joblib.load) and register what that gives.",
        )
    if path.is_dir():
        raise UsageError(
            "A model's file is one file",
            given=f"the folder {str(path)!r}",
            hint="Name the file in it, or load it with the library that wrote it, and register what that gives.",
        )
    if not path.is_file():
        raise unknown("A model's file is there", path.name, names_beside(path), given=repr(str(path)))
    check_no_stand_in(path)
    return path


def is_script(value: Any) -> bool:
    """Whether `value` is a ScriptModule, or a function that was scripted."""
    if not is_module(value) and type(value).__name__ != "ScriptFunction":
        return False
    import torch

    return isinstance(value, (torch.jit.ScriptModule, torch.jit.ScriptFunction))
