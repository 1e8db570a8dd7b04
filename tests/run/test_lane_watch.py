"""Lanes that are waited for: one that ended unheard, beside another one, is not waited for in vain."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from gates import Gate

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


def test_lanes_that_end_at_one_moment_fail_the_run_at_once_and_the_next_one_is_right(tmp_path: Path) -> None:
    gates = [Gate(folder / "gate") for folder in (tmp_path / "a", tmp_path / "b")]
    with Lab(device="cpu") as lab:
        for name, gate in zip("ab", gates, strict=True):
            gate.path.parent.mkdir()
            gate.open()
            lab.register(name, gate.member(2.0), example=X)
        lab.apply(Plan(lanes=tuple(Lane(units=1, members=(name,)) for name in "ab"), units=lab.device.units))
        for _ in range(4):
            lab.run(X)
            pids = [pid for _, pid in lab._runtime.fork_server.processes]
            for gate in gates:
                gate.close()
            killer = threading.Thread(target=_kill_at_work, args=(pids, gates))
            killer.start()
            with pytest.raises(WorkerDied):  # not the deadline, at which lanes that are waited for in vain are ended
                lab.run(X, timeout_s=30)
            killer.join()
            for gate in gates:
                gate.open()
        assert torch.equal(lab.run(X), X * 2)


def _kill_at_work(pids: list[int], gates: list[Gate]) -> None:
    for gate in gates:
        gate.begun()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
