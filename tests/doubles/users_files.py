"""A file of the user's, as tests import it and write it anew."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest


@contextmanager
def imported(name: str, source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module of the user's in a file, imported; gone after it."""
    # A file that changes twice within a second and keeps its size would be taken for its older bytecode.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (folder / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(folder)
    importlib.invalidate_caches()
    yield importlib.import_module(name)
    del sys.modules[name]
