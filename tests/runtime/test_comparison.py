"""A plan against the usual ways, with real lanes."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from models import Sleeper, mlp
from runtime_cases import X, ensemble_of, plan_of
from torch import nn

from esen_lab.devices import CpuDevice
from esen_lab.ensemble import Ensemble
from esen_lab.errors import UsageError
from esen_lab.planning import Plan
from esen_lab.runtime import Comparison, Executor, Nursery, compare

DEVICE = CpuDevice(cores=[(0,), (0,)])


def compared(plan: Plan, ensemble: Ensemble, nursery: Nursery, x: object = X, **options: object) -> Comparison:
    return compare(x, plan, ensemble, DEVICE, nursery, **{"rounds": 6, **options})  # type: ignore[arg-type]


def test_every_strategy_runs_the_same_input_and_agrees(nursery: Nursery) -> None:
    ensemble = ensemble_of(a=mlp(seed=1), b=mlp(seed=2))
    table = compared(plan_of(("a",), ("b",)), ensemble, nursery)
    assert [row.strategy for row in table.rows] == ["sequential", "unlimited", "equal", "threads", "vmap", "plan"]
    assert all(row.agrees and not row.failed for row in table.rows)
    assert all(len(row.times_s) == 6 for row in table.rows)
    assert json.loads(json.dumps(table.to_dict())) == table.to_dict()


@pytest.mark.timing
def test_a_plan_that_wins_is_said_to_win_and_by_how_much(nursery: Nursery) -> None:
    ensemble = ensemble_of(a=Sleeper(0.08), b=Sleeper(0.08))
    table = compared(plan_of(("a",), ("b",)), ensemble, nursery, strategies=["sequential"])
    assert table.row("plan").ratio_to["sequential"] < 0.8
    assert "faster than the best baseline, sequential" in table.verdict


@pytest.mark.timing
def test_a_plan_that_loses_is_said_to_lose(nursery: Nursery) -> None:
    ensemble = ensemble_of(a=Sleeper(0.08), b=Sleeper(0.08))
    table = compared(plan_of(("a", "b"), units=2), ensemble, nursery, strategies=["unlimited"])
    assert table.row("plan").ratio_to["unlimited"] > 1.2
    assert table.verdict.startswith("The plan loses")
    assert "unlimited" in table.verdict


def test_a_strategy_that_cannot_run_says_why_and_the_others_go_on(nursery: Nursery) -> None:
    table = compared(plan_of(("a",), ("b",)), ensemble_of(a=mlp(outputs=8), b=Sleeper(0.001)), nursery)
    assert "one architecture" in table.row("vmap").failed
    assert math.isnan(table.row("vmap").median_s)
    assert not table.row("plan").failed


class Drifts(nn.Module):
    """Answers differently on every call: no two strategies can agree on it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x + self.calls


def test_outputs_that_differ_from_the_reference_void_the_speed(nursery: Nursery) -> None:
    from esen_lab.runtime.comparison import _verdict

    table = compared(plan_of(("a",)), ensemble_of(a=mlp()), nursery, strategies=["sequential"])
    wrong = replace(table.row("plan"), agrees=False, agreement="DIFFERS by 1.0e+00 (a)")
    assert "its speed does not count" in _verdict([table.rows[0], wrong], [])


def test_sub_models_that_answer_differently_each_time_are_said_to_be_beyond_checking(nursery: Nursery) -> None:
    ensemble = ensemble_of(a=Drifts(), b=mlp(outputs=8))
    table = compared(plan_of(("a",), ("b",)), ensemble, nursery, strategies=["sequential"])
    assert not table.row("sequential").agrees
    assert "does not agree with itself" in table.verdict


def test_too_few_rounds_are_said_to_be_too_few(nursery: Nursery) -> None:
    ensemble = ensemble_of(a=mlp())
    table = compared(plan_of(("a",)), ensemble, nursery, strategies=["sequential"], rounds=3)
    assert "too few" in table.verdict
    assert "inf" not in table.verdict


def test_agreement_tells_equal_close_and_different_apart() -> None:
    from esen_lab.runtime.comparison import _agreement

    want = torch.ones(3)
    nan = torch.tensor([1.0, float("nan"), 1.0])
    assert _agreement((want, {"a": want}), (want, {"a": want})) == ("bit-equal", 0.0, True)
    assert _agreement((want + 1e-7, {}), (want, {}))[2]
    text, difference, agrees = _agreement((want, {"a": want + 1}), (want, {"a": want}))
    assert (text, difference, agrees) == ("DIFFERS by 1.0e+00 (a)", 1.0, False)
    assert _agreement((nan, {}), (nan, {})) == ("bit-equal", 0.0, True)
    assert not _agreement((nan, {}), (want, {}))[2]
    assert not _agreement((torch.ones(4), {}), (want, {}))[2]
    assert not _agreement((torch.tensor([1]), {}), (torch.tensor([2]), {}))[2]


def test_the_bound_is_not_held_against_a_batch_of_another_shape(nursery: Nursery) -> None:
    plan = replace(plan_of(("a",)), jct_s=0.01, bound_s=0.01, example="float32[4, 8]")
    ensemble = ensemble_of(a=mlp())
    same = compared(plan, ensemble, nursery, strategies=["sequential"])
    other = compared(plan, ensemble, nursery, x=torch.randn(2, 8), strategies=["sequential"])
    assert same.row("plan").ratio_to_bound is not None
    assert other.row("plan").ratio_to_bound is None
    assert any("bound" in note for note in other.notes)


def test_unknown_strategies_and_zero_rounds_are_refused(nursery: Nursery) -> None:
    with pytest.raises(UsageError, match="sequential, unlimited"):
        compared(plan_of(("a",)), ensemble_of(a=mlp()), nursery, strategies=["magic"])
    with pytest.raises(UsageError, match="one round"):
        compared(plan_of(("a",)), ensemble_of(a=mlp()), nursery, rounds=0)


def test_plans_of_ones_own_are_compared_in_the_same_rounds_before_the_chosen_one(nursery: Nursery) -> None:
    ensemble = ensemble_of(a=mlp(seed=1), b=mlp(seed=2))
    other = plan_of(("b", "a"), units=2)
    table = compared(plan_of(("a",), ("b",)), ensemble, nursery, strategies=["equal"], plans={"one lane": other})
    assert [row.strategy for row in table.rows] == ["sequential", "equal", "one lane", "plan"]
    assert table.row("one lane").agrees
    assert set(table.row("plan").ratio_to) == {"sequential", "equal", "one lane"}
    with pytest.raises(UsageError, match="name that no strategy has: equal, plan"):
        compared(plan_of(("a",), ("b",)), ensemble, nursery, plans={"equal": other, "plan": other})


class FewLanes(CpuDevice):
    """A double of a device that serves three lanes at a time, as NVIDIA MPS serves 48."""

    most_lanes = 3

    def __init__(self) -> None:
        super().__init__(cores=[(0,), (0,)])


def test_more_strategies_than_the_device_has_lanes_for_are_compared_in_groups_with_the_plan_in_each(
    nursery: Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensemble = ensemble_of(a=mlp(seed=1), b=mlp(seed=2))
    most = []
    start = Executor.start

    def counted(*args: object, **kwargs: object) -> Executor:
        made = start(*args, **kwargs)  # type: ignore[arg-type]
        most.append(sum(worker.alive for worker in nursery._workers))
        return made

    monkeypatch.setattr(Executor, "start", counted)
    plan = plan_of(("a", "b"), units=2)
    strategies = ["sequential", "unlimited", "equal"]
    table = compare(X, plan, ensemble, FewLanes(), nursery, rounds=2, strategies=strategies)
    assert max(most) == 3
    assert [row.strategy for row in table.rows] == ["sequential", "unlimited", "equal", "plan"]
    assert all(row.agrees and not row.failed for row in table.rows)
    assert [len(row.times_s) for row in table.rows] == [2, 2, 2, 6]
    assert table.rounds == 2
    assert set(table.row("plan").ratio_to) == {"sequential", "unlimited", "equal"}
    assert set(table.row("equal").ratio_to) == {"plan"}, "it was never in one round with the others"
    assert any("3 groups, the plan in each" in note for note in table.notes)
    assert {worker for worker in nursery._workers if worker.alive} == set()


def test_on_a_gpu_answers_may_differ_by_what_other_kernels_explain() -> None:
    from esen_lab.runtime.comparison import _agreement

    want = torch.tensor([1.0, 100.0])
    tf32 = want + torch.tensor([0.01, 0.0])  # 1 % of the small one, 1e-4 of the largest
    assert not _agreement((tf32, {}), (want, {}))[2]
    assert _agreement((tf32, {}), (want, {}), on_gpu=True)[2]
    assert not _agreement((want * 1.01, {}), (want, {}), on_gpu=True)[2]


def test_nothing_stays_running_after_a_comparison(nursery: Nursery) -> None:
    before = set(nursery._workers)
    compared(plan_of(("a",)), ensemble_of(a=mlp()), nursery, rounds=1)
    assert nursery._workers == before
