"""Combine rules of the user's own: asked once for each answer, with what belongs to it, and for nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from models import mlp
from torch import nn

from esen_lab import Lab, Plan
from esen_lab.errors import UsageError
from esen_lab.planner.plan import Lane
from esen_lab.studies.validation import Answers

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


class Smoothed:
    """Keeps a running mean of its answers, and a list of what it was given."""

    def __init__(self) -> None:
        self.last: torch.Tensor | None = None
        self.rows: list[int] = []

    def __call__(self, outputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        now = torch.stack(list(outputs.values())).mean(0)
        self.rows.append(len(now))
        self.last = now if self.last is None or len(self.last) != len(now) else (self.last + now) / 2
        return self.last


def nets(lab: Lab) -> dict[str, nn.Module]:
    held = {name: mlp(seed=seed) for seed, name in enumerate("ab")}
    for name, module in held.items():
        lab.register(name, module, example=X)
    return held


def answers(held: Mapping[str, nn.Module], x: torch.Tensor) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return {name: module(x) for name, module in held.items()}


def test_a_rule_that_keeps_state_gives_what_it_gives_in_the_notebook(lab: Lab) -> None:
    held = nets(lab)
    rule, own = Smoothed(), Smoothed()
    lab.combine(rule)
    for number in range(3):
        x = X + number
        torch.testing.assert_close(lab.run(x), own(answers(held, x)))
        if number == 0:
            table = lab.compare(x, rounds=1, strategies=["equal"])
            assert all(row.outputs == "bit-equal" for row in table.rows if not row.failed), table
            lab.check_numerics(runs=1)
        if number == 1:
            with torch.no_grad():
                held["b"][0].weight.mul_(2)
    assert rule.rows == own.rows


def test_a_rule_for_one_batch_is_not_called_with_the_example(lab: Lab) -> None:
    held = nets(lab)
    x, weights = torch.randn(3, 8), torch.rand(3, 1)
    lab.combine(lambda outputs: sum(outputs.values()) * weights)
    torch.testing.assert_close(lab.run(x), sum(answers(held, x).values()) * weights)
    assert lab.check_numerics(runs=1).wrong == ()


def test_a_rule_in_a_cascade_may_keep_what_it_returns_and_return_one_row_for_all(lab: Lab) -> None:
    held = nets(lab)
    plan = Plan(
        lanes=(Lane(units=1, members=("a",)), Lane(units=1, members=("b",), stage=1)),
        units=1,
        reach=(1.0, 0.5),
        threshold=0.9999,
    )
    kept: list[torch.Tensor] = []

    def keeps(outputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        kept.append(torch.stack(list(outputs.values())).mean(0))
        return kept[-1]

    lab.combine(keeps)
    lab.apply(plan)
    kept.clear()
    last = lab.run(X)
    own = answers(held, X)
    torch.testing.assert_close(kept[0], own["a"])
    torch.testing.assert_close(last, (own["a"] + own["b"]) / 2)
    lab.combine(lambda outputs: torch.stack(list(outputs.values())).mean((0, 1))[None].expand(len(outputs["a"]), -1))
    assert lab.run(X).shape == (4, 3)


def test_weights_in_order_stay_with_their_members_when_one_is_registered_again_at_the_end(lab: Lab) -> None:
    held = nets(lab)
    lab.combine("weighted", weights=[3, 1])
    lab.unregister("a")
    lab.register("a", held["a"])
    assert lab.ensemble.names == ("b", "a")
    own = answers(held, X)
    torch.testing.assert_close(lab.run(X), own["a"] * 0.75 + own["b"] * 0.25)


def test_a_rule_that_awaits_another_run_is_refused_at_once(lab: Lab) -> None:
    nets(lab)
    lab.combine(lambda _: asyncio.run(lab.arun(X)))
    with pytest.raises(UsageError, match="not made from inside another one"):
        lab.run(X, timeout_s=60)


HEARD: list[int] = []


def hears(outputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The mean; notes each of its calls."""
    HEARD.append(len(HEARD))
    return torch.stack(list(outputs.values())).mean(0)


def _study(lab: Lab, _: Path) -> None:
    outputs = {name: np.zeros((4, 3), np.float32) for name in lab.ensemble.names}
    Answers(ensemble=lab.ensemble, outputs=outputs).combined(outputs)


ASKS: dict[str, Callable[[Lab, Path], object]] = {
    "a load test": lambda lab, _: lab.load_test([50], duration_s=0.05, most_rows=2, ways=("plan",)),
    "an export": lambda lab, folder: lab.export(folder / "plan.py"),
    "an export for Triton": lambda lab, folder: lab.export(folder / "models", form="triton"),
    "a study": _study,
}


@pytest.mark.parametrize("what", ASKS)
def test_a_rule_hears_of_nothing_that_is_no_call(lab: Lab, tmp_path: Path, what: str) -> None:
    nets(lab)
    lab.combine(hears)
    lab.plan = Plan(lanes=(Lane(units=1, members=("a", "b")),), units=1, fingerprints=lab.ensemble.fingerprints)
    HEARD.clear()
    lab.run(X)
    assert HEARD == [0]
    ASKS[what](lab, tmp_path)
    assert HEARD == [0]
