"""Where workers come from, and that none of them stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from models import mlp, payload

from esen_lab.devices import CpuDevice
from esen_lab.devices.cpu import CpuPlacement
from esen_lab.errors import DeviceError, WorkerDied
from esen_lab.workers import Nursery

PLACE = CpuDevice().place([1])[0]


def wait_until_gone(pids: list[int], within_s: float = 5.0) -> list[int]:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        left = [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]
        if not left:
            return []
        time.sleep(0.02)
    return left


def test_nothing_runs_before_the_first_worker() -> None:
    nursery = Nursery()
    assert nursery.pid is None
    nursery.close()


@pytest.mark.timing
def test_a_worker_after_the_first_starts_in_a_fraction_of_a_second(nursery: Nursery) -> None:
    begin = time.monotonic()
    worker = nursery.worker(PLACE)
    assert time.monotonic() - begin < 1.0
    worker.close()
    assert wait_until_gone([worker.pid]) == []


def test_closing_ends_every_worker_and_the_helper_and_may_be_repeated() -> None:
    nursery = Nursery()
    workers = [nursery.worker(PLACE) for _ in range(2)]
    pids = [worker.pid for worker in workers]
    assert nursery.pid is not None
    pids.append(nursery.pid)
    nursery.close()
    nursery.close()
    assert wait_until_gone(pids) == []
    assert not any(worker.alive for worker in workers)


def test_a_closed_nursery_starts_afresh_when_asked() -> None:
    nursery = Nursery()
    nursery.worker(PLACE)
    nursery.close()
    worker = nursery.worker(PLACE)
    assert worker.alive
    nursery.close()


def test_when_the_helper_is_killed_its_workers_go_and_the_next_request_starts_another() -> None:
    nursery = Nursery()
    worker = nursery.worker(PLACE)
    assert nursery.pid is not None
    os.kill(nursery.pid, signal.SIGKILL)
    assert wait_until_gone([worker.pid]) == []
    with pytest.raises(WorkerDied):
        worker.unload("a")
    again = nursery.worker(PLACE)
    assert again.alive
    nursery.close()


SCRIPT = """
import os, sys, time
from esen_lab.devices import CpuDevice
from esen_lab.workers import Nursery
nursery = Nursery()
workers = [nursery.worker(CpuDevice().place([1])[0]) for _ in range(2)]
if "fork" in sys.argv:
    if os.fork() == 0:      # a child of the notebook that inherits every open socket
        time.sleep(60)
print(nursery.pid, *[w.pid for w in workers], flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("how", ["alone", "fork"])
def test_a_sigkill_to_the_notebook_leaves_no_process(how: str, tmp_path: Path) -> None:
    before = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    parent = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, how], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 3
    parent.kill()
    parent.wait()
    try:
        assert wait_until_gone(pids) == []
        assert (set(os.listdir("/dev/shm")) if before else set()) <= before
    finally:
        parent.stdout.close()
        if how == "fork":
            os.killpg(parent.pid, signal.SIGKILL)


def test_workers_are_not_hit_by_an_interrupt_of_the_notebooks_group(nursery: Nursery) -> None:
    worker = nursery.worker(PLACE)
    assert os.getsid(worker.pid) != os.getsid(0)
    os.kill(worker.pid, signal.SIGINT)
    worker.load("a", payload(mlp()), torch.ones(1, 8))
    worker.close()


def test_a_place_that_the_system_refuses_is_a_clear_error(nursery: Nursery) -> None:
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system cannot pin")
    with pytest.raises(DeviceError, match="cores that exist"):
        nursery.worker(CpuPlacement(cores=((100_000,),), pin=True))


def test_workers_can_be_spawned_where_forking_is_not_safe() -> None:
    nursery = Nursery(start_method="spawn")
    worker = nursery.worker(PLACE, label="spawned")
    worker.load("a", payload(mlp()), torch.ones(1, 8))
    pids = [worker.pid, nursery.pid or 0]
    nursery.close()
    assert wait_until_gone(pids) == []
