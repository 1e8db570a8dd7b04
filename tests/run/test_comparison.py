"""A plan against the usual ways, with real lanes."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from models import Sleeper, mlp
from runtime_cases import X, ensemble_of, plan_of
from torch import nn

from esen_lab.common.answers import OTHER_ORDER, TOLERANCE
from esen_lab.devices import CpuDevice
from esen_lab.ensemble import Ensemble
from esen_lab.errors import UsageError
from esen_lab.planner.plan import Plan, sequential_plan
from esen_lab.run import Comparison, Executor, ForkServer, MemberRun, compare, side_by_side
from esen_lab.run.verdict import Agreement, agreement, row_of, verdict

DEVICE = CpuDevice(cores=[(0,), (0,)])


def compared(plan: Plan, ensemble: Ensemble, fork_server: ForkServer, x: object = X, **options: object) -> Comparison:
    return compare(x, plan, ensemble, DEVICE, fork_server, **{"rounds": 6, **options})  # type: ignore[arg-type]


def test_every_strategy_runs_the_same_input_and_agrees(fork_server: ForkServer) -> None:
    ensemble = ensemble_of(a=mlp(seed=1), b=mlp(seed=2))
    table = compared(plan_of(("a",), ("b",)), ensemble, fork_server)
    assert [row.strategy for row in table.rows] == ["sequential", "unlimited", "equal", "threads", "vmap", "plan"]
    assert all(row.agrees and not row.failed for row in table.rows)
    assert all(len(row.times_s) == 6 for row in table.rows)
    assert json.loads(json.dumps(table.to_dict())) == table.to_dict()


@pytest.mark.timing
def test_a_plan_that_wins_is_said_to_win_and_by_how_much(fork_server: ForkServer) -> None:
    ensemble = ensemble_of(a=Sleeper(0.08), b=Sleeper(0.08))
    table = compared(plan_of(("a",), ("b",)), ensemble, fork_server, strategies=["sequential"])
    assert table.row("plan").ratio_to["sequential"] < 0.8
    assert "faster than the best baseline, sequential" in table.verdict


@pytest.mark.timing
def test_a_plan_that_loses_is_said_to_lose(fork_server: ForkServer) -> None:
    ensemble = ensemble_of(a=Sleeper(0.08), b=Sleeper(0.08))
    table = compared(plan_of(("a", "b"), units=2), ensemble, fork_server, strategies=["unlimited"])
    assert table.row("plan").ratio_to["unlimited"] > 1.2
    assert table.verdict.startswith("The plan loses")
    assert "unlimited" in table.verdict


def test_a_strategy_that_cannot_run_says_why_and_the_others_go_on(fork_server: ForkServer) -> None:
    table = compared(plan_of(("a",), ("b",)), ensemble_of(a=mlp(outputs=8), b=Sleeper(0.001)), fork_server)
    assert "one architecture" in table.row("vmap").failed
    assert math.isnan(table.row("vmap").median_s)
    assert not table.row("plan").failed


class Drifts(nn.Module):
    """Answers differently on every call, by numbers that nobody can seed: no two strategies can agree on it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + int.from_bytes(os.urandom(4), "little") / 2**32


def test_outputs_that_differ_from_the_reference_void_the_speed(fork_server: ForkServer) -> None:
    table = compared(plan_of(("a",)), ensemble_of(a=mlp()), fork_server, strategies=["sequential"])
    wrong = replace(table.row("plan"), agrees=False, agreement="DIFFERS by 1.0e+00 (a)")
    assert "its speed does not count" in verdict([table.rows[0], wrong], [], plan_of(("a",)), plan_of(("b",)))


def test_sub_models_that_answer_differently_each_time_are_said_to_be_beyond_checking(fork_server: ForkServer) -> None:
    ensemble = ensemble_of(a=Drifts(), b=mlp(outputs=8))
    table = compared(plan_of(("a",), ("b",)), ensemble, fork_server, strategies=["sequential"])
    assert not table.row("sequential").agrees
    assert "does not agree with itself" in table.verdict


def test_too_few_rounds_are_said_to_be_too_few(fork_server: ForkServer) -> None:
    ensemble = ensemble_of(a=mlp())
    table = compared(plan_of(("a",)), ensemble, fork_server, strategies=["sequential"], rounds=3)
    assert "too few" in table.verdict
    assert "inf" not in table.verdict


def agreed(output: torch.Tensor, wanted: torch.Tensor, allowed: Mapping[str, float] = OTHER_ORDER) -> Agreement:
    """How two answers of a sub-model "a", which are the combined ones too, compare."""
    run, reference = (MemberRun(output=one, members={"a": one}) for one in (output, wanted))
    return agreement(run, reference, lambda name: allowed)


def test_agreement_tells_equal_close_and_different_apart() -> None:
    want = torch.ones(3)
    nan = torch.tensor([1.0, float("nan"), 1.0])
    assert agreed(want, want) == Agreement(text="bit-equal", apart=0.0, agrees=True)
    assert agreed(want + 1e-7, want).text == "within 1.2e-07"
    assert agreed(want + 1e-7, want).agrees
    different = agreement(
        MemberRun(output=want, members={"a": want + 1}),
        MemberRun(output=want, members={"a": want}),
        lambda name: OTHER_ORDER,
    )
    assert different == Agreement(text="DIFFERS by 1.0e+00 (a)", apart=1.0, agrees=False)
    assert agreed(nan, nan).text == "bit-equal (NaN in both)"
    assert not agreed(nan, want).agrees
    assert not agreed(torch.ones(4), want).agrees
    assert not agreed(torch.tensor([1]), torch.tensor([2])).agrees
    assert not agreed(torch.tensor([math.inf]), torch.tensor([-math.inf])).agrees


def test_the_bound_is_not_held_against_a_batch_of_another_shape(fork_server: ForkServer) -> None:
    plan = replace(plan_of(("a",)), jct_s=0.01, bound_s=0.01, example="float32[4, 8]")
    ensemble = ensemble_of(a=mlp())
    same = compared(plan, ensemble, fork_server, strategies=["sequential"])
    other = compared(plan, ensemble, fork_server, x=torch.randn(2, 8), strategies=["sequential"])
    assert same.row("plan").ratio_to_bound is not None
    assert other.row("plan").ratio_to_bound is None
    assert any("bound" in note for note in other.notes)


def test_unknown_strategies_and_zero_rounds_are_refused(fork_server: ForkServer) -> None:
    with pytest.raises(UsageError, match="sequential, unlimited"):
        compared(plan_of(("a",)), ensemble_of(a=mlp()), fork_server, strategies=["magic"])
    with pytest.raises(UsageError, match="one round"):
        compared(plan_of(("a",)), ensemble_of(a=mlp()), fork_server, rounds=0)


def test_plans_of_ones_own_are_compared_in_the_same_rounds_before_the_chosen_one(fork_server: ForkServer) -> None:
    ensemble = ensemble_of(a=mlp(seed=1), b=mlp(seed=2))
    other = plan_of(("b", "a"), units=2)
    table = compared(plan_of(("a",), ("b",)), ensemble, fork_server, strategies=["equal"], plans={"one lane": other})
    assert [row.strategy for row in table.rows] == ["sequential", "equal", "one lane", "plan"]
    assert table.row("one lane").agrees
    assert set(table.row("plan").ratio_to) == {"sequential", "equal", "one lane"}
    with pytest.raises(UsageError, match="name that no strategy has: equal, plan"):
        compared(plan_of(("a",), ("b",)), ensemble, fork_server, plans={"equal": other, "plan": other})


class FewLanes(CpuDevice):
    """A double of a device that serves three lanes at a time, as NVIDIA MPS serves 48."""

    most_lanes = 3

    def __init__(self) -> None:
        super().__init__(cores=[(0,), (0,)])


def test_more_strategies_than_the_device_has_lanes_for_are_compared_in_groups_with_the_plan_in_each(
    fork_server: ForkServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensemble = ensemble_of(a=mlp(seed=1), b=mlp(seed=2))
    most = []
    start = Executor.start

    def counted(*args: object, **kwargs: object) -> Executor:
        made = start(*args, **kwargs)  # type: ignore[arg-type]
        most.append(sum(worker.alive for worker in fork_server._workers))
        return made

    monkeypatch.setattr(Executor, "start", counted)
    plan = plan_of(("a", "b"), units=2)
    strategies = ["sequential", "unlimited", "equal"]
    table = compare(X, plan, ensemble, FewLanes(), fork_server, rounds=2, strategies=strategies)
    assert max(most) == 3
    assert [row.strategy for row in table.rows] == ["sequential", "unlimited", "equal", "plan"]
    assert all(row.agrees and not row.failed for row in table.rows)
    assert [len(row.times_s) for row in table.rows] == [2, 2, 2, 6]
    assert table.rounds == 2
    assert set(table.row("plan").ratio_to) == {"sequential", "unlimited", "equal"}
    assert set(table.row("equal").ratio_to) == {"plan"}, "it was never in one round with the others"
    assert any("3 groups, the plan in each" in note for note in table.notes)
    assert {worker for worker in fork_server._workers if worker.alive} == set()


def test_on_a_gpu_answers_may_differ_by_what_other_kernels_explain() -> None:
    want = torch.tensor([1.0, 100.0])
    tf32 = want + torch.tensor([0.02, 0.0])  # 2e-4 of the largest
    assert not agreed(tf32, want).agrees
    assert agreed(tf32, want, TOLERANCE).agrees
    assert not agreed(want * 1.01, want, TOLERANCE).agrees


def test_nothing_stays_running_after_a_comparison(fork_server: ForkServer) -> None:
    before = set(fork_server._workers)
    compared(plan_of(("a",)), ensemble_of(a=mlp()), fork_server, rounds=1)
    assert fork_server._workers == before


# --- what is said, from times that a test chose -----------------------------------------------------------------------

SEARCHED = replace(plan_of(("a",), ("b",)), jct_s=0.001, searcher="exact")


def said(chosen: Plan = SEARCHED, /, own: tuple[str, ...] = (), **times_s: list[float]) -> str:
    """The verdict on these JCTs of each round; "plan" is the chosen one."""
    equal = Agreement(text="bit-equal", apart=0.0, agrees=True)
    rows = [row_of(name, chosen.describe(), [times_s], equal, None) for name in times_s]
    return verdict(rows, [times_s], chosen, sequential_plan(("a", "b"), chosen.units), own)


def test_a_loss_or_a_gain_of_many_times_is_said_in_times() -> None:
    assert "it is 47 times slower than sequential" in said(sequential=[0.01] * 8, plan=[0.47] * 8)
    assert "The plan is 47 times faster than the best" in said(sequential=[0.47] * 8, plan=[0.01] * 8)
    assert "The plan is 20.0 % faster" in said(sequential=[0.01] * 8, plan=[0.008] * 8)
    assert "it is 20.0 % slower" in said(sequential=[0.01] * 8, plan=[0.012] * 8)


def test_a_loss_says_how_what_won_is_put_in_force_unless_it_is_a_function_of_the_users_own() -> None:
    times_s = {"sequential": [0.02] * 8, "equal": [0.01] * 8, "plan": [0.012] * 8}
    assert said(**times_s).endswith("Use equal instead: lab.plan = lab.comparison.plan_of('equal').")
    assert said(own=("equal",), **times_s).endswith("Use equal instead.")


def test_every_strategy_that_ran_by_a_plan_can_be_put_in_force_with_what_was_measured_of_it(
    fork_server: ForkServer,
) -> None:
    nets = {"a": mlp(seed=1), "b": mlp(seed=2)}
    mine = {"mine": lambda x: torch.stack([net(x).detach() for net in nets.values()]).mean(0)}
    table = compared(plan_of(("a",), ("b",)), ensemble_of(**nets), fork_server, ways=mine)
    assert list(table.plans) == ["sequential", "unlimited", "equal", "threads", "vmap", "plan"]
    for name, plan in table.plans.items():
        assert table.plan_of(name) is plan
        assert plan.measured_s == table.row(name).median_s
        assert plan.describe() == table.row(name).lanes
        assert not plan.is_fallback, "somebody may choose to run sub-models one after another"
    with pytest.raises(UsageError, match="a function of your own"):
        table.plan_of("mine")
    with pytest.raises(UsageError, match="Did you mean equal"):
        table.plan_of("equall")
    wrong = replace(table, rows=tuple(replace(row, agrees=False, agreement="DIFFERS") for row in table.rows))
    with pytest.raises(UsageError, match="equal: DIFFERS"):
        wrong.plan_of("equal")
    failed = replace(table, rows=tuple(replace(row, failed="It raised.") for row in table.rows))
    with pytest.raises(UsageError, match="equal did not run: It raised"):
        failed.plan_of("equal")
    assert "plans" not in table.to_dict()


def test_without_a_plan_nothing_wins_or_loses() -> None:
    fallback = sequential_plan(("a", "b"), 2)
    for times in ([0.01] * 8, [0.47] * 8, [0.0001] * 8):
        text = said(fallback, sequential=[0.01] * 8, unlimited=[0.005] * 8, plan=times)
        assert text.startswith("No plan was searched")
        assert "fastest here was unlimited (5.00 ms" in text
        assert "loses" not in text
        assert "%" not in text.replace("0.0 %", "")


def test_a_plan_that_is_sequential_running_is_not_compared_with_itself() -> None:
    found = sequential_plan(("a", "b"), 2, searcher="exact", jct_s=0.01)
    alone = said(found, sequential=[0.01] * 8, plan=[0.47] * 8)
    assert alone == "The plan is sequential running itself. There is no other way here to compare it with."
    beside = said(found, sequential=[0.002] * 8, unlimited=[0.04] * 8, plan=[0.01] * 8)
    assert "4.0 times faster than the best baseline, unlimited" in beside


def test_runs_that_spread_by_more_than_their_median_tell_nothing() -> None:
    text = said(sequential=[0.01] * 8, plan=[0.001, 0.001, 0.001, 0.001, 0.001, 0.1, 0.1, 0.1])
    assert text.startswith("The runs were too unsteady to tell: plan took 1.00 ms with a spread of")
    assert "faster" not in text


def test_too_few_rounds_are_said_with_both_medians_and_no_ratio() -> None:
    text = said(sequential=[0.01], plan=[0.47])
    assert "1 round is too few" in text
    assert "470 ms" in text


def test_times_that_cannot_be_compared_are_noverdict() -> None:
    assert "Nothing can be said" in said(sequential=[0.0] * 6, plan=[0.01] * 6)


def test_a_comparison_far_from_its_prediction_says_so_and_why(fork_server: ForkServer) -> None:
    plan = replace(plan_of(("a",)), jct_s=1e-6, unmeasured={"a": "extrapolated"})
    table = compared(plan, ensemble_of(a=Sleeper(0.01)), fork_server, strategies=["sequential"])
    assert any("Far from its prediction" in note and "times slower" in note for note in table.notes)
    assert any("extrapolated: a" in note for note in table.notes)
    assert table.to_dict()["unmeasured"] == {"a": "extrapolated"}


def test_a_comparison_on_another_batch_than_profiled_is_measured_against_no_prediction(fork_server: ForkServer) -> None:
    plan = replace(plan_of(("a",)), jct_s=1e-6, example="float32[7, 7]")
    table = compared(plan, ensemble_of(a=Sleeper(0.001)), fork_server, strategies=["sequential"])
    assert table.predicted_s is None
    assert not any("Far from" in note for note in table.notes)


def _interrupted_after(calls: int) -> Callable[[Any], float]:
    left = [calls]

    def run(x: Any) -> float:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return 0.001

    return run


def test_ctrl_c_leaves_the_rounds_that_are_whole_and_says_so() -> None:
    clocks: dict[str, Callable[[Any], float]] = {"sequential": lambda x: 0.002, "plan": _interrupted_after(2 * 3 + 1)}
    times, stopped = side_by_side._rounds(clocks, [], None, 20, 60.0, 0, lambda *told: None)
    assert {name: len(own) for name, own in times.items()} == {"sequential": 3, "plan": 3}
    assert stopped == "Interrupted after 3 rounds of 20: the comparison is of these."


def test_ctrl_c_before_the_first_round_is_done_ends_the_comparison() -> None:
    with pytest.raises(KeyboardInterrupt):
        side_by_side._rounds({"plan": _interrupted_after(1)}, [], None, 20, 60.0, 0, lambda *told: None)
