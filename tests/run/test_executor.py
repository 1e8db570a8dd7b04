"""Running a plan with real lanes."""

from __future__ import annotations

import os
import pickle
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import starting_doubles
import torch
from gates import Gate
from interrupting import interrupted_once
from models import ByKeyword, KillsItself, MakesNan, Raises, Sleeper, mlp
from runtime_cases import X, ensemble_of, plan_of
from starting_doubles import SideBySide
from torch import nn

from esen_lab.devices import CpuDevice
from esen_lab.ensemble import Ensemble, make_combine
from esen_lab.errors import DeviceError, ModelError, UsageError, WorkerDied, WorkerTimeout
from esen_lab.planner.plan import Plan
from esen_lab.run import Executor, ForkServer

Start = Callable[[Plan, Ensemble], Executor]


def test_the_combined_output_is_that_of_the_modules_themselves(start: Start) -> None:
    a, b, c = mlp(seed=1), mlp(seed=2), mlp(seed=3)
    executor = start(plan_of(("a", "c"), ("b",)), ensemble_of(a=a, b=b, c=c))
    x = torch.randn(4, 8)
    ran = executor.run(x)
    output, report = ran.output, ran.report
    with torch.inference_mode():
        torch.testing.assert_close(output, torch.stack([a(x), b(x), c(x)]).mean(0))
    assert {span.name for span in report.spans} == {"a", "b", "c"}
    assert report.jct_s > max(span.end_s for span in report.spans) > 0


def test_outputs_belong_to_the_caller_and_do_not_change_with_the_next_run(start: Start) -> None:
    executor = start(plan_of(("a",)), ensemble_of("stack", a=mlp()))
    first = executor.run(torch.ones(4, 8)).output
    kept = first.clone()
    executor.run(torch.zeros(4, 8))
    assert torch.equal(first, kept)


def test_outputs_that_a_combine_function_keeps_do_not_change_with_the_next_run(start: Start) -> None:
    kept: list[torch.Tensor] = []
    executor = start(plan_of(("a",), ("b",)), ensemble_of("stack", a=nn.ReLU(), b=nn.ReLU()))
    own = make_combine(lambda outputs: (kept.append(outputs["a"]), outputs["a"])[1])
    executor.ensemble = executor.ensemble.with_combine(own)
    for number in (1.0, 2.0, 3.0):
        executor.run(torch.full((4, 8), number))
    assert [float(output.max()) for output in kept] == [1.0, 2.0, 3.0]


def test_the_mean_stays_right_while_batches_rules_and_shapes_change(start: Start) -> None:
    a, b = mlp(seed=1), mlp(seed=2)
    executor = start(plan_of(("a",), ("b",), units=3), ensemble_of(a=a, b=b))
    kept = []
    for batch in (4, 4, 4, 2, 2, 4, 4):
        x = torch.randn(batch, 8)
        output = executor.run(x).output
        with torch.inference_mode():
            expected = (a(x) + b(x)) / 2
        torch.testing.assert_close(output, expected)
        kept.append((output, expected))
    executor.ensemble = executor.ensemble.with_combine(make_combine("stack"))
    assert executor.run(torch.ones(4, 8)).output.shape[0] == 2
    executor.ensemble = executor.ensemble.with_combine(make_combine("mean"))
    executor.run(torch.ones(4, 8))
    for output, expected in kept:
        torch.testing.assert_close(output, expected)


def test_with_a_core_to_spare_an_early_or_late_lane_is_still_waited_for(start: Start) -> None:
    class Varies(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            time.sleep(abs(float(x.flatten()[0])) % 0.1)
            return x * 2

    executor = start(plan_of(("a",), ("b",), units=3), ensemble_of(a=Varies(), b=Sleeper(0.001)))
    for seconds in (0.001, 0.02, 0.001, 0.05, 0.03):
        output = executor.run(torch.full((4, 8), seconds)).output
        torch.testing.assert_close(output, torch.full((4, 8), seconds * 2))


@pytest.mark.parametrize(("units", "while_both_work"), [(2, False), (3, True)])
def test_what_is_done_meanwhile_takes_a_core_that_is_free_or_that_a_lane_is_done_with(
    start: Start, tmp_path: Path, units: int, *, while_both_work: bool
) -> None:
    class Waits(nn.Module):
        def __init__(self, done: Path | None) -> None:
            super().__init__()
            self.done = done

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            until = time.monotonic() + 60
            while self.done is not None and not self.done.exists() and time.monotonic() < until:
                time.sleep(0.001)
            return x

    done = tmp_path / "done"
    done.touch()
    executor = start(plan_of(("a",), ("b",), units=units), ensemble_of(a=Waits(None), b=Waits(done)))
    executor.run(X)
    done.unlink()
    begun = time.monotonic()
    first = executor._groups[0].watch.pending

    def meanwhile() -> None:
        seen.append(len(first))
        done.touch()

    seen: list[int] = []
    torch.testing.assert_close(executor.run(X, meanwhile=meanwhile).output, X)
    assert seen == [2 if while_both_work else 1]
    assert time.monotonic() - begun < 60, "the slow lane waited for what was done meanwhile"


def test_an_error_meanwhile_leaves_no_lane_at_work(start: Start) -> None:
    def fails() -> None:
        raise RuntimeError("meanwhile")

    for units in (2, 3):
        executor = start(plan_of(("a",), ("b",), units=units), ensemble_of(a=Sleeper(0.001), b=Sleeper(0.05)))
        expected = executor.run(X).output
        with pytest.raises(RuntimeError, match="meanwhile"):
            executor.run(X, meanwhile=fails)
        assert not executor._groups[0].watch.pending
        torch.testing.assert_close(executor.run(X).output, expected)


@pytest.mark.timing
def test_lanes_run_at_the_same_time(start: Start) -> None:
    executor = start(plan_of(("a",), ("b",), ("c",)), ensemble_of(a=Sleeper(0.05), b=Sleeper(0.05), c=Sleeper(0.05)))
    best = min((executor.run(X).report for _ in range(4)), key=lambda report: report.jct_s)  # load can only add time
    assert best.jct_s < 0.12
    assert best.overlap > 0.5


def test_members_of_one_lane_run_one_after_another(start: Start) -> None:
    executor = start(plan_of(("a", "b")), ensemble_of(a=Sleeper(0.02), b=Sleeper(0.02)))
    report = executor.run(X).report
    assert report.jct_s > 0.04
    assert report.overlap == 0.0
    assert report.spans[0].end_s <= report.spans[1].start_s


def test_numpy_input_and_inputs_that_need_gradients_are_welcome(start: Start) -> None:
    executor = start(plan_of(("a",)), ensemble_of(a=mlp()))
    from_numpy = executor.run(np.ones((4, 8), dtype=np.float32)).output
    from_torch = executor.run(torch.ones(4, 8, requires_grad=True)).output
    assert torch.equal(from_numpy, from_torch)


def test_larger_and_smaller_batches_work_and_say_that_the_plan_was_profiled_for_another(start: Start) -> None:
    module = mlp()
    plan = Plan(lanes=plan_of(("a",)).lanes, units=1, example="float32[4, 8]", jct_s=0.001)
    executor = start(plan, ensemble_of(a=module))
    for batch in (1, 64, 4):
        x = torch.randn(batch, 8)
        ran = executor.run(x)
        output, report = ran.output, ran.report
        with torch.inference_mode():
            torch.testing.assert_close(output, module(x))
        assert any("profiled for" in note for note in report.notes) == (batch != 4)
    assert report.predicted_s == 0.001


def test_a_call_pickles_nothing_and_maps_nothing_new(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = start(plan_of(("a",), ("b",)), ensemble_of(a=mlp(), b=mlp(seed=1)))
    executor.run(X)
    maps = _shared_maps()

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a call pickled something")

    monkeypatch.setattr(pickle, "dumps", refuse)
    monkeypatch.setattr(pickle, "loads", refuse)
    for _ in range(20):
        executor.run(torch.randn(4, 8))
    assert _shared_maps() == maps


def _shared_maps() -> int:
    with open("/proc/self/maps") as maps:
        return sum("memfd:esen_lab" in line for line in maps)


def test_inputs_by_keyword_reach_each_sub_model_as_it_takes_them(start: Start) -> None:
    model = ByKeyword().eval()
    example = {"ids": torch.randint(0, 50, (2, 5)), "mask": torch.ones(2, 5)}
    executor = start(plan_of(("a",), ("b",)), ensemble_of("mean", example, a=model, b=model))
    output = executor.run(example).output
    with torch.inference_mode():
        torch.testing.assert_close(output["logits"], model(**example)["logits"])
    with pytest.raises(UsageError, match="mask"):
        executor.run({"ids": example["ids"]})
    executor.run(example)


def test_a_sub_model_that_raises_is_named_and_the_lanes_stay_warm(start: Start) -> None:
    example = torch.ones(1, 8)
    executor = start(plan_of(("picky",), ("fine",)), ensemble_of("stack", example, picky=Raises(), fine=nn.Identity()))
    pids = [worker.pid for worker in executor._workers]
    with pytest.raises(ModelError, match="'picky' raised ValueError") as caught:
        executor.run(torch.ones(2, 8))
    assert "in forward" in caught.value.worker_traceback
    output = executor.run(example).output
    assert output.shape == (2, 1, 8)
    assert [worker.pid for worker in executor._workers] == pids


def test_nan_is_reported_not_hidden(start: Start) -> None:
    executor = start(plan_of(("good",), ("bad",)), ensemble_of(good=nn.Identity(), bad=MakesNan()))
    report = executor.run(X).report
    assert report.nan == ("bad",)
    assert any("NaN" in note and "bad" in note for note in report.notes)


def test_a_lane_killed_during_a_run_is_named_and_the_executor_says_it_is_broken(start: Start) -> None:
    executor = start(
        plan_of(("fatal",), ("other",)), ensemble_of(example=X.abs(), fatal=KillsItself(), other=nn.Identity())
    )
    with pytest.raises(WorkerDied, match=r"SIGKILL.*fatal"):
        executor.run(-torch.ones(4, 8))
    assert executor.broken
    with pytest.raises(WorkerDied, match="cannot run"):
        executor.run(X)


def test_a_lane_killed_between_runs_is_noticed_at_the_next(start: Start) -> None:
    executor = start(plan_of(("a",), ("b",)), ensemble_of(a=mlp(), b=mlp()))
    os.kill(executor._workers[0].pid, signal.SIGKILL)
    with pytest.raises(WorkerDied):
        executor.run(X)
    assert executor.broken


def test_a_deadline_names_the_sub_models_that_were_late(start: Start, gate: Gate) -> None:
    executor = start(plan_of(("slow",), ("quick",)), ensemble_of(slow=gate.member(1.0), quick=nn.Identity()))
    gate.close()
    with pytest.raises(WorkerTimeout, match="slow"):
        executor.run(X, timeout_s=0.5)


def test_an_interrupt_leaves_quick_lanes_warm_and_the_next_run_right(start: Start, gate: Gate) -> None:
    executor = start(plan_of(("a",), ("b",)), ensemble_of("stack", a=gate.member(2.0), b=nn.Identity()))
    gate.close()
    with interrupted_once(gate.has_begun, then=gate.open):
        executor.run(X)
    assert not executor.broken
    output = executor.run(torch.ones(4, 8)).output
    assert torch.equal(output, torch.stack([torch.full((4, 8), 2.0), torch.ones(4, 8)]))


def test_an_interrupt_ends_lanes_that_do_not_stop(start: Start, gate: Gate) -> None:
    executor = start(plan_of(("a",)), ensemble_of(a=gate.member(1.0)))
    gate.close()
    with interrupted_once(gate.has_begun):
        executor.run(X)
    assert executor.broken


def test_several_threads_take_turns(start: Start) -> None:
    executor = start(plan_of(("a",)), ensemble_of("stack", a=nn.Identity()))
    wrong: list[float] = []

    def work(value: float) -> None:
        for _ in range(30):
            output = executor.run(torch.full((4, 8), value)).output
            if not torch.equal(output, torch.full((1, 4, 8), value)):
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(float(value),)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_plan_that_cannot_start_leaves_nothing_running(fork_server: ForkServer) -> None:
    before = set(fork_server._workers)
    ensemble = ensemble_of("stack", torch.ones(1, 8), a=mlp(), picky=RaisesInWorkers())
    with pytest.raises(ModelError, match="picky"):
        Executor.start(plan_of(("a",), ("picky",)), ensemble, CpuDevice(cores=[(0,), (0,)]), fork_server)
    assert fork_server._workers == before


class RaisesInWorkers(nn.Module):
    """Runs in the process it was made in, and nowhere else."""

    def __init__(self) -> None:
        super().__init__()
        self.home = os.getpid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if os.getpid() != self.home:
            raise RuntimeError("not at home")
        return x


def test_a_plan_for_more_units_or_other_sub_models_is_refused(fork_server: ForkServer) -> None:
    ensemble = ensemble_of(a=mlp())
    with pytest.raises(UsageError, match="'b' is in the plan only"):
        Executor.start(plan_of(("b",)), ensemble, CpuDevice(), fork_server)
    wide = Plan.from_dict({**plan_of(("a",)).to_dict(), "units": 64, "lanes": [_lane(64)]})
    with pytest.raises(UsageError, match="larger device"):
        Executor.start(wide, ensemble, CpuDevice(), fork_server)


def _lane(units: int) -> dict[str, object]:
    return {"units": units, "members": ["a"], "active_units": [units], "mode": "serial"}


@pytest.mark.timing
def test_the_overhead_over_the_slowest_lane_is_small(start: Start) -> None:
    # Sleeping sub-models overlap on any number of cores, so what is left is ours: copies, wake-ups, combining.
    names = ("a", "b", "c", "d")
    executor = start(plan_of(*((name,) for name in names)), ensemble_of(**{name: Sleeper(0.01) for name in names}))
    overheads = [executor.run(X).report.overhead_s for _ in range(50)]
    assert statistics.median(overheads) < 0.003  # ten times the goal: other work may share this machine's cores


@pytest.fixture
def knowing(monkeypatch: pytest.MonkeyPatch) -> Iterator[ForkServer]:
    """A fork server that finds the doubles."""
    monkeypatch.setenv("PYTHONPATH", str(Path(starting_doubles.__file__).parent))
    made = ForkServer()
    yield made
    made.close()


def test_processes_of_lanes_start_side_by_side(knowing: ForkServer, tmp_path: Path) -> None:
    plan, ensemble = plan_of(("a",), ("b",), ("c",)), ensemble_of(a=mlp(seed=1), b=mlp(seed=2), c=mlp(seed=3))
    executor = Executor.start(plan, ensemble, SideBySide(tmp_path), knowing)
    assert [worker.label for worker in executor._workers] == ["lane 1", "lane 2", "lane 3"]
    executor.close()


def test_one_lane_that_is_refused_ends_those_that_started_beside_it(knowing: ForkServer, tmp_path: Path) -> None:
    plan, ensemble = plan_of(("a",), ("b",), ("c",)), ensemble_of(a=mlp(seed=1), b=mlp(seed=2), c=mlp(seed=3))
    with pytest.raises(DeviceError, match="told to refuse"):
        Executor.start(plan, ensemble, SideBySide(tmp_path, refuses=1), knowing)
    assert not [worker for worker in knowing._workers if worker.alive]
