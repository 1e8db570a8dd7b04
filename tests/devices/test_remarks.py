"""What is said of cores and of this process: from trees of files, and in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from esen_lab.devices.cpu.remarks import remarks_on_cores

ONES = [(0,), (1,), (2,), (3,)]


def system(root: Path, **files: str) -> Path:
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    return root


def test_equal_cores_are_not_worth_a_word(tmp_path: Path) -> None:
    files = {f"system__cpu__cpu{cpu}__cpu_capacity": "1024" for cpu in range(4)}
    assert list(remarks_on_cores(ONES, system(tmp_path, system__cpu__isolated="", **files))) == []


def test_isolated_cores_are_named(tmp_path: Path) -> None:
    (said,) = remarks_on_cores(ONES, system(tmp_path, system__cpu__isolated="3,8"))
    assert "CPUs 3 are isolated" in said


def test_cores_of_which_others_have_a_hardware_thread_are_named(tmp_path: Path) -> None:
    files = {f"system__cpu__cpu{cpu}__topology__thread_siblings_list": f"{cpu % 2},{cpu % 2 + 2}" for cpu in range(4)}
    root = system(tmp_path, **files)
    assert list(remarks_on_cores([(0, 2), (1, 3)], root)) == []
    (said,) = remarks_on_cores([(0, 2), (1,)], root)
    assert "cores of CPUs 1, others belong to other programs" in said


@pytest.mark.skipif(sys.platform != "linux", reason="schedulers of Linux")
@pytest.mark.parametrize(
    ("act", "word"),
    [
        ("os.nice(5)", "nice"),
        ("os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))", "SCHED_IDLE"),
        ("os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))", "SCHED_BATCH"),
        ("resource.setrlimit(resource.RLIMIT_CPU, (900, 900))", "after 900 s"),
        ("resource.setrlimit(resource.RLIMIT_AS, (1 << 35, 1 << 35))", "address space"),
    ],
)
def test_what_a_process_hands_down_to_its_lanes_is_said(act: str, word: str) -> None:
    code = (
        "import os, resource; from esen_lab.devices import CpuDevice; device = CpuDevice(); before = device.notes; "
        f"{act}; print(*(note for note in device.notes if note not in before))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert word in out.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_a_limit_of_address_space_limits_free_memory() -> None:
    code = (
        "import resource; from esen_lab.common.free_memory import available_bytes; "
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)); print(available_bytes() <= 1 << 30)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "True"
