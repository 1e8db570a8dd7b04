"""Plans whose lanes run groups of equal networks and parts of a batch: answers, changes, failures, reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from models import ByKeyword, Draws, Raises, mlp
from runtime_cases import X, ensemble_of, plan_of
from torch import nn

from esen_lab.common.answers import difference
from esen_lab.devices import CpuDevice
from esen_lab.ensemble import Ensemble, make_combine, make_submodel
from esen_lab.errors import ModelError, UsageError
from esen_lab.planner.plan import Plan
from esen_lab.run import Executor
from esen_lab.run.numerics import check_numerics

Start = Callable[[Plan, Ensemble], Executor]
NAMES = "abcd"


def four(combine: str = "mean") -> tuple[Ensemble, dict[str, nn.Module]]:
    modules = {name: mlp(seed=seed) for seed, name in enumerate(NAMES)}
    return ensemble_of(combine, **modules), modules


MIXED = plan_of(("a 1/2", "b+c"), ("d", "a 2/2"))


def agrees(executor: Executor, modules: dict[str, nn.Module], x: torch.Tensor) -> bool:
    answers = executor.run_members(x).members
    assert list(answers) == list(modules), "in the order of the ensemble"
    return all(difference(answers[name], module(x)).agrees for name, module in modules.items())


@pytest.mark.parametrize("rows", [4, 1, 2, 3, 33])
def test_every_sub_model_answers_as_alone_whatever_the_batch(start: Start, rows: int) -> None:
    ensemble, modules = four()
    executor = start(MIXED, ensemble)
    x = torch.randn(rows, 8)
    with torch.no_grad():
        wanted = torch.stack([module(x) for module in modules.values()]).mean(0)
    assert difference(executor.run(x).output, wanted).agrees
    assert difference(executor.run(x).output, wanted).agrees, "and again, with what the first run prepared"
    assert agrees(executor, modules, x)
    assert not executor.unlike


def test_weights_of_a_combine_rule_go_to_the_right_members(start: Start) -> None:
    ensemble, modules = four()
    weights = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4}
    ensemble = replace(ensemble, combine=make_combine("weighted", weights=weights))
    with torch.no_grad():
        wanted = sum(weights[name] * module(X) for name, module in modules.items())
    assert difference(start(MIXED, ensemble).run(X).output, wanted).agrees


def test_a_dict_by_keyword_is_split_leaf_by_leaf_and_constants_stay(start: Start) -> None:
    x = {"ids": torch.randint(0, 50, (5, 3)), "mask": torch.ones(5, 3)}
    modules = {"a": ByKeyword().eval(), "b": ByKeyword().eval()}
    executor = start(plan_of(("a 1/3",), ("a 2/3", "a 3/3", "b")), ensemble_of(example=x, combine="stack", **modules))
    answers = executor.run_members(x).members
    for name, module in modules.items():
        assert difference(answers[name], module(**x)).agrees
        assert answers[name]["cache"] is None


def test_reports_have_a_span_for_each_group_and_part(start: Start) -> None:
    report = start(MIXED, four()[0]).run(X).report
    assert [(span.name, span.lane) for span in report.spans] == [("a 1/2", 0), ("b+c", 0), ("d", 1), ("a 2/2", 1)]
    assert report.lanes[0].members == ("a 1/2", "b+c")


def test_a_member_that_changed_is_sent_again_with_its_group_alone(start: Start) -> None:
    ensemble, modules = four()
    executor = start(MIXED, ensemble)
    executor.run(X)
    pids = executor.pids
    for name in ("c", "a"):
        modules[name] = mlp(seed=10 + ord(name))
        ensemble = ensemble.with_submodel(make_submodel(name, modules[name], X))
        executor.keep_to(MIXED, ensemble)
        assert agrees(executor, modules, X)
        assert not executor.unlike
    assert executor.pids == pids, "the lanes stayed"


def test_networks_that_are_not_equal_any_more_are_no_group(start: Start) -> None:
    ensemble, _ = four()
    other = ensemble.with_submodel(make_submodel("c", mlp(seed=3, width=5), X))
    with pytest.raises(UsageError, match="one architecture"):
        start(MIXED, other)


@pytest.mark.parametrize("lanes", [("a+b",), ("a 1/2", "a 2/2", "b")])
def test_members_that_draw_random_numbers_are_neither_grouped_nor_split(start: Start, lanes: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="draws random numbers"):
        start(plan_of(lanes), ensemble_of(a=Draws(), b=Draws()))


def test_a_part_that_raises_says_which_and_the_lanes_stay_warm(start: Start) -> None:
    executor = start(plan_of(("a 1/2",), ("a 2/2",)), ensemble_of(example=X[:1], a=Raises()))
    with pytest.raises(ModelError, match=r"a [12]/2.*a batch of one"):
        executor.run(X)
    assert difference(executor.run(X[:2]).output, X[:2]).agrees
    assert not executor.broken


def test_an_input_of_tensors_with_other_lengths_is_refused_where_a_batch_is_split(start: Start) -> None:
    class Pair(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x + y[: len(x)]

    executor = start(plan_of(("a 1/2",), ("a 2/2",)), ensemble_of(example=(X, X), a=Pair()))
    with pytest.raises(ModelError, match="4 rows, 9 rows"):
        executor.run((X, torch.randn(9, 8)))


def test_checks_of_answers_name_members_and_how_they_ran(start: Start) -> None:
    ensemble, _ = four()
    executor = start(MIXED, ensemble)
    device = CpuDevice(cores=[(0,), (0,)])
    rows = check_numerics(MIXED, ensemble, device, executor._fork_server, runs=1, executor=executor).rows
    assert [(row.name, row.lane, row.backend) for row in rows] == [
        ("a", 0, "1/2 of its batch"),
        ("b", 0, "group of 2"),
        ("c", 0, "group of 2"),
        ("d", 1, "eager"),
        ("a", 1, "1/2 of its batch"),
    ]
    assert not any(row.wrong for row in rows)
