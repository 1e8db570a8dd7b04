"""Backends, chosen by measurement, and run for real on the CPU where they exist."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from in_process_doubles import InProcessDouble
from models import mlp

from esen_lab.common.units import BACKENDS
from esen_lab.ensemble import Ensemble, make_combine, make_submodel
from esen_lab.errors import UsageError
from esen_lab.lanes.backends import why_not
from esen_lab.planner.plan import Lane, Plan
from esen_lab.profiler.backends import BackendPoint, BackendTable, choose, measure_backends
from esen_lab.run import Executor, ForkServer

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
needs_compiler = pytest.mark.skipif(why_not("inductor") != "", reason=why_not("inductor"))


def point(backend: str, median_s: float | None) -> BackendPoint:
    return BackendPoint(name="a", units=1, backend=backend, median_s=median_s)


@pytest.mark.parametrize(
    ("medians", "taken"),
    [
        ({"eager": 1.0, "inductor": 0.5, "cuda-graph": 0.4}, "cuda-graph"),
        ({"eager": 1.0, "inductor": 0.5, "cuda-graph": None}, "inductor"),
        ({"eager": 1.0, "inductor": 0.99, "cuda-graph": 1.2}, "eager"),
        ({"eager": 1.0, "inductor": None, "cuda-graph": None}, "eager"),
        ({"eager": 1.0, "openvino": 0.5, "openvino@bf16": 0.2, "eager@bf16": 0.4}, "openvino@bf16"),
        ({"eager": 1.0, "openvino": 0.5, "openvino@bf16": 0.49, "eager@bf16": 0.8}, "openvino"),
        ({"eager": 1.0, "openvino": 1.1, "openvino@bf16": 0.98, "eager@bf16": None}, "eager"),
    ],
)
def test_the_fastest_is_taken_and_eager_where_nothing_is_clearly_faster(
    medians: dict[str, float | None], taken: str
) -> None:
    found = choose([point(way, median) for way, median in medians.items()])
    assert [p.backend for p in found if p.chosen] == [taken]


@pytest.mark.parametrize(
    ("medians", "reason"),
    [
        ({"eager": 1.0, "inductor": 0.7}, "takes 30.0 % less time than eager"),
        ({"eager": 1.0, "inductor": 2.0, "cuda-graph": 1.5}, "cuda-graph takes 1.50× as long"),
        ({"eager": 1.0, "inductor": 0.98}, "inductor takes only 2.0 % less time, too little to count"),
        ({"eager": 1.0, "inductor": None, "cuda-graph": None}, "no other way could be taken"),
        ({"eager": 1.0}, "no other way was asked for"),
    ],
)
def test_what_is_taken_says_why(medians: dict[str, float | None], reason: str) -> None:
    table = BackendTable(points=choose([point(way, median) for way, median in medians.items()]))
    assert table.reason("a") == reason
    assert reason in str(table)


def test_sub_models_with_other_precisions_each_are_in_one_table() -> None:
    mine = choose([point("eager", 1.0), point("openvino@bf16", 0.5)])
    others = tuple(replace(each, name="b") for each in choose([point("eager", 1.0), point("eager@bf16", 2.0)]))
    table = str(BackendTable(points=(*mine, *others)))
    assert [line.split()[0] for line in table.splitlines()[1:3]] == ["a", "b"]
    assert table.splitlines()[1].split().count("-") == 1


def test_a_hindrance_names_the_sub_models_it_is_not_the_same_for() -> None:
    points = [
        replace(point(way, 1.0 if way == "eager" else None), name=name, why=why, chosen=way == "eager")
        for name, way, why in (
            ("a", "eager", ""),
            ("a", "inductor", "it raised."),
            ("a", "cuda-graph", "no GPU"),
            ("b", "eager", ""),
            ("b", "cuda-graph", "no GPU"),
        )
    ]
    table = BackendTable(points=tuple(points))
    assert table.hindrances == ("No inductor for a: it raised.", "No cuda-graph: no GPU.")


def test_only_what_is_asked_for_is_measured_with_eager_always_among_it() -> None:
    told: list[tuple[int, int, str]] = []
    measured = [(make_submodel(name, mlp(), X), 1) for name in ("a", "b")]
    table = measure_backends(
        measured,
        InProcessDouble(),
        ForkServer(),
        backends=("cuda-graph",),
        budget_s=0.02,
        on_progress=lambda *now: told.append(now),
    )
    assert table.ways == ("eager",)
    assert {point.backend for point in table.points} == {"eager", "cuda-graph"}
    assert told == [(0, 4, "a: eager"), (1, 4, "a: cuda-graph"), (2, 4, "b: eager"), (3, 4, "b: cuda-graph")]
    assert (table.units, table.unit) == (4, "unit")


def test_an_unknown_backend_is_refused_before_anything_starts() -> None:
    with pytest.raises(UsageError, match=r"one of eager, .*\. Given: 'fast'"):
        measure_backends([(make_submodel("a", mlp(), X), 1)], InProcessDouble(), ForkServer(), backends=("fast",))


class Unrepeatable(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand(())


@needs_compiler
def test_a_way_that_answers_differently_is_left_and_says_so_in_the_wrapper_s_words() -> None:
    table = measure_backends(
        [(make_submodel("a", Unrepeatable(), X), 1)],
        InProcessDouble(),
        ForkServer(),
        backends=("inductor",),
        budget_s=0.02,
    )
    assert table.chosen == {"a": "eager"}
    (why,) = table.hindrances
    assert why.startswith("No inductor: A sub-model that inductor executes answers each call as the last one. Given: ")


@needs_compiler
def test_a_compiled_sub_model_runs_in_a_plan_and_answers_alike() -> None:
    a, b = mlp(seed=1), mlp(seed=2)
    ensemble = Ensemble(submodels=(make_submodel("a", a, X), make_submodel("b", b, X)), combine=make_combine("mean"))
    plan = Plan(
        lanes=(
            Lane(units=1, members=("a",), backends=("inductor",)),
            Lane(units=1, members=("b",), backends=("cuda-graph",)),
        ),
        units=4,
    )
    fork_server = ForkServer()
    executor = Executor.start(plan, ensemble, InProcessDouble(), fork_server)
    try:
        run = executor.run(X)
    finally:
        executor.close()
    with torch.inference_mode():
        torch.testing.assert_close(run.output, (a(X) + b(X)) / 2)
    # A graph cannot be had here: the sub-model runs eagerly, and the report says so and why.
    assert any(note.startswith("b runs eagerly, not as the plan says (cuda-graph)") for note in run.report.notes)
    assert not any(note.startswith("a runs eagerly") for note in run.report.notes)


@needs_compiler
def test_every_way_is_measured_or_says_why_not() -> None:
    fork_server = ForkServer()
    table = measure_backends([(make_submodel("a", mlp(), X), 1)], InProcessDouble(), fork_server, budget_s=0.05)
    points = table.of("a")
    assert list(points) == list(BACKENDS)
    for point in points.values():
        assert (point.median_s is None) == (point.prepare_s is None) == (point.why != "")
    assert points["eager"].median_s is not None
    assert points["inductor"].median_s is not None
    assert "NVIDIA GPUs only" in points["cuda-graph"].why
    assert "Preparing took: inductor " in str(table)
    assert set(table.chosen) == {"a"}
    assert "NVIDIA GPUs only" in str(table)
