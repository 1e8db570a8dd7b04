"""What other programs take of a process's cores, from the kernel's counts as a test writes them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from esen_lab.devices.cpu.contention import LOADED, LoadMeter, LoadSample, busy_part, load_between, sample_load


def kernel(folder: Path, *tasks: tuple[int, int], cpus: dict[int, int] | None = None) -> Path:
    """A /proc in which process "self" has these threads (ns run, ns waited), and cores are busy for so many ticks."""
    for number, (ran, waited) in enumerate(tasks):
        task = folder / "self" / "task" / str(number)
        task.mkdir(parents=True, exist_ok=True)
        (task / "schedstat").write_text(f"{ran} {waited} 3\n")
    lines = [f"cpu{cpu} {ticks} 0 0 900 5 0 0 0 0 0" for cpu, ticks in (cpus or {}).items()]
    (folder / "stat").write_text("\n".join(["cpu 1 2 3 4", *lines, "intr 5"]) + "\n")
    return folder


def sample(ran_s: float, waited_s: float, busy_s: float | None = None) -> LoadSample:
    return LoadSample(ran_s=ran_s, waited_s=waited_s, busy_s=busy_s)


def test_the_counts_of_all_threads_and_of_the_cores_asked_for_are_summed(tmp_path: Path) -> None:
    proc = kernel(tmp_path, (2_000_000_000, 500_000_000), (1_000_000_000, 0), cpus={0: 100, 1: 250, 2: 7})
    assert sample_load(cores=[0, 1], proc=proc) == sample(3.0, 0.5, 3.5)
    assert sample_load(proc=proc) == sample(3.0, 0.5, None)


def test_load_is_the_part_of_the_wanted_time_that_was_waited() -> None:
    assert load_between(sample(1.0, 0.0), sample(2.0, 1.0)) == 0.5
    assert load_between(sample(1.0, 0.0), sample(2.0, 0.0)) == 0.0


def test_threads_that_wait_for_each_other_are_no_load() -> None:
    own = load_between(sample(0.0, 0.0, 10.0), sample(1.0, 1.0, 11.0), cores=1)  # all the time on the core was its own
    assert own is not None
    assert own < LOADED


def test_a_program_on_the_other_hardware_thread_of_the_core_is_a_load() -> None:
    found = load_between(sample(0.0, 0.0, 0.0), sample(1.0, 0.0, 2.0), cores=2)
    assert found == pytest.approx(0.49, abs=0.01)


def test_ticks_too_coarse_to_tell_leave_the_exact_count_alone() -> None:
    assert load_between(sample(0.0, 0.0, 0.0), sample(0.015, 0.015, 0.02), cores=1) == pytest.approx(0.5)
    assert load_between(sample(0.0, 0.0, 0.0), sample(0.02, 0.0, 0.03), cores=1) == 0.0


def test_what_cannot_be_read_is_none_and_never_zero(tmp_path: Path) -> None:
    assert sample_load(proc=tmp_path / "nowhere") is None
    assert load_between(None, sample(1.0, 0.0)) is None
    assert load_between(sample(1.0, 0.0), None) is None
    assert load_between(sample(1.0, 0.0), sample(1.0, 0.0)) is None, "it never ran"
    proc = kernel(tmp_path, (1, 0), cpus={0: 1})
    (proc / "self" / "task" / "0" / "schedstat").write_text("no numbers\n")
    assert sample_load(proc=proc) is None
    assert busy_part([0], for_s=0.0, proc=tmp_path / "nowhere") is None


def test_a_container_that_is_shown_other_cores_counts_its_own_waiting_only(tmp_path: Path) -> None:
    found = sample_load(cores=[8], proc=kernel(tmp_path, (1_000_000_000, 0), cpus={0: 100}))
    assert found == sample(1.0, 0.0, None)


def test_a_thread_that_ends_between_two_samples_makes_no_negative_load(tmp_path: Path) -> None:
    proc = kernel(tmp_path, (1_000_000_000, 900_000_000), (1_000_000_000, 900_000_000))
    meter = LoadMeter(own_cores=False, proc=proc)
    meter.start()
    (proc / "self" / "task" / "1" / "schedstat").unlink()
    kernel(tmp_path, (2_500_000_000, 900_000_000))
    assert meter.stop() == 0.0


def process(folder: Path, pid: int, parent: int, ticks: int) -> None:
    (folder / str(pid)).mkdir(exist_ok=True)
    words = f"{pid} (a ) name) S {parent} 1 1 0 -1 0 0 0 0 0 {ticks} 0 0 0 20 0 1 0 5"
    (folder / str(pid) / "stat").write_text(words)


@pytest.mark.parametrize(
    ("own", "child", "grandchild", "other", "part"),
    [(0, 0, 0, 0, 0.0), (0, 0, 0, 100, 0.5), (100, 0, 0, 0, 0.0), (0, 60, 40, 0, 0.0), (0, 100, 0, 100, 0.5)],
)
def test_how_busy_others_keep_cores_is_counted_without_this_process_and_what_it_started(
    tmp_path: Path, own: int, child: int, grandchild: int, other: int, part: float
) -> None:
    now = [0.0]

    def look(ran: bool) -> None:
        kernel(tmp_path, cpus={0: 500 + ran * (own + child + grandchild + other), 1: 7})
        process(tmp_path, os.getpid(), 1, 1000 + ran * own)
        process(tmp_path, 71, os.getpid(), ran * child)
        process(tmp_path, 72, 71, ran * grandchild)
        process(tmp_path, 73, 1, ran * other)

    def pause(for_s: float) -> None:
        now[0] += for_s
        look(ran=True)

    look(ran=False)
    found = busy_part([0, 1], for_s=1.0, proc=tmp_path, pause=pause, clock=lambda: now[0])
    assert found == pytest.approx(part)


@pytest.mark.timing
@pytest.mark.load
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's counts are Linux's")
def test_a_program_that_burns_the_same_core_is_seen() -> None:
    code = """
import os, sys, time
from esen_lab.devices.cpu.contention import LoadMeter
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
def burn():
    until = time.perf_counter() + 0.3
    while time.perf_counter() < until:
        pass
meter = LoadMeter()
meter.start()
burn()
print(meter.stop())
"""
    core = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\nwhile True: pass"
    burner = subprocess.Popen([sys.executable, "-c", core])
    try:
        time.sleep(0.3)
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    finally:
        burner.kill()
        burner.wait()
    assert float(out.stdout) > 0.3
