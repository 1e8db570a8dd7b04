"""Runs that a lane tells step by step, and those that it stops: in a process and in a thread."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from arenas import arena_of
from in_process_doubles import InProcessDouble
from models import Held, KillsItself, MakesNan, Raises, Times, payload
from odd_writers import WRITERS, Writes

from esen_lab.devices import CpuDevice
from esen_lab.errors import ModelError, WorkerDied, WorkerError
from esen_lab.lanes import ForkServer, StepTold, ThreadWorker, Worker

X = torch.arange(32.0).reshape(4, 8) + 1


@pytest.fixture(params=["process", "thread"])
def lane(request: pytest.FixtureRequest, fork_server: ForkServer) -> Iterator[Worker]:
    lane: Worker
    if request.param == "process":
        lane = fork_server.worker(CpuDevice().place([1])[0], label="lane 1")
    else:
        lane = ThreadWorker(InProcessDouble().place([1])[0])
    yield lane
    lane.close()


def give(lane: Worker, x: torch.Tensor) -> None:
    arena = arena_of(x)
    lane.set_input(arena.layouts[0], arena.block)
    arena.close()


def loaded(lane: Worker, x: torch.Tensor = X, mode: str = "serial", **modules: torch.nn.Module) -> None:
    """Load, and run once: how outputs look is known then."""
    for name, module in modules.items():
        lane.load(name, payload(module), x[:1])
    lane.arrange(tuple(modules), mode)
    give(lane, x[:1])
    lane.start_run(1)
    wait(lane)
    assert lane.take_run(1) is not None
    give(lane, x)


def wait(lane: Worker) -> None:
    poller = select.poll()
    poller.register(lane.fileno(), select.POLLIN)
    assert poller.poll(60_000)


def told_until_over(lane: Worker) -> list[StepTold]:
    found: list[StepTold] = []
    while not (found and found[-1].over):
        wait(lane)
        found.append(lane.take_step())
    return found


def test_each_step_is_told_when_it_is_done_and_its_output_lies_there(lane: Worker) -> None:
    loaded(lane, a=Times(2.0), b=MakesNan(), c=Times(5.0))
    for number in (2, 3):
        lane.start_run(number, stepwise=True)
        told = told_until_over(lane)
        assert [(one.number, one.index, one.nan, one.over) for one in told] == [
            (number, 0, False, False),
            (number, 1, True, False),
            (number, 2, False, False),
            (number, -1, False, True),
        ]
        assert told[0].start_ns <= told[0].end_ns <= told[1].start_ns
        a, c = lane.outputs([0, 2])
        torch.testing.assert_close(a, X * 2)
        torch.testing.assert_close(c, X * 5)


def test_a_step_that_raises_is_told_and_the_others_run(lane: Worker) -> None:
    loaded(lane, raises=Raises(), a=Times(2.0))
    lane.start_run(2, stepwise=True)
    failed, done, over = told_until_over(lane)
    assert isinstance(failed.problem, ModelError)
    assert failed.failed == "raises"
    assert done.index == 1
    assert over.over
    give(lane, X[:1])
    lane.start_run(3)
    wait(lane)
    assert lane.take_run(3) is not None


def test_a_lane_that_is_told_to_stop_ends_the_step_at_hand_and_begins_no_other(lane: Worker, tmp_path: Path) -> None:
    gate, calls = tmp_path / "gate", tmp_path / "calls"
    gate.touch()
    loaded(lane, held=Held(str(gate), 1.0, str(calls)), a=Times(2.0))
    gate.unlink()
    before = len(calls.read_text().splitlines())
    lane.start_run(2, stepwise=True)
    while len(calls.read_text().splitlines()) == before:
        time.sleep(0.002)
    lane.stop_run(2)
    gate.touch()
    assert [(one.index, one.over) for one in told_until_over(lane)] == [(0, False), (-1, True)]


def test_a_stop_that_comes_too_late_stops_nothing_else(lane: Worker) -> None:
    loaded(lane, a=Times(2.0), b=Times(3.0))
    lane.start_run(2, stepwise=True)
    told_until_over(lane)
    lane.stop_run(2)
    lane.start_run(3, stepwise=True)
    assert [one.index for one in told_until_over(lane)] == [0, 1, -1]
    lane.stop_run(3)
    give(lane, X[:2])
    lane.start_run(4)
    wait(lane)
    assert lane.take_run(4) is not None or lane.take_run(4) is not None
    torch.testing.assert_close(lane.outputs()[1], X[:2] * 3)


def test_outputs_of_another_shape_lie_in_memory_of_their_own(lane: Worker) -> None:
    loaded(lane, a=Times(2.0), b=Times(3.0))
    lane.start_run(2, stepwise=True)
    wait(lane)
    first = lane.take_step()
    (view,) = lane.outputs([first.index])
    told_until_over(lane)
    torch.testing.assert_close(view, X * 2)
    give(lane, X[:3])
    lane.start_run(3, stepwise=True)
    told_until_over(lane)
    torch.testing.assert_close(view, X * 2)
    torch.testing.assert_close(lane.outputs([0])[0], X[:3] * 2)


@pytest.mark.parametrize("mode", ["threads", "vmap", "async"])
def test_modes_that_run_all_at_once_tell_all_at_the_end(lane: Worker, mode: str) -> None:
    modules = {"a": torch.nn.Linear(8, 3), "b": torch.nn.Linear(8, 3)}
    loaded(lane, mode=mode, **modules)
    lane.start_run(2, stepwise=True)
    assert [one.index for one in told_until_over(lane)] == [0, 1, -1]
    with torch.no_grad():
        torch.testing.assert_close(lane.outputs([1])[0], modules["b"](X), atol=1e-5, rtol=1e-5)


def test_what_a_lane_told_before_it_died_is_taken(fork_server: ForkServer) -> None:
    lane = fork_server.worker(CpuDevice().place([1])[0], label="lane 1")
    try:
        loaded(lane, X, a=Times(2.0), dies=KillsItself())
        give(lane, -X)
        lane.start_run(2, stepwise=True)
        wait(lane)
        told = lane.take_step()
        (view,) = lane.outputs([told.index])
        with pytest.raises(WorkerDied, match="SIGKILL"):
            lane.take_step()
        torch.testing.assert_close(view, -X * 2)
    finally:
        lane.close()


@pytest.mark.parametrize("what", sorted(WRITERS))
def test_whatever_a_sub_model_writes_into_its_socket_ends_its_worker_at_most(
    fork_server: ForkServer, what: str, tmp_path: Path
) -> None:
    before = set(os.listdir("/proc/self/fd"))
    lane = fork_server.worker(CpuDevice().place([1])[0], label="lane 1")
    try:
        with contextlib.suppress(WorkerError):
            lane.load("odd", payload(Writes(what, str(tmp_path / "unpickled"))), X, timeout_s=120)
            lane.arrange(("odd",), "serial")
            give(lane, X)
            lane.start_run(1, stepwise=True)
            for _ in range(50):
                if lane.take_step().over:
                    break
    finally:
        lane.close()
    assert not (tmp_path / "unpickled").exists()
    assert len(set(os.listdir("/proc/self/fd")) - before) <= 1


def test_a_lane_is_told_of_another_input_without_being_waited_for(lane: Worker) -> None:
    loaded(lane, a=Times(2.0), b=Times(5.0))
    for number, rows in enumerate((3, 1, 4, 9), start=2):
        x = torch.randn(rows, 8)
        arena = arena_of(x)
        lane.set_input(arena.layouts[0], arena.block, wait=False)
        lane.start_run(number, stepwise=True)
        arena.close()
        assert [one.index for one in told_until_over(lane) if one.number == number] == [0, 1, -1]
        torch.testing.assert_close(lane.outputs([0])[0], x * 2)
    give(lane, X)  # an order that is waited for, and a plain run
    lane.start_run(6)
    wait(lane)
    assert lane.take_run(6) is not None
    torch.testing.assert_close(lane.outputs()[1], X * 5)


def test_a_lane_that_could_not_take_another_input_does_not_run_the_old_one(fork_server: ForkServer) -> None:
    lane = fork_server.worker(CpuDevice().place([1])[0], label="lane 1")
    try:
        loaded(lane, a=Times(2.0))
        far = arena_of(torch.randn(4096, 8))
        lane.set_input(far.layouts[0], None, wait=False)  # it lies outside the block of before
        lane.start_run(2, stepwise=True)
        far.close()
        with pytest.raises(WorkerDied, match="could not take a new input"):
            told_until_over(lane)
        assert not lane.alive
    finally:
        lane.close()
