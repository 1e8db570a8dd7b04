"""What every lane promises, be it a process or a thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from arenas import answer_of, bring, run_once
from gates import Gate
from in_process_doubles import InProcessDouble
from models import MakesNan, Raises, mlp, payload

from esen_lab.devices import CpuDevice
from esen_lab.errors import Cancelled, ModelError, UsageError, WorkerDied, WorkerTimeout
from esen_lab.lanes import ForkServer, RunTimings, Worker
from esen_lab.lanes.arena import Block

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=["process", "thread"])
def lane(request: pytest.FixtureRequest, fork_server: ForkServer) -> Iterator[Worker]:
    device = CpuDevice() if request.param == "process" else InProcessDouble()
    worker = fork_server.worker(device.place([1])[0], label="lane 1")
    assert worker.own_process == (request.param == "process") == (worker.pid != os.getpid())
    yield worker
    worker.close()
    assert not worker.alive


def test_it_says_what_is_in_force(lane: Worker) -> None:
    assert (lane.label, lane.alive, lane.in_force.units) == ("lane 1", True, 1)


def test_a_loaded_sub_model_runs_and_its_output_is_read_in_place(lane: Worker) -> None:
    lane.load("a", payload(mlp()), X)
    before = lane.looks
    lane.arrange(("a",), "serial")
    assert not lane.has_outputs
    timings = run_once(lane, X)
    assert timings.end_ns[0] > timings.start_ns[0]
    assert lane.has_outputs
    assert lane.looks > before
    with torch.inference_mode():
        torch.testing.assert_close(lane.outputs()[0], mlp()(X))


def test_nan_crosses_as_a_flag(lane: Worker) -> None:
    lane.load("bad", payload(MakesNan()), torch.ones(1))
    lane.arrange(("bad",), "serial")
    assert run_once(lane, torch.ones(1)).nan == (True,)


def test_loading_one_that_raises_says_who_and_the_lane_stays(lane: Worker) -> None:
    with pytest.raises(ModelError, match=r"'picky' raised ValueError: a batch of one, please") as caught:
        lane.load("picky", payload(Raises()), torch.ones(2, 8))
    assert "in forward" in caught.value.worker_traceback
    assert lane.alive
    lane.load("fine", payload(mlp()), torch.ones(1, 8))


def test_a_run_that_raises_says_who_and_the_next_one_answers(lane: Worker) -> None:
    lane.load("picky", payload(Raises()), torch.ones(1, 8))
    lane.arrange(("picky",), "serial")
    bring(lane, torch.ones(2, 8))
    lane.start_run(1)
    with pytest.raises(ModelError, match="'picky' raised"):
        answer_of(lane, 1)
    run_once(lane, torch.ones(1, 8))


def test_a_function_is_called_with_the_step_of_a_sub_model(lane: Worker) -> None:
    lane.load("a", payload(mlp()), torch.ones(1, 8))
    assert lane.call("models:call_step", "a", timeout_s=60, times=3)["pid"] == lane.pid


def test_what_does_not_fit_the_lane_is_refused_and_the_lane_stays(lane: Worker) -> None:
    lane.load("a", payload(mlp()), X)
    lane.unload("a")
    with pytest.raises(UsageError, match="loaded"):
        lane.arrange(("a",), "serial")
    flag = Block.create(64)
    gpu = lane.gpu
    for ask in (gpu.keep_outputs, gpu.lend_outputs, lambda: gpu.lend_input(flag), lambda: gpu.combine(5)):
        with pytest.raises(UsageError, match="on a GPU"):
            ask()
    flag.close()
    assert lane.alive
    assert lane.graph_lane() is None


@pytest.fixture
def gate(lane: Worker, tmp_path: Path) -> Iterator[Gate]:
    """Open while the lane loads, and while it ends."""
    gate = Gate(tmp_path / "gate")
    gate.open()
    yield gate
    gate.open()


def test_a_deadline_ends_it_and_says_so(lane: Worker, gate: Gate) -> None:
    lane.load("a", payload(gate.member(1.0)), X)
    gate.close()
    with pytest.raises(WorkerTimeout, match=r"lane 1 did not run 'a'"):
        lane.call("models:call_step", "a", timeout_s=0.05)
    assert not lane.alive
    with pytest.raises(WorkerDied, match="has ended"):
        lane.unload("a")
    with pytest.raises(WorkerDied, match="has ended"):
        lane.start_run(1)


def test_cancelling_ends_it(lane: Worker, gate: Gate) -> None:
    lane.load("a", payload(gate.member(1.0)), X)
    gate.close()
    stop = threading.Event()

    def cancel() -> None:
        gate.begun()
        stop.set()

    other = threading.Thread(target=cancel)
    other.start()
    with pytest.raises(Cancelled):
        lane.call("models:call_step", "a", timeout_s=60, cancelled=stop)
    other.join()
    assert not lane.alive


def test_an_answer_to_an_abandoned_run_is_not_taken_for_the_next_ones(lane: Worker) -> None:
    lane.load("a", payload(mlp()), X)
    lane.arrange(("a",), "serial")
    run_once(lane, X)
    lane.start_run(2)
    lane.start_run(3)
    while (packed := answer_of(lane, 3)) is None:
        pass
    assert len(RunTimings.unpack(packed).start_ns) == 1


def test_closing_it_again_is_fine(lane: Worker) -> None:
    lane.close()
    lane.close()
    with pytest.raises(WorkerDied):
        lane.load("a", payload(mlp()), X)
