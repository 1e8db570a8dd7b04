"""The numerics check: the verdict from numbers, and a real plan with a sub-model that answers wrongly in its lane."""

from __future__ import annotations

import queue
import random
from typing import Any

import pytest
import torch
from in_process_doubles import InProcessDouble
from models import mlp
from runtime_cases import X, ensemble_of, plan_of
from torch import nn

from esen_lab.common.answers import Difference, difference
from esen_lab.errors import UsageError
from esen_lab.run import Executor, ForkServer
from esen_lab.run.numerics import NumericsVerdict, check_numerics, judge


def half(error: float) -> Difference:
    return Difference(dtype="float16", error=error)


def test_one_wrong_run_of_many_fails_and_the_verdict_names_share_sub_model_and_error() -> None:
    row = judge("resnet", 1, 30, "40 SMs", [half(1e-3), half(0.5), half(2e-3)])
    assert (row.wrong, row.runs, row.worst.error) == (1, 3, 0.5)
    verdict = NumericsVerdict(rows=(row, judge("bert", 0, 70, "92 SMs", [half(1e-3)])))
    assert not verdict.passed
    assert "resnet with 30 units, 1 of 3 runs" in verdict.text
    assert "bert" not in verdict.text
    assert verdict.to_dict()["rows"][0]["agrees"] is False


def test_what_is_beyond_its_tolerance_is_worse_than_a_larger_error_within_another() -> None:
    within = Difference(dtype="bfloat16", error=0.05)
    beyond = Difference(dtype="float32", error=0.01)
    assert judge("a", 0, 1, "", [within, beyond]).worst is beyond


def test_one_that_changes_on_the_whole_device_too_is_not_judged_and_does_not_pass() -> None:
    verdict = NumericsVerdict(rows=(judge("dropout", 0, 1, "", [half(0.5)], repeats=False),))
    assert not verdict.passed
    assert verdict.wrong == ()
    why = "the answer changes each time, on the whole device too, or depends on calls of other sub-models"
    assert verdict.text == f"Not judged, since {why}: dropout."


def test_an_exact_verdict_says_equal_and_another_how_far_off() -> None:
    exact, rounded = judge("a", 0, 1, "", [half(0.0)]), judge("b", 0, 1, "", [half(1e-3)])
    assert NumericsVerdict(rows=(exact,)).text == "All answers equal those of the whole device."
    assert "up to rounding; furthest off is b: 1.0e-03" in NumericsVerdict(rows=(exact, rounded)).text


def test_a_verdict_says_of_whose_answers_nothing_could_be_judged() -> None:
    nan = torch.full((4,), float("nan"))
    verdict = NumericsVerdict(rows=(judge("a", 0, 1, "", [difference(nan, nan.clone())]),))
    assert verdict.passed
    assert "NaN in the answers of a (all values)" in verdict.text


class RightOnlyAlone(nn.Module):
    """A double of wrong kernels under a cap: wrong from its tenth call on, so the reference is right.

    Counted where nobody looks and nothing is put back: kernels are no state of a network.
    """

    calls: queue.SimpleQueue[None]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.put(None)
        return x * (1.0 if self.calls.qsize() < 10 else 1.2)


def test_a_plan_that_answers_as_the_whole_device_passes() -> None:
    verdict = check_numerics(
        plan_of(("a",), ("b",), units=4),
        ensemble_of(a=mlp(seed=1), b=mlp(seed=2)),
        InProcessDouble(),
        ForkServer(),
        runs=2,
    )
    assert verdict.passed
    assert [(row.name, row.lane, row.runs) for row in verdict.rows] == [("a", 0, 2), ("b", 1, 2)]
    assert "those of the whole device" in str(verdict)
    assert (verdict.units, verdict.unit, verdict.batch) == (4, "unit", "float32[4, 8]")


def test_a_plan_that_answers_wrongly_fails() -> None:
    RightOnlyAlone.calls = queue.SimpleQueue()
    verdict = check_numerics(
        plan_of(("a",), ("wrong",), units=4),
        ensemble_of(a=mlp(outputs=8), wrong=RightOnlyAlone()),
        InProcessDouble(),
        ForkServer(),
        x=X,
    )
    assert not verdict.passed
    assert "wrong with 1 unit" in verdict.text


class Changing(nn.Module):
    """Draws numbers that no seed repeats, at every call."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * random.SystemRandom().random()


def test_a_sub_model_that_no_seed_repeats_is_told_from_a_wrong_share() -> None:
    verdict = check_numerics(
        plan_of(("a",), ("random",), units=4),
        ensemble_of(a=mlp(outputs=8), random=Changing()),
        InProcessDouble(),
        ForkServer(),
        runs=2,
    )
    assert [row.name for row in verdict.unsteady] == ["random"]
    assert verdict.wrong == ()


def test_it_tells_how_far_it_is() -> None:
    told: list[tuple[int, int, str]] = []
    check_numerics(
        plan_of(("a",)),
        ensemble_of(a=mlp()),
        InProcessDouble(),
        ForkServer(),
        runs=2,
        on_progress=lambda *now: told.append(now),
    )
    assert [(done, total) for done, total, _ in told] == [(0, 3), (1, 3), (2, 3)]
    assert told[0][2] == "the whole device, one sub-model after another"
    assert told[2][2].startswith("run 2 of 2")


def test_what_could_not_be_executed_as_planned_is_said_and_judged_as_what_it_is() -> None:
    plan = plan_of(("a",), units=4).with_backends({"a": "cuda-graph"})
    verdict = check_numerics(plan, ensemble_of(a=mlp()), InProcessDouble(), ForkServer(), runs=1)
    assert [row.backend for row in verdict.rows] == ["eager"]
    (note,) = verdict.notes
    assert note.startswith("a runs eagerly, not as the plan says (cuda-graph): ")


@pytest.mark.parametrize("runs", [0, 1.5, True, "3"])
def test_no_run_is_no_check(runs: Any) -> None:
    with pytest.raises(UsageError, match="at least one run"):
        check_numerics(plan_of(("a",)), ensemble_of(a=mlp()), InProcessDouble(), ForkServer(), runs=runs)


def test_what_was_asked_to_compute_in_bfloat16_is_judged_by_that() -> None:
    wide = nn.Sequential(nn.Linear(8, 256), nn.Tanh(), nn.Linear(256, 3)).eval()
    plan = plan_of(("a",), units=4).with_backends({"a": "eager@bf16"})
    ensemble, fork_server = ensemble_of(a=wide), ForkServer()
    executor = Executor.start(plan, ensemble, InProcessDouble(), fork_server)
    try:
        verdict = check_numerics(plan, ensemble, InProcessDouble(), fork_server, runs=1, executor=executor)
        answers = executor.run_members(X).members
        beside = executor.fidelity.unlike_to({"a": wide(X).detach()}, answers, ensemble, X)
    finally:
        executor.close()
    (row,) = verdict.rows
    assert (row.backend, row.wrong) == ("eager@bf16", 0)
    assert 1e-4 < row.worst.error < row.worst.tolerance == 6e-2
    assert beside == {}
