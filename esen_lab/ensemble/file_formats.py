"""The formats in which members of other kinds are kept as files, and who reads each: files of `kinds/`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from esen_lab.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

_FORMATS = {
    "onnx": "onnx_model",
    "openvino": "openvino_model",
    "torchscript": "script",
    "xgboost": "xgboost_model",
    "lightgbm": "lightgbm_model",
    "pickle": "estimator",
}
FORMATS = tuple(_FORMATS)
"""What a `FileRecipe` may be in."""


def load(form: str, files: Mapping[str, bytes], options: Mapping[str, Any]) -> nn.Module:
    """The module of a member that was kept as files.

    Args:
        form: One of `FORMATS`.
        files: Their content, by suffix.
        options: Plain data, as `adapted` made them.

    Raises:
        UsageError: There is no such format, or a package is missing.
    """
    if form not in _FORMATS:
        raise UsageError("A member's files are in a known format", given=form)
    made: nn.Module = importlib.import_module(f"esen_lab.ensemble.kinds.{_FORMATS[form]}").load(files, options)
    return made
