"""Which CPUs a process may use: scripted OpenMP runtimes, and real ones in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from esen_lab.devices.cpu import affinity as cpu_allowed
from esen_lab.devices.cpu.affinity import Places, allowed_cpus, cpus_in, online_cpus, openmp_places, ranges

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="masks of Linux")
two_cpus = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs"
)
LOOK = """if True:
    import os, sys
    import torch
    torch.ones(300, 300) @ torch.ones(300, 300)
    from esen_lab.devices.cpu.affinity import allowed_cpus, ranges
    found = allowed_cpus()
    print(len(found.cpus), len(os.sched_getaffinity(0)), *found.notes, sep="|")
"""


@pytest.fixture
def mask(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The mask of this process, as a test sets it; nothing else is known."""
    found: set[int] = {0}
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(found))
    monkeypatch.setattr(cpu_allowed, "_most", lambda: frozenset(range(8)))
    return found


def places(*each: set[int], cpus: int) -> list[Places]:
    return [Places(each=tuple(map(frozenset, each)), cpus=cpus)]


def allowed(tmp_path: Path, known: list[Places], **environment: str) -> set[int]:
    return set(allowed_cpus(lambda: iter(known), proc=tmp_path, environment=environment).cpus)


def test_without_openmp_the_mask_is_the_truth(mask: set[int], tmp_path: Path) -> None:
    mask |= {3, 4}
    assert allowed(tmp_path, []) == {0, 3, 4}


def test_a_process_bound_to_one_of_openmps_places_may_use_them_all(mask: set[int], tmp_path: Path) -> None:
    found = allowed_cpus(
        lambda: iter(places({0}, {1}, {2, 3}, cpus=4)), proc=tmp_path, environment={"OMP_PROC_BIND": "true"}
    )
    assert found.cpus == {0, 1, 2, 3}
    assert "OMP_PROC_BIND=true" in found.notes[0]
    assert "CPUs 0-3" in found.notes[0]


def test_a_user_who_allowed_one_cpu_is_obeyed_though_openmp_binds_to_it(mask: set[int], tmp_path: Path) -> None:
    assert allowed(tmp_path, places({0}, cpus=1)) == {0}


def test_a_mask_that_openmp_did_not_set_is_obeyed(mask: set[int], tmp_path: Path) -> None:
    mask |= {1}
    assert allowed(tmp_path, places({0}, {1}, {2}, {3}, cpus=4)) == {0, 1}


def test_what_places_leave_out_is_found_with_other_threads_the_parent_or_the_kernel(
    mask: set[int], tmp_path: Path
) -> None:
    """GOMP_CPU_AFFINITY=0 on a process that had CPUs: the runtime only knows how many."""
    assert allowed(tmp_path, places({0}, cpus=8)) == set(range(8)), "all that the kernel allows"
    parent = tmp_path / str(os.getppid())
    parent.mkdir()
    (parent / "status").write_text("Cpus_allowed:\tff\nCpus_allowed_list:\t0-2\n")
    assert allowed(tmp_path, places({0}, cpus=3)) == {0, 1, 2}
    task = tmp_path / "self" / "task" / "7"
    task.mkdir(parents=True)
    (task / "status").write_text("Cpus_allowed_list:\t0,4-5\n")
    assert allowed(tmp_path, places({0}, cpus=3)) == {0, 4, 5}
    assert allowed(tmp_path, places({0}, cpus=5)) == {0}, "nothing of that size is known"


def run(code: str, *, cpus: str = "", **environment: str) -> str:
    command = [sys.executable, "-c", code]
    if cpus:
        command = ["taskset", "-c", cpus, *command]
    clean = {name: value for name, value in os.environ.items() if name not in cpu_allowed.BINDING}
    done = subprocess.run(command, env={**clean, **environment}, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@two_cpus
@pytest.mark.parametrize(
    "setting",
    ["OMP_PROC_BIND=true", "OMP_PROC_BIND=spread", "OMP_PLACES=cores", "GOMP_CPU_AFFINITY=0", "GOMP_CPU_AFFINITY=0-1"],
)
def test_a_real_runtime_that_binds_is_seen_through_and_said(setting: str) -> None:
    name, _, value = setting.partition("=")
    count = len(os.sched_getaffinity(0))
    found, bound, note = run(LOOK, **{name: value}).split("|")
    assert (int(found), bound) == (count, "1")
    assert setting in note


@two_cpus
def test_a_real_runtime_does_not_undo_what_taskset_allows() -> None:
    first = str(min(os.sched_getaffinity(0)))
    assert run(LOOK, cpus=first, OMP_PROC_BIND="true") == "1|1"


def test_a_runtime_without_places_is_none(tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.write_text("7f00-7f01 r-xp 0 fe:00 1    /nowhere/lib with space/libgomp.so.1\n7f02-7f03 rw-p 0 0:0 0\n")
    assert list(openmp_places(maps)) == []
    assert list(openmp_places(tmp_path / "nothing")) == []


def test_cpus_that_are_switched_on_are_read_by_number(tmp_path: Path) -> None:
    (tmp_path / "online").write_text("0,2-3\n")
    assert online_cpus(tmp_path / "online") == (0, 2, 3)
    assert online_cpus(tmp_path / "missing") == ()


def test_the_kernels_lists_of_cpus_are_read_and_written() -> None:
    assert cpus_in("0-2,5,7-8\n") == {0, 1, 2, 5, 7, 8}
    assert cpus_in("\n") == set()
    assert ranges({0, 1, 2, 5, 7, 8}) == "0-2,5,7-8"


def test_the_main_threads_mask_counts_whichever_thread_asks() -> None:
    code = """if True:
        import os, threading
        from esen_lab.devices.cpu.affinity import allowed_cpus
        first = {min(os.sched_getaffinity(0))}
        all_cpus = len(os.sched_getaffinity(0))
        def ask():
            os.sched_setaffinity(0, first)  # this thread alone
            print(len(allowed_cpus().cpus) == all_cpus)
        thread = threading.Thread(target=ask); thread.start(); thread.join()
    """
    assert run(code) == "True"
