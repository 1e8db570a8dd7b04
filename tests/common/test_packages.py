"""Packages are looked for without being imported, and a finder that raises has none."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from esen_lab.common.packages import can_import, package_version


def test_a_package_is_there_or_not() -> None:
    assert can_import("torch")
    assert not can_import("no_such_package_anywhere")


def test_a_finder_that_raises_and_a_stand_in_without_a_spec_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(name: str) -> None:
        raise ModuleNotFoundError(name)

    stand_in = ModuleType("stand_in")
    monkeypatch.setitem(sys.modules, "stand_in", stand_in)
    assert not can_import("stand_in")
    monkeypatch.setattr(importlib.util, "find_spec", raises)
    assert not can_import("onnx")


def test_a_package_has_the_version_of_whatever_brings_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("brought_here", "found_here"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    info = tmp_path / "brought_nightly-3.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: brought-nightly\nVersion: 3.1\n")
    (info / "top_level.txt").write_text("brought_here\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert package_version("brought_here") == "3.1"
    assert package_version("found_here") == "unknown"
    assert package_version("torch") == importlib.metadata.version("torch")
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        package_version("no_such_package_anywhere")
