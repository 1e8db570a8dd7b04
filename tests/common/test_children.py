"""A Python that this process starts imports this very package, and runs code as this one does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import esen_lab
from esen_lab.common.children import child_environment, interpreter_flags


def test_a_child_elsewhere_imports_this_package_and_keeps_what_it_was_given(tmp_path: Path) -> None:
    environment = child_environment({"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"})
    code = "import esen_lab, sys; print(esen_lab.__file__); print(sys.path)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    where, path = done.stdout.splitlines()
    assert where == esen_lab.__file__
    assert str(tmp_path) in path


def test_the_children_of_this_python_are_started_with_what_it_was_started_with() -> None:
    code = "from esen_lab.common.children import interpreter_flags; print(*interpreter_flags())"
    started = [sys.executable, "-OO", "-W", "error::UserWarning", "-X", "dev", "-s"]
    done = subprocess.run([*started, "-c", code], env=child_environment(), capture_output=True, text=True, check=True)
    assert {"-OO", "-Werror::UserWarning", "dev"} <= set(done.stdout.split())
    assert "-s" not in done.stdout.split()  # where modules are looked for is the child's environment to say


def test_flags_that_hide_the_environment_are_kept_from_children() -> None:
    assert not {"-I", "-E", "-S", "-P"} & set(interpreter_flags())
