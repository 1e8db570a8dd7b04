"""Lanes in this process, run by the same executor as worker processes; the device is a double without limits."""

from __future__ import annotations

import select
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from arenas import arena_of
from cuda_doubles import CudaDouble
from gates import Gate
from in_process_doubles import InProcessDouble
from models import Draws, MakesNan, Raises, Sleeper, mlp

from esen_lab.ensemble import Ensemble, make_combine, make_submodel
from esen_lab.errors import Cancelled, DeviceError, ModelError, UsageError, WorkerDied, WorkerTimeout
from esen_lab.lanes import ForkServer, ThreadWorker
from esen_lab.planner.plan import Lane, Plan
from esen_lab.run import Executor

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


def ensemble(example: torch.Tensor = X, **modules: torch.nn.Module) -> Ensemble:
    submodels = tuple(make_submodel(name, module, example) for name, module in modules.items())
    return Ensemble(submodels=submodels, combine=make_combine("mean"))


def plan(*lanes: tuple[str, ...], mode: str = "serial") -> Plan:
    return Plan(lanes=tuple(Lane(units=1, members=lane, mode=mode) for lane in lanes), units=4)


@pytest.fixture
def helper() -> Iterator[ForkServer]:
    """A fork server that never starts its helper process."""
    fork_server = ForkServer()
    yield fork_server
    assert fork_server.pid is None
    fork_server.close()


@pytest.fixture
def device() -> InProcessDouble:
    return InProcessDouble()


def test_lanes_on_a_gpu_queue_on_the_streams_of_their_places(helper: ForkServer) -> None:
    cuda = CudaDouble()
    device = InProcessDouble(cuda=cuda)
    entered: list[object] = []
    enter = cuda.stream
    cuda.stream = lambda stream: entered.append(stream) or enter(stream)  # type: ignore[method-assign,assignment,func-returns-value]
    a, b = mlp(seed=1), mlp(seed=2)
    executor = Executor.start(plan(("a",), ("b",)), ensemble(a=a, b=b), device, helper)
    try:
        ran = executor.run(X)
        output, report = ran.output, ran.report
        with torch.inference_mode():
            torch.testing.assert_close(output, torch.stack([a(X), b(X)]).mean(0))
        assert set(map(id, entered)) == set(map(id, device.streams[:2])), "each lane on its own, and on no other"
        assert len(report.lanes) == 2
    finally:
        executor.close()
    assert sorted(device.released) == [0, 1]


@pytest.mark.parametrize("mode", ["serial", "threads"])
def test_an_executor_runs_lanes_of_this_process_and_their_answers_are_right(
    helper: ForkServer, device: InProcessDouble, mode: str
) -> None:
    a, b, c = mlp(seed=1), mlp(seed=2), mlp(seed=3)
    executor = Executor.start(plan(("a", "c"), ("b",), mode=mode), ensemble(a=a, b=b, c=c), device, helper)
    try:
        for batch in (4, 4, 2, 6):
            x = torch.randn(batch, 8)
            ran = executor.run(x)
            output, report = ran.output, ran.report
            with torch.inference_mode():
                torch.testing.assert_close(output, torch.stack([a(x), b(x), c(x)]).mean(0))
        assert [lane.in_force for lane in report.lanes] == ["a double: no limit"] * 2
        assert executor.in_force == ("a double: no limit",) * 2
    finally:
        executor.close()
    assert sorted(device.applied) == [0, 1]
    assert sorted(device.released) == [0, 1]
    with pytest.raises(WorkerDied):
        executor.run(X)


def test_lanes_run_at_the_same_time_and_the_report_shows_it(helper: ForkServer, device: InProcessDouble) -> None:
    executor = Executor.start(plan(("a",), ("b",)), ensemble(a=Sleeper(0.05), b=Sleeper(0.05)), device, helper)
    try:
        reports = [executor.run(X).report for _ in range(5)]
    finally:
        executor.close()
    best = max(reports, key=lambda report: report.overlap)  # load can only part them
    first, second = best.spans
    assert min(first.end_s, second.end_s) > max(first.start_s, second.start_s)
    assert best.overlap > 0.5


def test_a_sub_model_that_raises_is_named_and_the_lanes_stay(helper: ForkServer, device: InProcessDouble) -> None:
    executor = Executor.start(
        plan(("a",), ("bad",)), ensemble(X[:1], a=torch.nn.Identity(), bad=Raises()), device, helper
    )
    try:
        with pytest.raises(ModelError, match="'bad' raised") as caught:
            executor.run(X)
        assert "Traceback" in caught.value.worker_traceback
        executor.run(X[:1])
    finally:
        executor.close()


def asked(worker: ThreadWorker, what: str) -> None:
    """Raises what comes of it."""
    if what == "load":
        worker.load("b", payload(mlp()), X)
    worker.start_run(1, stepwise=what != "run")
    assert select.select([worker.fileno()], [], [], 5)[0]
    if what == "run":
        worker.take_run(1)
    problem = worker.take_step().problem
    assert problem is not None
    raise problem


@pytest.mark.parametrize("what", ["run", "run step by step", "load"])
def test_after_a_fault_of_the_gpu_it_is_said_that_this_process_must_be_started_anew(what: str) -> None:
    cuda = CudaDouble()
    worker = ThreadWorker(InProcessDouble(cuda=cuda).place([1])[0])
    try:
        worker.load("a", payload(mlp()), X)
        worker.arrange(("a",), "serial")
        arena = arena_of(X)
        worker.set_input(arena.layouts[0], arena.block)
        cuda.broken = True
        with pytest.raises(DeviceError, match=r"stopped serving this process.*illegal memory.*Restart the kernel"):
            asked(worker, what)
    finally:
        worker.close()


def test_not_a_number_is_reported(helper: ForkServer, device: InProcessDouble) -> None:
    executor = Executor.start(plan(("a",)), ensemble(a=MakesNan()), device, helper)
    try:
        assert executor.run(X).report.nan == ("a",)
    finally:
        executor.close()


def test_a_lane_that_cannot_be_opened_ends_the_others_and_lets_every_place_go(helper: ForkServer) -> None:
    device = InProcessDouble(refuses=frozenset({1}))
    with pytest.raises(DeviceError, match="told to refuse"):
        Executor.start(plan(("a",), ("b",), ("c",)), ensemble(a=mlp(), b=mlp(), c=mlp()), device, helper)
    assert sorted(set(device.released)) == [0, 1, 2]


def payload(module: torch.nn.Module) -> bytes:
    return make_submodel("m", module, X).payload()


def test_what_a_worker_is_asked_it_answers_on_its_own_thread(device: InProcessDouble) -> None:
    worker = ThreadWorker(device.place([2])[0], label="lane 1")
    try:
        assert (worker.alive, worker.in_force.units) == (True, 2)
        worker.load("a", payload(mlp()), X)
        found = worker.call("esen_lab.profiler.timing:measure", "a", timeout_s=60, budget_s=0.02)
        assert found is not None
        worker.unload("a")
        with pytest.raises(UsageError, match="loaded"):
            worker.arrange(("a",), "serial")
    finally:
        worker.close()
    worker.close()
    assert not worker.alive
    with pytest.raises(WorkerDied):
        worker.unload("a")


def test_a_deadline_and_a_cancellation_give_the_lane_up(device: InProcessDouble, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    gate.open()
    late = payload(gate.member(1.0))
    gate.close()
    slow = ThreadWorker(device.place([1])[0])
    with pytest.raises(WorkerTimeout, match="cannot be ended"):
        slow.load("a", late, X, timeout_s=0.05)
    assert not slow.alive
    gate.open()
    slow.close()
    cancelled = threading.Event()
    cancelled.set()
    stopped = ThreadWorker(device.place([1])[0])
    stopped.load("a", payload(mlp()), X)
    with pytest.raises(Cancelled):
        stopped.call("esen_lab.profiler.timing:measure", "a", timeout_s=60, cancelled=cancelled, budget_s=0.02)
    stopped.close()
    assert len(device.released) == 2


def test_members_that_draw_have_the_numbers_of_their_run_and_the_session_goes_on_with_its_own(
    helper: ForkServer, device: InProcessDouble
) -> None:
    members = ensemble(a=Draws(), b=Draws())
    executor = Executor.start(plan(("a",), ("b",)), replace(members, combine=make_combine("stack")), device, helper)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            first, after = executor.run(X).output, torch.rand(3)
            torch.manual_seed(1)
            again = executor.run(X).output
            assert torch.equal(again, first)
            assert torch.equal(torch.rand(3), after)
            assert not torch.equal(*first), "each draws its own"
            assert not torch.equal(executor.run(X).output, first)
    finally:
        executor.close()
