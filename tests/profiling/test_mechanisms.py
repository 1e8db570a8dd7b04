"""Eager, compiled, as a graph: run for real on the CPU where that exists, and chosen by measurement."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch
from cuda_doubles import GraphingCuda
from in_process_doubles import InProcessDouble
from models import mlp

from esen_lab.ensemble import Ensemble, make_combine, make_submodel
from esen_lab.errors import DeviceError, StoreError, UsageError
from esen_lab.planning import Lane, Plan, sequential_plan
from esen_lab.profiling.mechanisms import MechanismPoint, MechanismTable, choose, measure_mechanisms
from esen_lab.runtime import Executor, Nursery
from esen_lab.workers.mechanisms import Checked, Compiled, Graphed, why_not, wrapped

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
needs_compiler = pytest.mark.skipif(why_not("compile") != "", reason=why_not("compile"))


def point(mechanism: str, median_s: float | None) -> MechanismPoint:
    return MechanismPoint(name="a", units=1, mechanism=mechanism, median_s=median_s)


@pytest.mark.parametrize(
    ("medians", "taken"),
    [
        ({"eager": 1.0, "compile": 0.5, "graph": 0.4}, "graph"),
        ({"eager": 1.0, "compile": 0.5, "graph": None}, "compile"),
        ({"eager": 1.0, "compile": 0.99, "graph": 1.2}, "eager"),
        ({"eager": 1.0, "compile": None, "graph": None}, "eager"),
    ],
)
def test_the_fastest_is_taken_and_eager_where_nothing_is_clearly_faster(
    medians: dict[str, float | None], taken: str
) -> None:
    found = choose([point(way, median) for way, median in medians.items()])
    assert [p.mechanism for p in found if p.chosen] == [taken]


@pytest.mark.parametrize(
    ("medians", "reason"),
    [
        ({"eager": 1.0, "compile": 0.7}, "takes 30.0 % less time than eager"),
        ({"eager": 1.0, "compile": 2.0, "graph": 1.5}, "graph takes 1.50× as long"),
        ({"eager": 1.0, "compile": 0.98}, "compile takes only 2.0 % less time, too little to count"),
        ({"eager": 1.0, "compile": None, "graph": None}, "no other way could be taken"),
        ({"eager": 1.0}, "no other way was asked for"),
    ],
)
def test_what_is_taken_says_why(medians: dict[str, float | None], reason: str) -> None:
    table = MechanismTable(points=choose([point(way, median) for way, median in medians.items()]))
    assert table.reason("a") == reason
    assert reason in str(table)


def test_a_hindrance_names_the_sub_models_it_is_not_the_same_for() -> None:
    points = [
        replace(point(way, 1.0 if way == "eager" else None), name=name, why=why, chosen=way == "eager")
        for name, way, why in (
            ("a", "eager", ""),
            ("a", "compile", "it raised."),
            ("a", "graph", "no GPU"),
            ("b", "eager", ""),
            ("b", "graph", "no GPU"),
        )
    ]
    table = MechanismTable(points=tuple(points))
    assert table.hindrances == ("No compile for a: it raised.", "No graph: no GPU.")


def test_only_what_is_asked_for_is_measured_with_eager_always_among_it() -> None:
    told: list[tuple[int, int, str]] = []
    measured = [(make_submodel(name, mlp(), X), 1) for name in ("a", "b")]
    table = measure_mechanisms(
        measured,
        InProcessDouble(),
        Nursery(),
        mechanisms=("graph",),
        budget_s=0.02,
        on_progress=lambda *now: told.append(now),
    )
    assert table.ways == ("eager", "graph")
    assert told == [(0, 4, "a: eager"), (1, 4, "a: graph"), (2, 4, "b: eager"), (3, 4, "b: graph")]
    assert (table.units, table.unit) == (4, "unit")


def test_an_unknown_mechanism_is_refused_before_anything_starts() -> None:
    with pytest.raises(UsageError, match=r"one of eager, compile, graph\. Given: fast"):
        measure_mechanisms([(make_submodel("a", mlp(), X), 1)], InProcessDouble(), Nursery(), mechanisms=("fast",))


class Unrepeatable(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand(())


@needs_compiler
def test_a_way_that_answers_differently_is_left_and_says_so_in_the_wrapper_s_words() -> None:
    table = measure_mechanisms(
        [(make_submodel("a", Unrepeatable(), X), 1)],
        InProcessDouble(),
        Nursery(),
        mechanisms=("compile",),
        budget_s=0.02,
    )
    assert table.chosen == {"a": "eager"}
    (why,) = table.hindrances
    assert why.startswith("No compile: A sub-model that is compiled answers as it does eagerly. Given: ")


def test_a_missing_compiler_and_a_missing_gpu_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "C++ compiler" in why_not("compile")
    assert "NVIDIA GPUs only" in why_not("graph")
    assert why_not("graph", "cuda:0") == ""
    with pytest.raises(DeviceError, match="no-such-compiler"):
        Compiled(mlp())
    with pytest.raises(UsageError, match="eager, compile, graph"):
        wrapped(b"", "faster")


@needs_compiler
def test_a_compiled_sub_model_runs_in_a_plan_and_answers_alike() -> None:
    a, b = mlp(seed=1), mlp(seed=2)
    ensemble = Ensemble(submodels=(make_submodel("a", a, X), make_submodel("b", b, X)), combine=make_combine("mean"))
    plan = Plan(
        lanes=(
            Lane(units=1, members=("a",), mechanisms=("compile",)),
            Lane(units=1, members=("b",), mechanisms=("graph",)),
        ),
        units=4,
    )
    nursery = Nursery()
    executor = Executor.start(plan, ensemble, InProcessDouble(), nursery)
    try:
        output, report = executor.run(X)
    finally:
        executor.close()
    with torch.inference_mode():
        torch.testing.assert_close(output, (a(X) + b(X)) / 2)
    # A graph cannot be had here: the sub-model runs eagerly, and the report says so and why.
    assert any(note.startswith("b runs eagerly, not as the plan says (graph)") for note in report.notes)
    assert not any(note.startswith("a runs eagerly") for note in report.notes)


@needs_compiler
def test_every_way_is_measured_or_says_why_not() -> None:
    nursery = Nursery()
    table = measure_mechanisms([(make_submodel("a", mlp(), X), 1)], InProcessDouble(), nursery, budget_s=0.05)
    eager, compiled, graph = table.points
    assert eager.median_s is not None
    assert compiled.median_s is not None
    assert graph.median_s is None
    assert "NVIDIA GPUs only" in graph.why
    assert set(table.chosen) == {"a"}
    assert "NVIDIA GPUs only" in str(table)


class Differs(Checked):
    """A double of a mechanism that is wrong."""

    def _fast(self, looks: object, args: Any, kwargs: Any) -> Any:
        return self.module(*args, **kwargs) * 1.5


def test_a_mechanism_that_answers_differently_is_refused() -> None:
    with pytest.raises(DeviceError, match="answers as it does eagerly"):
        Differs(mlp())(X)


class GraphsDouble:
    """A double of `torch.cuda` for graphs: replaying runs the captured module again; notes what is asked."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.capturing: GraphsDouble.CUDAGraph | None = None

    class CUDAGraph:
        def __init__(self) -> None:
            self.again: Any = None

        def replay(self) -> None:
            self.again()

    class Stream:
        def synchronize(self) -> None:
            """Nothing is queued."""

    def current_stream(self) -> Any:
        return self.Stream()

    @contextlib.contextmanager
    def graph(self, graph: Any, *, stream: Any, capture_error_mode: str) -> Iterator[None]:
        assert isinstance(stream, self.Stream)
        self.calls.append(capture_error_mode)
        yield


class InPlace(torch.nn.Module):
    """Writes its answer to the same tensor each time, as a replayed graph does."""

    def __init__(self) -> None:
        super().__init__()
        self.out = torch.zeros(4, 8)
        self.runs = 0
        self.seen: Any = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.runs += 1
        self.seen = x
        return torch.mul(x, 2, out=self.out)


def test_a_graph_is_captured_once_per_shape_on_the_lanes_own_stream_and_replayed_on_copies() -> None:
    cuda, module = GraphsDouble(), InPlace()
    graphed = Graphed(module, cuda)

    class Replaying(GraphsDouble.CUDAGraph):
        def replay(self) -> None:
            module(module.captured)  # type: ignore[operator]

    cuda.CUDAGraph = Replaying  # type: ignore[misc]
    original = graphed._capture

    def capture(leaves: Any, structure: Any) -> Any:
        made = original(leaves, structure)
        module.captured = made[1][0]
        return made

    graphed._capture = capture  # type: ignore[method-assign]
    with torch.inference_mode():
        assert torch.equal(graphed(torch.ones(4, 8)), torch.full((4, 8), 2.0))
        assert torch.equal(graphed(torch.full((4, 8), 3.0)), torch.full((4, 8), 6.0))
    assert cuda.calls == ["thread_local"]
    assert module.seen is module.captured


class OneCaptureAtATime(GraphingCuda):
    """A double that refuses a second capture of the process while one is under way, as CUDA does by its device wait."""

    underway = 0

    @contextlib.contextmanager
    def graph(self, graph: Any, **options: Any) -> Iterator[None]:
        if self.underway:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.underway += 1
        time.sleep(0.05)  # the other threads come by meanwhile
        try:
            with super().graph(graph, **options):
                yield
        finally:
            self.underway -= 1


def test_lanes_of_one_process_capture_one_after_another() -> None:
    cuda = OneCaptureAtATime()
    lanes = [Graphed(mlp(seed=seed), cuda) for seed in range(4)]
    x = torch.randn(4, 8)

    def first(lane: Graphed) -> torch.Tensor:
        with torch.inference_mode():
            answer: torch.Tensor = lane(x)
            return answer.clone()

    with ThreadPoolExecutor(max_workers=4) as pool:
        answers = list(pool.map(first, lanes))
    for seed, answer in enumerate(answers):
        with torch.inference_mode():
            torch.testing.assert_close(answer, mlp(seed=seed)(x))
    assert len(cuda.graphs) == 4


def test_mechanisms_are_kept_in_plans_and_plans_without_them_still_load() -> None:
    plan = sequential_plan(("a", "b"), 4).with_mechanisms({"b": "graph"})
    assert plan.lanes[0].mechanisms == ("eager", "graph")
    assert Plan.from_dict(plan.to_dict()) == plan
    assert "b (graph)" in plan.describe()
    assert "b (graph)" in str(plan)
    plain = sequential_plan(("a", "b"), 4)
    assert "mechanisms" not in plain.to_dict()["lanes"][0]
    assert Plan.from_dict(plain.to_dict()) == plain
    damaged = plan.to_dict()
    damaged["lanes"][0]["mechanisms"] = ["eager", "magic"]
    with pytest.raises(StoreError, match="eager, compile, graph"):
        Plan.from_dict(damaged)
    with pytest.raises(UsageError, match="batched call"):
        Lane(units=1, members=("a",), mode="vmap", mechanisms=("compile",))
