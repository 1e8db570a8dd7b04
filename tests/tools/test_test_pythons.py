"""What `make test-pythons` says and answers where a Python is missing, cannot be set up, passes or fails.

The Python is a script of this test, of a version that nobody has.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "test_pythons.sh"
# `python -c` says that the version is right; a venv is a folder; pip and pytest answer what they are told to.
FAKE = """#!/bin/sh
case "$1 $2" in
  "-c "*) exit 0 ;;
  "-m venv") mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
  "-m pip") echo "no route to host"; exit $PIP ;;
  "-m pytest") exit $PYTEST ;;
esac
"""


def tried(folder: Path, pip: int = 0, pytest_: int = 0, limit_s: int = 60) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "PIP": str(pip),
        "PYTEST": str(pytest_),
        "LIMIT_S": str(limit_s),
    }
    return subprocess.run(
        ["bash", str(SCRIPT), "3.99"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def python(tmp_path: Path) -> Path:
    path = tmp_path / "python3.99"
    path.write_text(FAKE)
    path.chmod(0o755)
    return tmp_path


def test_a_python_that_is_not_here_is_said(tmp_path: Path) -> None:
    ran = tried(tmp_path)
    assert (ran.returncode, ran.stdout) == (0, "Python 3.99: not found here; the tests were not tried on it.\n")


def test_passing_is_said_of_each_step(python: Path) -> None:
    ran = tried(python)
    assert ran.returncode == 0
    assert ran.stdout.splitlines() == [
        "Python 3.99: passed: tests/planner tests/cost_model tests/files",
        "Python 3.99: passed: tests/common tests/ensemble",
    ]


def test_a_failing_test_fails(python: Path) -> None:
    ran = tried(python, pytest_=1)
    assert ran.returncode == 1
    assert "Python 3.99: FAILED: tests/common tests/ensemble" in ran.stdout


def test_what_cannot_be_installed_is_said_and_is_no_failure(python: Path) -> None:
    ran = tried(python, pip=1, pytest_=1)
    assert ran.returncode == 0
    assert "could not be set up" in ran.stdout
    assert "no route to host" in ran.stdout


def test_when_the_time_is_up_nothing_more_is_begun(python: Path) -> None:
    ran = tried(python, pytest_=1, limit_s=0)
    assert ran.returncode == 0
    assert ran.stdout == "Python 3.99: could not be set up; the tests were not tried on it.\n"


@pytest.mark.parametrize("pytest_", [0, 1])
def test_nothing_is_left_in_the_temporary_folder(python: Path, pytest_: int) -> None:
    tried(python, pytest_=pytest_)
    assert [path.name for path in python.iterdir()] == ["python3.99"]
