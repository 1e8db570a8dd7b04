"""Tests and programs that only a GPU runs: that they are in order, and speak of what there is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ON_A_GPU = sorted(path for path in (ROOT / "tests/devices").glob("*_on_a_gpu.py"))


def test_tests_that_start_cuda_in_this_process_come_after_those_that_must_find_none_there() -> None:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *map(str, ON_A_GPU)], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    names = [line for line in done.stdout.splitlines() if "::" in line]
    assert len(names) > 10
    kinds = ["green" in name.partition("::")[0] for name in names]
    assert kinds == sorted(kinds)


@pytest.mark.slow  # mypy looks at everything that they import
def test_what_no_other_machine_runs_names_only_what_exists() -> None:
    command = [sys.executable, "-m", "mypy", "--explicit-package-bases", "--follow-imports=silent"]
    command += ["--ignore-missing-imports", "--allow-untyped-calls", "--allow-subclassing-any"]
    programs = sorted((ROOT / "benchmarks/gpu").glob("*.py"))
    for files, folder in ((ON_A_GPU, "tests/doubles"), (programs, "benchmarks/gpu")):
        done = subprocess.run(
            [*command, "--config-file", "pyproject.toml", *map(str, files)],
            cwd=ROOT,
            env={**os.environ, "MYPYPATH": f"{ROOT}:{ROOT / folder}"},
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        assert done.returncode == 0, done.stdout
