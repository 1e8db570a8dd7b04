"""What sub-models start ends with their worker, and the end of a worker is seen whoever holds its socket."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch
from models import payload
from starters import Starts
from waiting import until

from esen_lab.devices import CpuDevice
from esen_lab.errors import WorkerDied
from esen_lab.lanes import ForkServer, ProcessWorker

linux = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="only Linux has descriptors of processes")


def started(worker: ProcessWorker, how: str, where: Path) -> list[int]:
    worker.load("starts", payload(Starts(how, str(where))), torch.ones(1), timeout_s=60)
    until(lambda: os.listdir(where))
    return [int(name) for name in os.listdir(where)]


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until_gone(pids: list[int]) -> None:
    until(lambda: not any(_runs(pid) for pid in pids))


@linux
@pytest.mark.parametrize("how", ["fork", "daemon", "subprocess", "pool", "loader"])
def test_what_a_sub_model_starts_ends_with_its_worker(worker: ProcessWorker, how: str, tmp_path: Path) -> None:
    pids = started(worker, how, tmp_path)
    worker.close()
    wait_until_gone(pids)


@linux
@pytest.mark.parametrize("how", ["fork", "daemon"])
def test_a_killed_worker_is_seen_at_once_though_its_child_holds_the_socket(
    worker: ProcessWorker, how: str, tmp_path: Path
) -> None:
    pids = started(worker, how, tmp_path)
    timer = threading.Timer(0.2, os.kill, (worker.pid, signal.SIGKILL))
    timer.start()
    begin = time.monotonic()
    with pytest.raises(WorkerDied, match="SIGKILL"):
        worker.call("models:call_step", "starts", timeout_s=60, pause_s=60)
    assert time.monotonic() - begin < 30
    timer.join()
    wait_until_gone(pids)


@linux
def test_what_is_left_when_the_helper_is_killed_ends_with_its_closing(tmp_path: Path) -> None:
    fork_server = ForkServer()
    try:
        worker = fork_server.worker(CpuDevice().place([1])[0])
        assert isinstance(worker, ProcessWorker)
        pids = started(worker, "daemon", tmp_path)
        assert fork_server.pid is not None
        os.kill(fork_server.pid, signal.SIGKILL)
    finally:
        fork_server.close()
    wait_until_gone(pids)
