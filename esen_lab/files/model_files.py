"""What the files of models are called."""

from __future__ import annotations

from pathlib import Path

MODEL_SUFFIXES = (".onnx", ".xml", ".pt2", ".pt", ".pth", ".ts", ".torchscript", ".ubj", ".json", ".lgb", ".txt")
"""Of files that can be registered by their path; each kind of member says which are its own."""
PICKLE_SUFFIXES = (".pkl", ".pickle", ".joblib", ".skops", ".sav")
"""Of files that run code when they are read."""


def is_model_file(text: str) -> bool:
    """Whether a text is the path of a model's file, and neither an import path nor a cell's text."""
    plain = "\n" not in text and "(" not in text and "\0" not in text
    return plain and Path(text).suffix.lower() in (*MODEL_SUFFIXES, *PICKLE_SUFFIXES)
