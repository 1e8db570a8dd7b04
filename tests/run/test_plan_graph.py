"""A plan as one graph in the executor, on lanes of this process and a `torch.cuda` double that records and replays."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import pytest
import torch
from cuda_doubles import GraphingCuda, StreamDouble
from in_process_doubles import InProcessDouble
from models import MakesNan, mlp
from torch import nn

from esen_lab.ensemble import Ensemble, make_combine, make_submodel
from esen_lab.errors import DeviceError, WorkerTimeout
from esen_lab.planner.plan import Lane, Plan
from esen_lab.run import Executor, ForkServer
from esen_lab.run.graph_runner import AS_ONE_GRAPH
from esen_lab.run.plan_graph import MOST_GRAPHS

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> GraphingCuda:
    made = GraphingCuda()
    for name in ("CUDAGraph", "graph", "current_stream"):  # what a single sub-model is captured with
        monkeypatch.setattr(torch.cuda, name, getattr(made, name))
    return made


@pytest.fixture
def fork_server() -> Iterator[ForkServer]:
    made = ForkServer()
    yield made
    made.close()


def started(cuda: GraphingCuda, fork_server: ForkServer, combine: object = "mean", **modules: nn.Module) -> Executor:
    submodels = tuple(make_submodel(name, module, X) for name, module in modules.items())
    names = list(modules)
    lanes = tuple(
        Lane(units=2, members=tuple(members), backends=("cuda-graph",) * len(members))
        for members in (names[:2], names[2:])
        if members
    )
    ensemble = Ensemble(submodels=submodels, combine=make_combine(combine))
    return Executor.start(Plan(lanes=lanes, units=4), ensemble, InProcessDouble(cuda=cuda), fork_server)


def modules() -> dict[str, nn.Module]:
    return {"a": mlp(seed=1), "b": mlp(seed=2), "c": mlp(seed=3)}


def expected(x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return torch.stack([module(x) for module in modules().values()]).mean(0)


def test_runs_are_replays_of_one_graph_that_answers_for_every_input(
    cuda: GraphingCuda, fork_server: ForkServer
) -> None:
    executor = started(cuda, fork_server, **modules())
    whole = cuda.graphs[-1]
    replays = whole.replays
    for seed in range(3):
        x = torch.randn(4, 8, generator=torch.Generator().manual_seed(seed))
        ran = executor.run(x)
        output, report = ran.output, ran.report
        torch.testing.assert_close(output, expected(x))
        assert AS_ONE_GRAPH in report.notes
        assert [span.name for span in report.spans] == ["a", "b", "c"]
        assert all(0 < span.start_s <= span.end_s <= report.jct_s for span in report.spans)
    assert whole.replays == replays + 3
    executor.close()


def yardstick() -> float:
    """How long this machine takes now for ten small operations of torch, each with its own tensors: seconds."""
    began = time.perf_counter()
    for number in range(10):
        (X + number).sum()
    return time.perf_counter() - began


@pytest.mark.timing
def test_what_this_process_does_around_a_replay_takes_as_long_as_few_small_operations(
    cuda: GraphingCuda, fork_server: ForkServer
) -> None:
    executor = started(cuda, fork_server, **modules())
    cuda.graphs[-1].steps.clear()  # a replay that does nothing, by a double that takes no time
    took, measures = [], []
    for _ in range(600):
        cuda.said.clear()
        began = time.perf_counter()
        executor.run(X)
        took.append(time.perf_counter() - began)
        measures.append(yardstick())
    # 1.3 with and without a machine that is busy, 20 microseconds where nothing else runs; 3 when reports were early.
    assert statistics.median(took[100:]) < 2 * statistics.median(measures[100:])
    executor.close()


def test_an_output_is_the_callers_own(cuda: GraphingCuda, fork_server: ForkServer) -> None:
    executor = started(cuda, fork_server, **modules())
    first = executor.run(X).output
    assert isinstance(first, torch.Tensor)
    kept = first.clone()
    executor.run(X + 1)
    assert torch.equal(first, kept)
    first.requires_grad_()
    executor.close()


def test_another_shape_or_rule_runs_in_lanes_once_and_then_as_its_own_graph(
    cuda: GraphingCuda, fork_server: ForkServer
) -> None:
    executor = started(cuda, fork_server, **modules())
    wide = torch.randn(9, 8)
    for turn in range(2):
        ran = executor.run(wide)
        output, report = ran.output, ran.report
        torch.testing.assert_close(output, expected(wide))
        assert (AS_ONE_GRAPH in report.notes) == (turn == 1)
    executor.ensemble = Ensemble(submodels=executor.ensemble.submodels, combine=make_combine("stack"))
    for turn in range(2):
        ran = executor.run(X)
        output, report = ran.output, ran.report
        assert isinstance(output, torch.Tensor)
        assert output.shape == (3, *expected(X).shape)
        assert (AS_ONE_GRAPH in report.notes) == (turn == 1)
    assert executor._graph is not None
    for rows in range(10, 10 + 2 * MOST_GRAPHS):
        executor.run(torch.randn(rows, 8))
    assert len(executor._graph.graphs._kept) == MOST_GRAPHS
    executor.close()
    assert executor._graph.graphs._kept == [], "before the streams that they were captured on"


def test_each_sub_models_own_output_can_still_be_had(cuda: GraphingCuda, fork_server: ForkServer) -> None:
    executor = started(cuda, fork_server, **modules())
    members = executor.run_members(X).members
    with torch.inference_mode():
        torch.testing.assert_close(members["b"], modules()["b"](X))
    executor.close()


def test_nan_is_reported_with_its_sub_model(cuda: GraphingCuda, fork_server: ForkServer) -> None:
    executor = started(cuda, fork_server, a=mlp(outputs=8), b=MakesNan())
    report = executor.run(X).report
    assert AS_ONE_GRAPH in report.notes
    assert report.nan == ("b",)
    executor.close()


def test_a_function_of_the_users_may_look_at_values_and_reads_what_they_change(
    cuda: GraphingCuda, fork_server: ForkServer
) -> None:
    factor = [1.0]

    def best(outputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return factor[0] * max(outputs.values(), key=lambda output: float(output.sum()))

    executor = started(cuda, fork_server, combine=best, **modules())
    for turn in range(3):
        factor[0] = 1.0 + turn
        ran = executor.run(X + turn)
        output, report = ran.output, ran.report
        assert AS_ONE_GRAPH in report.notes, "the sub-models are replayed, the function is called"
        with torch.inference_mode():
            wanted = best({name: module(X + turn) for name, module in modules().items()})
        torch.testing.assert_close(output, wanted)
    executor.close()


def test_outputs_are_combined_in_the_order_of_the_ensemble_whatever_the_lanes(
    cuda: GraphingCuda, fork_server: ForkServer
) -> None:
    submodels = tuple(make_submodel(name, module, X) for name, module in modules().items())
    weighted = make_combine("weighted", weights=[0.7, 0.2, 0.1])
    lanes = (
        Lane(units=2, members=("c",), backends=("cuda-graph",)),
        Lane(units=2, members=("b", "a"), backends=("cuda-graph", "cuda-graph")),
    )
    executor = Executor.start(
        Plan(lanes=lanes, units=4),
        Ensemble(submodels=submodels, combine=weighted),
        InProcessDouble(cuda=cuda),
        fork_server,
    )
    ran = executor.run(X)
    output, report = ran.output, ran.report
    assert AS_ONE_GRAPH in report.notes
    with torch.inference_mode():
        torch.testing.assert_close(output, weighted({name: module(X) for name, module in modules().items()}))
    turned = Ensemble(submodels=submodels[::-1], combine=weighted)
    executor.ensemble = turned
    for _ in range(2):
        ran = executor.run(X)
        output, report = ran.output, ran.report
        with torch.inference_mode():
            wanted = weighted({name: modules()[name](X) for name in turned.names})
        torch.testing.assert_close(output, wanted)
    assert AS_ONE_GRAPH in report.notes
    executor.close()


def test_whatever_keeps_a_graph_from_being_made_costs_no_answer(
    cuda: GraphingCuda, fork_server: ForkServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = started(cuda, fork_server, **modules())

    def full(device: object = None) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(cuda, "synchronize", full)
    wide = torch.randn(9, 8)
    ran = executor.run(wide)
    output, report = ran.output, ran.report
    torch.testing.assert_close(output, expected(wide))
    assert "Not as one graph: OutOfMemoryError: CUDA out of memory" in report.notes
    executor.close()


def test_a_graph_that_answers_otherwise_than_the_lanes_is_not_used(cuda: GraphingCuda, fork_server: ForkServer) -> None:
    executor = started(cuda, fork_server, a=mlp(outputs=8), b=mlp(outputs=8, seed=2))
    assert executor._graph is not None
    why = executor._graph.graphs.make(executor.ensemble, X, torch.zeros(4, 8), 10.0)
    assert "answers differently" in why
    executor.close()


def test_a_plan_with_an_eager_sub_model_is_no_graph(cuda: GraphingCuda, fork_server: ForkServer) -> None:
    lanes = (Lane(units=2, members=("a",), backends=("cuda-graph",)), Lane(units=2, members=("b",)))
    submodels = (make_submodel("a", mlp(), X), make_submodel("b", mlp(seed=2), X))
    ensemble = Ensemble(submodels=submodels, combine=make_combine("mean"))
    executor = Executor.start(Plan(lanes=lanes, units=4), ensemble, InProcessDouble(cuda=cuda), fork_server)
    assert executor._graph is None
    executor.close()


def test_a_replay_that_fails_breaks_the_executor_and_says_so(cuda: GraphingCuda, fork_server: ForkServer) -> None:
    executor = started(cuda, fork_server, **modules())
    cuda.graphs[-1].breaks = "CUDA error: an illegal memory access was encountered"
    with pytest.raises(DeviceError, match="illegal memory access"):
        executor.run(X)
    assert executor.broken == "its graph failed on the GPU"
    executor.close()


def test_a_replay_that_does_not_end_keeps_to_the_deadline_and_breaks_the_executor(
    cuda: GraphingCuda, fork_server: ForkServer
) -> None:
    executor = started(cuda, fork_server, **modules())
    cuda.hangs = True
    with pytest.raises(WorkerTimeout, match=r"answers within \d+(\.\d+)? ms"):
        executor.run(X, timeout_s=0.5)
    assert executor.broken == "its graph did not answer in time"
    executor.close()


@pytest.mark.parametrize("ends", [True, False])
def test_an_interrupt_is_seen_while_the_gpu_is_at_work_and_lanes_that_end_stay_warm(
    cuda: GraphingCuda, fork_server: ForkServer, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    executor = started(cuda, fork_server, **modules())
    monkeypatch.setattr("esen_lab.run.graph_runner.SETTLE_S", 0.01)
    answer, first = StreamDouble.query, []

    def interrupted(stream: StreamDouble) -> bool:
        if not first:
            first.append(stream)
            raise KeyboardInterrupt
        return answer(stream)

    monkeypatch.setattr(StreamDouble, "query", interrupted)
    cuda.hangs = not ends
    with pytest.raises(KeyboardInterrupt):
        executor.run(X)
    assert bool(executor.broken) != ends
    if ends:
        torch.testing.assert_close(executor.run(X + 1).output, expected(X + 1))
    executor.close()


def test_what_is_to_be_done_meanwhile_is_done_once_by_lanes_and_by_their_graph(
    cuda: GraphingCuda, fork_server: ForkServer
) -> None:
    executor = started(cuda, fork_server, **modules())
    done: list[int] = []
    wide = torch.randn(9, 8)
    for expected_note in (False, True):  # the first one of a shape runs lane by lane
        ran = executor.run(wide, meanwhile=lambda: done.append(1))
        torch.testing.assert_close(ran.output, expected(wide))
        assert (AS_ONE_GRAPH in ran.report.notes) == expected_note
    assert len(done) == 2
    executor.close()
