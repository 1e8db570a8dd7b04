"""Combining where the outputs are: on lanes of this process with a double of `torch.cuda`, computing on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from combine_doubles import combine_on_the_gpu
from cuda_doubles import CudaDouble
from in_process_doubles import InProcessDouble
from models import ByKeyword, MakesNan, mlp
from torch import nn

from esen_lab.ensemble import Ensemble, make_combine, make_submodel
from esen_lab.errors import ModelError
from esen_lab.lanes.kept_outputs import Combining
from esen_lab.planner.plan import Lane, Plan
from esen_lab.run import Executor, ForkServer
from esen_lab.run.device_combine import ON_THE_GPU, RUNS_EACH, CombineTrial

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def fork_server() -> Iterator[ForkServer]:
    made = ForkServer()
    yield made
    made.close()


Starter = Callable[..., Executor]


@pytest.fixture
def started(fork_server: ForkServer) -> Iterator[Starter]:
    """Start sub-models in two lanes, or one of a mode; the GPU is taken to be faster."""
    running: list[Executor] = []

    def start(
        example: Any = X, combine: Any = "mean", mode: str = "", cuda: CudaDouble | None = None, **modules: nn.Module
    ) -> Executor:
        submodels = tuple(make_submodel(name, module, example) for name, module in modules.items())
        names = tuple(modules)
        if mode:
            lanes: tuple[Lane, ...] = (Lane(units=2, members=names, mode=mode),)
        else:
            lanes = tuple(Lane(units=2, members=part) for part in (names[:2], names[2:]) if part)
        ensemble = Ensemble(submodels=submodels, combine=make_combine(combine))
        device = InProcessDouble(cuda=cuda or CudaDouble())
        executor = Executor.start(Plan(lanes=lanes, units=4), ensemble, device, fork_server)
        combine_on_the_gpu(executor)
        running.append(executor)
        return executor

    yield start
    for executor in running:
        executor.close()


def modules() -> dict[str, nn.Module]:
    return {"a": mlp(seed=1), "b": mlp(seed=2), "c": mlp(seed=3)}


def expected(x: torch.Tensor, rule: str = "mean") -> Any:
    with torch.inference_mode():
        return make_combine(rule)({name: module(x) for name, module in modules().items()})


# --- which way ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cpu_s", "gpu_s", "chosen"), [(0.010, 0.008, True), (0.008, 0.010, False)])
def test_both_ways_are_tried_and_the_faster_one_stays(cpu_s: float, gpu_s: float, chosen: bool) -> None:
    trial = CombineTrial()
    trial.take(9.0, on_gpu=False)  # the first call of a shape lays everything out
    took = []
    for _ in range(3 * RUNS_EACH):
        where = trial.wants_gpu
        took.append(where)
        trial.take(gpu_s if where else cpu_s, on_gpu=where)
    assert took == [False] * RUNS_EACH + [True] * RUNS_EACH + [chosen] * RUNS_EACH


def test_one_slow_call_does_not_decide() -> None:
    trial = CombineTrial()
    for jct_s in (9.0, 0.010, 0.010, 0.010):
        trial.take(jct_s, on_gpu=False)
    for jct_s in (0.008, 5.0, 0.008):
        trial.take(jct_s, on_gpu=True)
    assert trial.wants_gpu


def test_what_was_refused_is_not_tried_again() -> None:
    trial = CombineTrial()
    for _ in range(1 + RUNS_EACH):
        trial.take(0.01, on_gpu=False)
    assert trial.wants_gpu
    trial.refuse("there is a reason")
    assert not trial.wants_gpu


# --- answers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["mean", "softmax-mean", "majority", "stack"])
@pytest.mark.parametrize("mode", ["", "threads", "vmap"])
def test_every_call_answers_as_on_the_cpu_and_the_report_says_where(started: Starter, mode: str, rule: str) -> None:
    executor = started(combine=rule, mode=mode, **modules())
    for turn in range(4):
        x = torch.randn(4, 8, generator=torch.Generator().manual_seed(turn))
        ran = executor.run(x)
        output, report = ran.output, ran.report
        torch.testing.assert_close(output, expected(x, rule))
        assert (ON_THE_GPU in report.notes) == (turn > 0)
        assert report.nan == ()


def test_an_output_is_the_callers_own(started: Starter) -> None:
    executor = started(**modules())
    kept = [executor.run(X + turn).output for turn in range(4)]
    for turn, output in enumerate(kept):
        torch.testing.assert_close(output, expected(X + turn))
    assert isinstance(kept[-1], torch.Tensor)
    kept[-1].requires_grad_()


def test_trees_and_weights_go_the_same_way(started: Starter) -> None:
    first, second = ByKeyword(), ByKeyword()
    x = {"ids": torch.arange(12).reshape(3, 4) % 50}
    executor = started(x, make_combine("weighted", weights={"a": 3.0, "b": 1.0}), a=first, b=second)
    for turn in range(3):
        ran = executor.run(x)
        output, report = ran.output, ran.report
        assert (ON_THE_GPU in report.notes) == (turn > 0)
        assert isinstance(output, dict)
        with torch.inference_mode():
            torch.testing.assert_close(output["logits"], 0.75 * first(**x)["logits"] + 0.25 * second(**x)["logits"])


def test_nan_is_named_though_no_output_is_on_the_cpu(started: Starter) -> None:
    executor = started(a=mlp(outputs=8), b=mlp(outputs=8, seed=2), c=MakesNan())
    for turn in range(3):
        report = executor.run(X).report
        assert report.nan == ("c",)
        assert (ON_THE_GPU in report.notes) == (turn > 0)


def test_each_sub_models_own_output_can_be_had_in_between(started: Starter) -> None:
    executor = started(**modules())
    for turn in range(3):
        executor.run(X)
        ran = executor.run_members(X + turn)
        output, members = ran.output, ran.members
        torch.testing.assert_close(output, expected(X + turn))
        with torch.inference_mode():
            for name, module in modules().items():
                torch.testing.assert_close(members[name], module(X + turn))
    assert ON_THE_GPU in executor.run(X).report.notes


# --- changes -----------------------------------------------------------------------------------------------------


def test_another_shape_of_input_starts_on_the_cpu_again(started: Starter) -> None:
    executor = started(**modules())
    for rows in (4, 4, 9, 9, 9, 2, 2):
        x = torch.randn(rows, 8)
        torch.testing.assert_close(executor.run(x).output, expected(x))
    assert ON_THE_GPU in executor.run(x).report.notes
    report = executor.run(torch.randn(5, 8)).report
    assert ON_THE_GPU not in report.notes


def test_another_rule_takes_effect_at_once_and_is_tried_from_the_start(started: Starter) -> None:
    executor = started(**modules())
    executor.run(X)
    assert ON_THE_GPU in executor.run(X).report.notes
    executor.ensemble = Ensemble(submodels=executor.ensemble.submodels, combine=make_combine("stack"))
    for turn in range(3):
        ran = executor.run(X + turn)
        output, report = ran.output, ran.report
        torch.testing.assert_close(output, expected(X + turn, "stack"))
        assert (ON_THE_GPU in report.notes) == (turn > 0)


def test_another_order_of_the_sub_models_takes_effect_at_once(started: Starter) -> None:
    executor = started(combine="stack", **modules())
    for _ in range(3):
        executor.run(X)
    first, *rest = executor.ensemble.submodels
    executor.ensemble = Ensemble(submodels=(*rest, first), combine=executor.ensemble.combine)
    for _ in range(3):
        output = executor.run(X).output
        torch.testing.assert_close(output, expected(X, "stack").roll(-1, 0))


class KeepsPositiveRows(nn.Module):
    """Its output's shape depends on the values of its input."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"sum": x.sum(1), "rows": x[x[:, 0] > 0]}


def test_an_output_that_looks_different_from_one_call_to_the_next_is_not_lost(started: Starter) -> None:
    executor = started(a=KeepsPositiveRows(), b=KeepsPositiveRows(), c=KeepsPositiveRows())
    for seed in (0, 0, 0, 1, 1, 2, 3, 3, 3, 3):
        x = torch.randn(4, 8, generator=torch.Generator().manual_seed(seed))
        output = executor.run(x).output
        assert isinstance(output, dict)
        torch.testing.assert_close(output["sum"], x.sum(1))
        torch.testing.assert_close(output["rows"], x[x[:, 0] > 0])
    assert ON_THE_GPU in executor.run(x).report.notes


class FailsOnNegative(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x[0, 0] < 0:
            raise ValueError("positive, please")
        return x


def test_a_sub_model_that_raises_leaves_the_lanes_as_they_are(started: Starter) -> None:
    x = X.abs()
    executor = started(x, a=mlp(outputs=8), b=mlp(outputs=8), c=FailsOnNegative())
    executor.run(x)
    want = executor.run(x).output
    with pytest.raises(ModelError, match="positive, please"):
        executor.run(-x)
    ran = executor.run(x)
    output, report = ran.output, ran.report
    torch.testing.assert_close(output, want)
    assert ON_THE_GPU in report.notes


# --- where it cannot be ------------------------------------------------------------------------------------------


def test_a_function_of_the_users_is_called_in_its_own_process_with_what_it_reads_now(started: Starter) -> None:
    factor = [1.0]

    def scaled(outputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return factor[0] * torch.stack(list(outputs.values())).sum(0)

    executor = started(combine=scaled, **modules())
    for turn in range(4):
        factor[0] = float(turn)
        ran = executor.run(X)
        output, report = ran.output, ran.report
        torch.testing.assert_close(output, turn * 3 * expected(X))
        assert ON_THE_GPU not in report.notes
        assert report.notes == ()


def test_a_rule_that_answers_differently_there_costs_no_answer(
    started: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Combining.run

    def off_by_one(self: Combining) -> None:
        run(self)
        for view in self._arena.tensors[0]:
            view.add_(1)

    monkeypatch.setattr(Combining, "run", off_by_one)
    executor = started(**modules())
    for turn in range(4):
        ran = executor.run(X + turn)
        output, report = ran.output, ran.report
        torch.testing.assert_close(output, expected(X + turn))
        assert any("combined on the CPU" in note and "of the largest value" in note for note in report.notes) == (
            turn > 0
        )


def test_a_rule_that_fails_there_costs_no_answer_even_late(started: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = started(**modules())
    for _ in range(3):
        executor.run(X)
    assert ON_THE_GPU in executor.run(X).report.notes

    def out_of_memory(self: Combining) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(Combining, "run", out_of_memory)
    for turn in range(3):
        ran = executor.run(X + turn)
        output, report = ran.output, ran.report
        torch.testing.assert_close(output, expected(X + turn))
        assert any("combined on the CPU" in note and "out of memory" in note for note in report.notes)


def test_lanes_that_cannot_keep_their_outputs_send_them_all(started: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = started(**modules())

    def refuses(*_: Any) -> Any:
        raise ModelError("The function called in the worker raised CUDA out of memory")

    monkeypatch.setattr(type(executor._workers[1].gpu), "combine_outputs", refuses)
    for turn in range(3):
        ran = executor.run(X + turn)
        output, report = ran.output, ran.report
        torch.testing.assert_close(output, expected(X + turn))
        assert ON_THE_GPU not in report.notes


def test_nothing_stays_pinned_when_the_lanes_end(started: Starter) -> None:
    cuda = CudaDouble()
    executor = started(cuda=cuda, **modules())
    for _ in range(3):
        executor.run(X)
    assert ON_THE_GPU in executor.run(X).report.notes
    assert cuda.pinned
    executor.close()
    assert cuda.pinned == {}
