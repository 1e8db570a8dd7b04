"""Calls of a lab are bounded: the deadline is of the whole call, few may wait, and asyncio waits without blocking."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from gates import Gate
from interrupting import interrupted_once
from models import Raises, Sleeper, mlp
from torch import nn
from turn_holders import held
from waiting import until

from esen_lab import Lab, Plan
from esen_lab.errors import Busy, Cancelled, DeviceError, ModelError, UsageError, WorkerTimeout
from esen_lab.planner.plan import Lane

X = torch.ones(4, 8)
MARGIN_S = 20.0  # the machine may be busy; what is waited for does not come


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(device="cpu", store=tmp_path / "profiles.sqlite", most_waiting=3) as lab:
        yield lab


class SlowToLoad(nn.Module):
    """Is built in a lane once a file is there."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self.gate, self.home = str(gate.path), os.getpid()

    def __setstate__(self, state: dict[str, object]) -> None:
        super().__setstate__(state)
        while os.getpid() != self.home and not os.path.exists(self.gate):
            time.sleep(0.002)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 3


class Draws(nn.Module):
    """Has random numbers, so that its lane is told of settings before it runs: a run is not made twice."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 + 0 * torch.rand_like(x)


def late(call: Callable[[], object], words: str) -> float:
    """How long the call took that is to time out while it waits for that."""
    began = time.monotonic()
    with pytest.raises(WorkerTimeout, match=words):
        call()
    return time.monotonic() - began


# --- the deadline -----------------------------------------------------------------------------------------------


def test_a_run_that_waits_for_its_turn_times_out_and_breaks_nothing(lab: Lab) -> None:
    lab.register("a", Sleeper(0.01), example=X)
    lab.run(X)
    pids = lab._runtime.fork_server.processes
    with held(lab._runtime.turns, "a point of a profile"):
        assert late(lambda: lab.run(X, timeout_s=0.1), "its turn behind 1 other call") < 0.1 + MARGIN_S
    assert torch.equal(lab.run(X), X * 2)
    assert lab._runtime.fork_server.processes == pids


def test_lanes_that_start_when_a_call_times_out_go_on_and_serve_the_next_call(lab: Lab, gate: Gate) -> None:
    gate.close()
    lab.register("a", SlowToLoad(gate), example=X)
    assert late(lambda: lab.run(X, timeout_s=0.2), "its lanes, which are starting") < 0.2 + MARGIN_S
    assert late(lambda: lab.run(X, timeout_s=0.1), "waiting for lanes that start") < 0.1 + MARGIN_S
    gate.open()
    until(lambda: not lab._runtime.turns.locked)
    pids = lab._runtime.fork_server.processes
    assert len(pids) == 1
    assert torch.equal(lab.run(X, timeout_s=30), X * 3)
    assert lab._runtime.fork_server.processes == pids


def test_lanes_that_started_for_a_plan_that_was_replaced_end(lab: Lab, gate: Gate) -> None:
    gate.close()
    lab.register("a", SlowToLoad(gate), example=X)
    lab.register("b", SlowToLoad(gate))
    late(lambda: lab.run(X, timeout_s=0.2), "starting")
    gate.open()
    until(lambda: not lab._runtime.turns.locked)
    lab.plan = Plan(lanes=tuple(Lane(units=1, members=(name,)) for name in "ab"), units=lab.device.units)
    assert torch.equal(lab.run(X), X * 3)
    assert len(lab._runtime.fork_server.processes) == 2


def test_a_lane_that_is_late_at_work_is_named_and_the_next_run_is_right(lab: Lab, gate: Gate) -> None:
    lab.register("slow", gate.member(2.0), example=X)
    lab.run(X)
    gate.close()
    assert late(lambda: lab.run(X, timeout_s=1.0), "the lane of slow") < 1.0 + MARGIN_S
    gate.open()
    assert torch.equal(lab.run(X), X * 2)


@pytest.mark.parametrize("change", ["shape", "settings"])
def test_a_stopped_lane_that_is_told_something_new_does_not_outlast_the_deadline(lab: Lab, change: str) -> None:
    lab.register("a", Draws() if change == "settings" else Sleeper(0.001), example=X)
    lab.run(X)
    ((_, pid),) = lab._runtime.fork_server.processes
    os.kill(pid, signal.SIGSTOP)
    x = torch.ones(5, 8) if change == "shape" else X
    with torch.autocast("cpu") if change == "settings" else contextlib.nullcontext():
        assert late(lambda: lab.run(x, timeout_s=0.3), "lanes that take") < 0.3 + MARGIN_S
    assert torch.equal(lab.run(x), x * 2)


def test_ctrl_c_while_lanes_start_gives_them_up(lab: Lab, gate: Gate) -> None:
    gate.close()
    lab.register("a", SlowToLoad(gate), example=X)
    with interrupted_once(lambda: lab._runtime.fork_server.processes):
        lab.run(X)
    until(lambda: not lab._runtime.turns.locked)
    assert lab._runtime.fork_server.processes == ()
    assert lab._runtime.lanes.starting is not None
    assert lab._runtime.lanes.starting.executor is None


def test_a_deadline_that_is_no_time_is_refused(lab: Lab) -> None:
    lab.register("a", nn.Identity(), example=X)
    with pytest.raises(UsageError, match="above 0"):
        lab.run(X, timeout_s=0)
    with pytest.raises(UsageError, match="most_waiting"):
        Lab(device="cpu", most_waiting=0)


# --- how many wait ----------------------------------------------------------------------------------------------


def test_more_calls_than_may_wait_are_refused_and_status_and_reports_tell_of_waiting(lab: Lab) -> None:
    lab.register("a", nn.Identity(), example=X)
    lab.run(X)
    assert lab.report is not None
    assert lab.report.waited_s == 0
    threads = [threading.Thread(target=lab.run, args=(X,)) for _ in range(3)]
    with held(lab._runtime.turns, "a point of a profile"):
        for thread in threads:
            thread.start()
        until(lambda: lab.status().waiting == 3)
        with pytest.raises(Busy, match="At most 3 calls wait"):
            lab.run(X)
        with pytest.raises(Busy, match="a comparison"):
            lab.compare(X)
    for thread in threads:
        thread.join()
    assert lab.report.waited_s > 0
    assert "waiting for its turn" in str(lab.report)
    assert lab.status().waiting == 0


def test_a_run_from_inside_a_comparison_is_refused_and_waits_not_for_itself(lab: Lab) -> None:
    lab.register("a", nn.Identity(), example=X)
    with pytest.raises(UsageError, match="from inside another"):
        lab.compare(X, rounds=1, strategies=["sequential"], on_progress=lambda *_: lab.run(X))
    assert torch.equal(lab.run(X), X)


# --- asyncio ----------------------------------------------------------------------------------------------------


async def come_true(condition: Callable[[], object]) -> None:
    """Let the loop go on until it is."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.002)


def test_awaited_runs_do_not_block_the_loop_and_answer_right(lab: Lab, gate: Gate) -> None:
    lab.register("a", gate.member(2.0), example=X)
    lab.run(X)
    gate.close()

    async def main() -> list[torch.Tensor]:
        tasks = [asyncio.create_task(lab.arun(X * number)) for number in range(4)]
        await come_true(gate.has_begun)
        gate.open()  # which only a loop that goes on can do
        return await asyncio.gather(*tasks)

    assert all(torch.equal(answer, X * 2 * number) for number, answer in enumerate(asyncio.run(main())))


def test_a_cancelled_task_leaves_the_queue_at_once(lab: Lab) -> None:
    lab.register("a", nn.Identity(), example=X)

    async def main() -> None:
        with held(lab._runtime.turns, "a point of a profile"):
            tasks = [asyncio.create_task(lab.arun(X * number)) for number in range(3)]
            await come_true(lambda: lab.status().waiting == 3)
            tasks[1].cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert lab.status().waiting == 2
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await tasks[0]
            assert lab.status().waiting == 1
        assert torch.equal(await tasks[2], X * 2)

    asyncio.run(main())


def test_a_run_that_is_cancelled_at_work_leaves_its_lanes_warm_and_the_next_right(lab: Lab, gate: Gate) -> None:
    lab.register("slow", gate.member(2.0), example=X)
    lab.run(X)
    pids = lab._runtime.fork_server.processes
    gate.close()

    async def main() -> torch.Tensor:
        task = asyncio.create_task(lab.arun(X * 5))
        await come_true(gate.has_begun)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.open()
        return await lab.arun(X)

    assert torch.equal(asyncio.run(main()), X * 2)
    assert lab._runtime.fork_server.processes == pids


def test_awaited_runs_time_out_wherever_they_are(lab: Lab, gate: Gate) -> None:
    lab.register("slow", gate.member(2.0), example=X)
    lab.run(X)

    async def main() -> None:
        with held(lab._runtime.turns, "a point of a profile"), pytest.raises(WorkerTimeout, match="its turn behind"):
            await lab.arun(X, timeout_s=0.1)
        gate.close()
        with pytest.raises(WorkerTimeout, match="the lane of slow"):
            await lab.arun(X, timeout_s=1.0)
        gate.open()
        assert torch.equal(await lab.arun(X), X * 2)
        with pytest.raises(UsageError):
            await lab.arun(X, timeout_s=-1)

    asyncio.run(main())


def test_awaited_runs_raise_what_runs_raise_and_are_refused_as_runs_are(lab: Lab) -> None:
    lab.register("a", Raises(), example=X[:1])

    async def main() -> None:
        with pytest.raises(ModelError, match="a batch of one"):
            await lab.arun(X)
        with held(lab._runtime.turns, "a point of a profile"):
            tasks = [asyncio.create_task(lab.arun(X[:1])) for _ in range(3)]
            await come_true(lambda: lab.status().waiting == 3)
            with pytest.raises(Busy):
                await lab.arun(X[:1])
        await asyncio.gather(*tasks)

    asyncio.run(main())


def test_awaited_runs_compute_with_what_the_caller_has_set(lab: Lab) -> None:
    network = mlp(seed=1)
    lab.register("a", network, example=X)

    async def main() -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return await lab.arun(X)

    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = network(X)
    answer = asyncio.run(main())
    assert answer.dtype == expected.dtype
    assert torch.allclose(answer, expected)
    assert lab.run(X).dtype == torch.float32


def test_several_loops_await_the_same_lab_and_its_thread_ends_with_it(lab: Lab) -> None:
    lab.register("a", Sleeper(0.01), example=X)
    answers: dict[int, torch.Tensor] = {}

    def work(number: int) -> None:
        answers[number] = asyncio.run(lab.arun(X * number))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(answers[number], X * 2 * number) for number in range(3))
    lab.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "esen_lab awaited runs"]


def test_a_call_that_is_under_way_starts_nothing_more_once_the_lab_is_closed(lab: Lab) -> None:
    lab.register("a", mlp(), example=X)
    lab.plan = Plan(lanes=(Lane(units=1, members=("a",)),), units=1)
    begun = threading.Event()

    def told(*_: object) -> None:
        begun.set()
        until(lambda: lab._runtime.fork_server.closing is not None)

    with ThreadPoolExecutor() as pool:
        choosing = pool.submit(lab.lanes.choose_backends, backends=["eager"], on_progress=told)
        assert begun.wait(30)
        lab.close()
        with pytest.raises(Cancelled, match="The lab was closed"):
            choosing.result(30)
    assert lab._runtime.fork_server.pid is None
    assert lab.run(X).shape == (4, 3)


@pytest.mark.parametrize("awaited", [True, False], ids=["an awaited run", "lanes that start"])
def test_a_run_for_which_no_thread_can_be_started_says_so_and_the_next_one_runs(
    awaited: bool, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.register("a", mlp(), example=X)
    begin = threading.Thread.start
    refused = "esen_lab awaited runs" if awaited else "esen_lab start of lanes"

    def start(thread: threading.Thread) -> None:
        if thread.name == refused:
            raise RuntimeError("can't start new thread")
        begin(thread)

    def run() -> torch.Tensor:
        answer: torch.Tensor = asyncio.run(lab.arun(X, timeout_s=60)) if awaited else lab.run(X)
        return answer

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        with pytest.raises(DeviceError, match="ulimit -u"):
            run()
        assert lab.status().waiting == 0
    assert run().shape == lab.run(X).shape


def test_closing_the_lab_tells_those_that_wait(lab: Lab, gate: Gate) -> None:
    lab.register("a", gate.member(2.0), example=X)
    lab.run(X)
    gate.close()

    async def main() -> None:
        tasks = [asyncio.create_task(lab.arun(X)) for _ in range(3)]
        await come_true(lambda: gate.has_begun() and lab.status().waiting == 2)
        await asyncio.to_thread(lab.close)
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert any(isinstance(problem, Cancelled) for problem in found)

    asyncio.run(main())
    gate.open()
    assert torch.equal(lab.run(X), X * 2)
