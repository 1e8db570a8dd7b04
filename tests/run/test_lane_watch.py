"""Lanes that are waited for: one that ended unheard, beside another one, is not waited for in vain."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from models import Sleeper

from esen_lab import Lab, Plan
from esen_lab.errors import WorkerDied
from esen_lab.planner.plan import Lane
from esen_lab.run.lane_watch import LaneWatch

X = torch.ones(2, 4)


def test_a_lane_that_ended_before_it_was_listened_to_is_heard_at_once() -> None:
    read, write = os.pipe()
    try:
        living: Any = SimpleNamespace(alive=True, fileno=lambda: read, process_fd=-1, label="a")
        ended: Any = SimpleNamespace(alive=True, fileno=lambda: write, process_fd=-1, label="b")
        watch = LaneWatch([living, ended], (), cast("Any", SimpleNamespace(cut_off=False)))
        ended.alive = False
        watch.only_the_living()
        watch.pending.update((0, 1))
        assert watch.heard(10_000) == [1]
        watch.pending.discard(1)
        assert watch.heard(0) == []
    finally:
        os.close(read)
        os.close(write)


@pytest.mark.parametrize("times", [4])
def test_lanes_that_end_at_one_moment_fail_the_run_at_once_and_the_next_one_is_right(times: int) -> None:
    with Lab(device="cpu") as lab:
        for name in "ab":
            lab.register(name, Sleeper(0.3), example=X)
        lab.apply(Plan(lanes=tuple(Lane(units=1, members=(name,)) for name in "ab"), units=lab.device.units))
        for _ in range(times):
            lab.run(X)
            pids = [pid for _, pid in lab._runtime.fork_server.processes]
            killer = threading.Timer(0.1, _kill, (pids,))
            killer.start()
            began = time.monotonic()
            with pytest.raises(WorkerDied):
                lab.run(X, timeout_s=20)
            assert time.monotonic() - began < 5
            killer.join()
        assert torch.equal(lab.run(X), X * 2)


def _kill(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
