"""A Python that this process starts imports this very package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import esen_lab
from esen_lab.common.children import child_environment


def test_a_child_elsewhere_imports_this_package_and_keeps_what_it_was_given(tmp_path: Path) -> None:
    environment = child_environment({"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"})
    code = "import esen_lab, sys; print(esen_lab.__file__); print(sys.path)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    where, path = done.stdout.splitlines()
    assert where == esen_lab.__file__
    assert str(tmp_path) in path
