"""What the files of models are called."""

from __future__ import annotations

import os
from pathlib import Path

MODEL_SUFFIXES = (".onnx", ".xml", ".pt2", ".pt", ".pth", ".ts", ".torchscript", ".ubj", ".json", ".lgb", ".txt")
"""Of files that can be registered by their path; each kind of member says which are its own."""
PICKLE_SUFFIXES = (".pkl", ".pickle", ".joblib", ".skops", ".sav")
"""Of files that run code when they are read."""


def is_model_file(text: str) -> bool:
    """Whether a text is the path of a model's file, and neither an import path nor a cell's text."""
    if "\n" in text or "\0" in text or Path(text).suffix.lower() not in (*MODEL_SUFFIXES, *PICKLE_SUFFIXES):
        return False
    return "(" not in text or os.path.isfile(os.path.expanduser(text))  # "model (1).onnx" is no call
