"""A lane on a GPU, run on the CPU: `torch.cuda` is a double whose streams do everything at once."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import torch
from arenas import feed, load
from cuda_doubles import CudaDouble, StreamDouble
from models import ByKeyword, Draws, MakesNan, OverwritesInput, mlp
from torch import nn

from esen_lab.devices import CpuDevice
from esen_lab.lanes.arena import Block
from esen_lab.lanes.device_engine import DeviceEngine
from esen_lab.lanes.engine import InSubModel
from esen_lab.lanes.shared_input import FLAG_BYTES
from esen_lab.lanes.stream import Compute
from esen_lab.lanes.timings import RunTimings


@pytest.fixture
def cuda() -> CudaDouble:
    return CudaDouble()


@pytest.fixture
def engine(cuda: CudaDouble) -> DeviceEngine:
    return DeviceEngine(CpuDevice(cores=[(0,)]).place([1])[0], Compute("cpu:0", cuda=cuda))


def test_the_lane_waits_once_per_run_however_many_members_it_has(engine: DeviceEngine, cuda: CudaDouble) -> None:
    x = torch.randn(4, 8)
    first, second = mlp(seed=1), mlp(seed=2)
    load(engine, "a", first, x)
    load(engine, "b", second, x)
    engine.arrange(("b", "a"), "serial")
    arena = feed(engine, x)
    assert engine.run()[1:] == (True, True)
    arena.write(0, [x + 1])
    cuda.said.clear()
    packed, changed, grown = engine.run()
    assert (changed, grown) == (False, False)
    assert cuda.said == ["enter", "mark", "mark", "mark", "leave", "wait"]
    with torch.inference_mode():
        assert torch.equal(engine.outputs.read(0), second(x + 1))
        assert torch.equal(engine.outputs.read(1), first(x + 1))
    timings = RunTimings.unpack(packed)
    assert timings.start_ns[0] < timings.end_ns[0] == timings.start_ns[1] < timings.end_ns[1]
    assert timings.end_ns[1] <= time.perf_counter_ns()
    assert engine.last_run_s > 0


def test_input_and_outputs_are_pinned_and_let_go_before_their_memory_is(engine: DeviceEngine, cuda: CudaDouble) -> None:
    load(engine, "a", mlp(), torch.randn(1, 8))
    engine.arrange(("a",), "serial")
    arena = feed(engine, torch.randn(2, 8))
    engine.run()
    assert len(cuda.pinned) == 2
    feed(engine, torch.randn(4096, 8), arena)
    engine.run()
    assert len(cuda.pinned) == 2
    assert arena.block is not None
    assert cuda.pinned[arena.block.address] == arena.block.size
    engine.close()
    assert cuda.pinned == {}


def test_memory_that_cannot_be_pinned_is_used_all_the_same(engine: DeviceEngine, cuda: CudaDouble) -> None:
    cuda.refuses_to_pin = True
    load(engine, "a", mlp(), torch.randn(1, 8))
    engine.arrange(("a",), "serial")
    x = torch.randn(2, 8)
    feed(engine, x)
    engine.run()
    with torch.inference_mode():
        assert torch.equal(engine.outputs.read(0), mlp()(x))


def test_threads_of_a_lane_compute_on_streams_of_its_own_share(cuda: CudaDouble) -> None:
    made: list[StreamDouble] = []

    def more() -> StreamDouble:
        made.append(StreamDouble(cuda))
        return made[-1]

    engine = DeviceEngine(CpuDevice(cores=[(0,)]).place([1])[0], Compute("cpu:0", cuda=cuda, more=more))
    x = torch.randn(4, 8)
    for name in "ab":
        load(engine, name, mlp(), x)
    engine.arrange(("a", "b"), "threads")
    assert [branch.stream for branch in engine._branches] == made
    assert len(made) == 2
    engine.close()


@pytest.mark.parametrize("mode", ["threads", "vmap"])
def test_the_other_modes_give_the_same_answers(mode: str, engine: DeviceEngine, cuda: CudaDouble) -> None:
    x = torch.randn(4, 8)
    networks = [mlp(seed=seed) for seed in range(3)]
    for number, network in enumerate(networks):
        load(engine, f"m{number}", network, x)
    engine.arrange(("m0", "m1", "m2"), mode)
    feed(engine, x)
    for _ in range(2):
        timings = RunTimings.unpack(engine.run()[0])
        for index, network in enumerate(networks):
            with torch.inference_mode():
                torch.testing.assert_close(engine.outputs.read(index), network(x))
    assert all(start < end for start, end in zip(timings.start_ns, timings.end_ns, strict=True))
    assert ("wait for event" in cuda.said) == (mode == "threads")
    engine.arrange(("m0",), "serial")


def test_members_take_their_own_part_and_may_overwrite_it(engine: DeviceEngine) -> None:
    x = torch.zeros(2, 8)
    load(engine, "careless", OverwritesInput(), x)
    load(engine, "plain", mlp(), x)
    engine.arrange(("careless", "plain"), "serial")
    feed(engine, x)
    engine.run()
    with torch.inference_mode():
        assert torch.equal(engine.outputs.read(1), mlp()(x))


class WritesIntoFloats(nn.Module):
    """An example of half precision does not show that it writes into others."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float().add_(1).sum(1)


@pytest.mark.parametrize("mode", ["serial", "threads"])
def test_a_member_that_writes_into_inputs_of_some_dtypes_alone_changes_nothing_that_others_read(
    mode: str, engine: DeviceEngine
) -> None:
    load(engine, "careless", WritesIntoFloats(), torch.zeros(2, 8, dtype=torch.float16))
    load(engine, "plain", mlp(), torch.zeros(2, 8))
    engine.arrange(("careless", "plain"), mode)
    for rows in (2, 2, 3):
        x = torch.randn(rows, 8)
        feed(engine, x)
        for _ in range(2):
            engine.run()
            with torch.inference_mode():
                assert torch.equal(engine.outputs.read(0), (x + 1).sum(1))
                assert torch.equal(engine.outputs.read(1), mlp()(x))
    assert [member.overwrites_input for member in engine._arrangement] == [True, False]
    engine.arrange(("plain",), "serial")


def test_only_the_first_input_of_a_look_is_copied_for_each_member(
    engine: DeviceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(engine, "a", mlp(), torch.zeros(2, 8))
    engine.arrange(("a",), "serial")
    feed(engine, torch.randn(2, 8))
    engine.run()
    monkeypatch.setattr("esen_lab.lanes.engine._copy_of", lambda tree: pytest.fail("copied again"))
    engine.run()


class Slopes(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        given = x.detach().requires_grad_()
        (found,) = torch.autograd.grad((given**3).sum(), given, create_graph=True)
        return found


def test_a_member_that_computes_gradients_does_so_beside_one_that_does_not(engine: DeviceEngine) -> None:
    x = torch.randn(2, 8)
    load(engine, "slopes", Slopes(), x, grad="on")
    load(engine, "plain", mlp(), x)
    engine.arrange(("slopes", "plain"), "serial")
    feed(engine, x)
    for _ in range(2):
        engine.run()
        torch.testing.assert_close(engine.outputs.read(0), 3 * x**2)
    assert not engine.outputs.read(0).requires_grad


def test_a_member_that_draws_has_the_numbers_of_the_run_wherever_its_lane_is(engine: DeviceEngine) -> None:
    load(engine, "a", Draws(), torch.zeros(2, 8), random=True)
    engine.arrange(("a",), "serial")
    feed(engine, torch.zeros(2, 8))
    found = []
    for seed in (1, 2, 1):
        engine.seed = seed
        engine.run()
        found.append(engine.outputs.read(0).clone())
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])


class DrawsForMany(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.rand_like(x) if len(x) > 2 else x


def test_a_member_that_is_seen_to_draw_says_so_and_is_given_numbers_from_then_on(engine: DeviceEngine) -> None:
    load(engine, "a", DrawsForMany(), torch.zeros(2, 8))
    engine.own_process = True
    engine.arrange(("a",), "serial")
    feed(engine, torch.zeros(2, 8))
    assert RunTimings.unpack(engine.run()[0]).drew == (False,)
    feed(engine, torch.zeros(3, 8))
    assert RunTimings.unpack(engine.run()[0]).drew == (True,)
    found = []
    for _ in range(2):
        engine.seed = 7
        engine.run()
        found.append(engine.outputs.read(0).clone())
    assert torch.equal(*found)


def test_keywords_reach_their_member(engine: DeviceEngine) -> None:
    example = {"ids": torch.tensor([[1, 2], [3, 4]])}
    network = ByKeyword()
    load(engine, "k", network, example)
    engine.arrange(("k",), "serial")
    feed(engine, example)
    engine.run()
    with torch.inference_mode():
        torch.testing.assert_close(engine.outputs.read(0), network(**example))


def test_nan_is_seen_on_the_way_back(engine: DeviceEngine) -> None:
    load(engine, "n", MakesNan(), torch.ones(2, 2))
    engine.arrange(("n",), "serial")
    feed(engine, torch.ones(2, 2))
    for _ in range(2):
        assert RunTimings.unpack(engine.run()[0]).nan == (True,)


def test_a_fault_of_the_gpu_is_known_from_an_error_of_the_sub_model(engine: DeviceEngine, cuda: CudaDouble) -> None:
    load(engine, "a", mlp(), torch.randn(1, 8))
    load(engine, "b", mlp(), torch.randn(1, 8))
    engine.arrange(("a", "b"), "serial")
    feed(engine, torch.randn(2, 8))
    feed(engine, torch.randn(2, 7))
    with pytest.raises(InSubModel, match="a"):
        engine.run()
    assert not engine.lost()
    feed(engine, torch.randn(2, 8))
    cuda.broken = True
    with pytest.raises(InSubModel, match="a or b"):
        engine.run()
    assert engine.lost()
    engine.close()


def test_a_step_is_a_run_with_the_gpus_own_time_and_memory(engine: DeviceEngine, cuda: CudaDouble) -> None:
    load(engine, "a", mlp(), torch.randn(3, 8))
    found = engine.call("test_device_engine:look_at", "a", {})
    assert found["device_s"] > 0
    assert found["growth"] == 500
    assert "new peak" in cuda.said
    engine.unload("a")
    assert cuda.said[-1] == "give back"


def test_a_borrowing_lane_runs_on_what_the_lender_brought_for_the_same_call(cuda: CudaDouble) -> None:
    place = CpuDevice(cores=[(0,)]).place([1])[0]
    lender, borrower = (DeviceEngine(place, Compute("cpu:0", cuda=cuda)) for _ in range(2))
    flag = Block.create(FLAG_BYTES)
    for engine in (lender, borrower):
        load(engine, "a", mlp(), torch.zeros(2, 8))
        engine.arrange(("a",), "serial")
        feed(engine, torch.zeros(2, 8))
    borrower.borrow_input(lender.lend_input(flag), flag)
    for number in (1, 2):
        x = torch.full((2, 8), float(number))
        lender._host[0].copy_(x)
        lender.number = borrower.number = number
        thread = threading.Thread(target=borrower.run)
        thread.start()
        thread.join(0.05)
        assert thread.is_alive(), "the input of this call has not been brought yet"
        lender.run()
        thread.join(60)
        with torch.inference_mode():
            assert torch.equal(borrower.outputs.read(0), mlp()(x))
    lender.close()
    borrower.close()


def look_at(step: Any) -> dict[str, Any]:
    step()
    step.meter.start()
    step()
    meter = step.meter
    meter.start()
    return {"device_s": step.device_s, "growth": meter.stop()}


class Forces(nn.Module):
    """The gradient of an energy by its input: 2x."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.detach().requires_grad_()
        return torch.autograd.grad((x * x).sum(), x)[0]


@pytest.mark.parametrize("mode", ["serial", "threads"])
def test_a_member_that_computes_gradients_is_called_so_here_too(engine: DeviceEngine, mode: str) -> None:
    x = torch.randn(2, 8)
    load(engine, "f", Forces(), x, grad="on")
    engine.arrange(("f",), mode)
    feed(engine, x)
    for _ in range(2):
        engine.run()
        assert torch.equal(engine.outputs.read(0), 2 * x)
    engine.arrange(("f",), "serial")
