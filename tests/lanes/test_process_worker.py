"""A real worker process, seen from outside."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
import torch
from arenas import run_once
from models import KillsItself, Raises, Sleeper, mlp, payload
from waiting import gone

from esen_lab.errors import Cancelled, ModelError, WorkerDied, WorkerTimeout
from esen_lab.lanes import ForkServer, ProcessWorker


def test_a_worker_reports_the_limit_that_is_really_in_force(worker: ProcessWorker) -> None:
    assert worker.in_force.units == 1
    assert worker.in_force.description.endswith("1 thread")
    if hasattr(os, "sched_getaffinity"):
        assert len(os.sched_getaffinity(worker.pid)) == 1


def test_what_one_printed_before_it_raised_is_in_the_log(worker: ProcessWorker) -> None:
    with pytest.raises(ModelError) as caught:
        worker.load("picky", payload(Raises()), torch.ones(2, 8))
    assert "about to fail" in caught.value.log


def test_a_function_is_called_with_the_step_of_a_sub_model(worker: ProcessWorker) -> None:
    worker.load("a", payload(mlp()), torch.ones(1, 8))
    answer = worker.call("models:call_step", "a", timeout_s=60, times=3)
    assert answer == {"pid": worker.pid, "threads": 1}


def test_a_deadline_ends_the_worker_and_says_so(worker: ProcessWorker) -> None:
    worker.load("a", payload(mlp()), torch.ones(1, 8))
    with pytest.raises(WorkerTimeout, match="before its deadline"):
        worker.call("models:call_step", "a", timeout_s=0.1, pause_s=60)
    assert not worker.alive
    assert gone(worker.pid)
    with pytest.raises(WorkerDied, match="has ended"):
        worker.unload("a")


def test_cancelling_ends_the_worker_at_once(worker: ProcessWorker) -> None:
    worker.load("a", payload(mlp()), torch.ones(1, 8))
    stop = threading.Event()
    timer = threading.Timer(0.1, stop.set)
    timer.start()
    begin = time.monotonic()
    with pytest.raises(Cancelled):
        worker.call("models:call_step", "a", timeout_s=60, cancelled=stop, pause_s=60)
    assert time.monotonic() - begin < 30
    timer.join()
    assert gone(worker.pid)


def test_a_worker_killed_while_it_works_says_how_it_ended(worker: ProcessWorker) -> None:
    worker.load("a", payload(mlp()), torch.ones(1, 8))
    timer = threading.Timer(0.1, os.kill, (worker.pid, signal.SIGKILL))
    timer.start()
    with pytest.raises(WorkerDied, match="SIGKILL"):
        worker.call("models:call_step", "a", timeout_s=60, pause_s=60)
    timer.join()


def test_a_sub_model_that_takes_its_process_down_is_named_with_the_signal(worker: ProcessWorker) -> None:
    worker.load("fatal", payload(KillsItself()), torch.ones(1))
    worker.arrange(("fatal",), "serial")
    with pytest.raises(WorkerDied, match="SIGKILL"):
        run_once(worker, -torch.ones(1))


def test_killing_from_another_thread_frees_who_waits(worker: ProcessWorker) -> None:
    timer = threading.Timer(0.2, worker.kill)
    timer.start()
    with pytest.raises(WorkerDied):
        worker.load("slow", payload(Sleeper(60)), torch.ones(1))
    timer.join()


def test_a_sub_model_that_prints_for_ever_does_not_fill_the_disk(
    worker: ProcessWorker, fork_server: ForkServer
) -> None:
    from esen_lab.lanes import child

    assert child._LOG_LIMIT_BYTES <= 1 << 20
    worker.load("a", payload(mlp()), torch.ones(1, 8))
    worker.call("noise:print_much", "a", timeout_s=60, megabytes=3)
    for _ in range(300):
        worker.unload("nobody")
    assert worker._log is not None
    assert os.fstat(worker._log.fileno()).st_size < 1 << 20
