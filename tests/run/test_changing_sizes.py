"""Batches whose sizes change from run to run: lanes are told of each size once, and their answers stay right."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from models import mlp
from runtime_cases import ensemble_of, plan_of
from torch import nn

from esen_lab.ensemble import Ensemble, make_combine
from esen_lab.errors import ModelError
from esen_lab.lanes.arena import MOST_KEPT
from esen_lab.lanes.process_worker import ProcessWorker
from esen_lab.planner.plan import Plan
from esen_lab.run import Executor, RunOptions, deadline

Start = Callable[[Plan, Ensemble], Executor]


def rows(count: int) -> torch.Tensor:
    return torch.arange(float(8 * count)).reshape(count, 8) + count


class Halves(nn.Module):
    """Answers every second call with half of the rows: what comes out does not follow from what goes in."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x[: len(x) // 2] if self.calls % 2 else x


class RaisesAt(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) == self.size:
            raise ValueError("not so many")
        return x * 3


def test_sizes_that_came_before_cost_no_question_and_no_thread(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = mlp(seed=1), mlp(seed=2)
    executor = start(plan_of(("a",), ("b",)), ensemble_of(a=a, b=b))
    for count in (9, 4, 2, 3):
        executor.run(rows(count))
    said: list[str] = []

    def asks(worker: Any, order: Any, *_: object) -> None:
        raise AssertionError(f"{worker.label} was asked to {order.method}")

    monkeypatch.setattr(ProcessWorker, "_ask", asks)
    monkeypatch.setattr(ProcessWorker, "_send_along", asks)
    monkeypatch.setattr(deadline.threading, "Timer", lambda *_: pytest.fail("a thread waits for the deadline"))
    adopt = ProcessWorker._adopt
    monkeypatch.setattr(ProcessWorker, "_adopt", lambda *given: (said.append("outputs"), adopt(*given))[1])
    for count in (2, 3, 3, 4, 2, 9, 4, 3, 9):
        output = executor.run(rows(count)).output
        with torch.inference_mode():
            torch.testing.assert_close(output, (a(rows(count)) + b(rows(count))) / 2)
    assert said == [], "where outputs lie was told again"


def test_answers_stay_right_over_more_sizes_than_are_kept_in_any_order(start: Start) -> None:
    executor = start(plan_of(("a", "b"), ("c",)), ensemble_of(a=nn.ReLU(), b=nn.Tanh(), c=nn.Identity()))
    draw = random.Random(5)
    sizes = [
        *range(1, MOST_KEPT + 8),
        *draw.sample(range(1, MOST_KEPT + 8), MOST_KEPT),
        *draw.choices(range(1, 9), k=40),
    ]
    for number, count in enumerate(sizes):
        x = rows(count)
        options = RunOptions(at_least=3, deadline_s=60.0) if number % 5 == 4 else None  # lanes tell each step
        output = executor.run(x, options=options).output
        torch.testing.assert_close(output, (x.relu() + x.tanh() + x) / 3, msg=f"run {number}, {count} rows")


def test_outputs_that_do_not_follow_from_the_input_are_those_of_their_own_run(start: Start) -> None:
    kept: list[dict[str, torch.Tensor]] = []
    keep = make_combine(lambda outputs: (kept.append({n: one.clone() for n, one in outputs.items()}), outputs["b"])[1])
    own = ensemble_of("stack", a=Halves(), b=RaisesAt(5)).with_combine(keep)
    executor = start(plan_of(("a",), ("b",)), own)
    draw = random.Random(7)
    seen = set()
    for _ in range(40):
        count = draw.choice((2, 4, 5, 6))
        x = rows(count)
        if count == 5:
            with pytest.raises(ModelError, match="not so many"):
                executor.run(x)
            continue
        assert torch.equal(executor.run(x).output, x * 3)
        a = kept[-1]["a"]
        seen.add((count, len(a)))
        assert torch.equal(a, x[: len(a)])
    assert len(seen) == 6, "each size came with all and with half of its rows"
