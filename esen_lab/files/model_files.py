"""What the files of models are called, and what lies in the place of some."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from esen_lab.errors import UsageError
from esen_lab.files.reading import read_head

MODEL_SUFFIXES = (".onnx", ".xml", ".pt2", ".pt", ".pth", ".ts", ".torchscript", ".ubj", ".json", ".lgb", ".txt")
"""Of files that can be registered by their path; each kind of member says which are its own."""
PICKLE_SUFFIXES = (".pkl", ".pickle", ".joblib", ".skops", ".sav")
"""Of files that run code when they are read."""
_STAND_INS: Mapping[bytes, tuple[str, str]] = {
    b"version https://git-lfs.github.com/spec/": ("a pointer of Git LFS", "Fetch what it points at: git lfs pull."),
    b"/annex/objects/": ("a pointer of git-annex", "Fetch what it points at: git annex get."),
    b"<!doctype html": ("a page of the web", "Download the file itself."),
    b"<html": ("a page of the web", "Download the file itself."),
}
"""How small files begin that lie where a model should be: what they are, and what to do."""
_HEAD_BYTES = 512


def is_model_file(text: str) -> bool:
    """Whether a text is the path of a model's file, and neither an import path nor a cell's text."""
    if "\n" in text or "\0" in text or Path(text).suffix.lower() not in (*MODEL_SUFFIXES, *PICKLE_SUFFIXES):
        return False
    return "(" not in text or os.path.isfile(os.path.expanduser(text))  # "model (1).onnx" is no call


def check_no_stand_in(path: Path) -> None:
    """Refuse a file that lies where a model should be, and is none.

    Raises:
        UsageError: It is one; the message says what it is.
        StoreError: It cannot be read.
    """
    head = read_head(path, _HEAD_BYTES).lstrip().lower()
    for begin, (what, hint) in _STAND_INS.items():
        if head.startswith(begin):
            raise UsageError("A model's file holds the model", given=f"{str(path)!r}, which is {what}", hint=hint)
