"""Two plans in turns: who begins changes, each is warm when it is timed, and the time that it may take is kept."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import torch

from esen_lab.run import in_pairs
from esen_lab.run.executor import Executor
from esen_lab.run.in_pairs import LEAST_PAIRS

X = torch.ones(2)


class Runs:
    """An executor of which only the order of calls is looked at; its first run after another's is slower."""

    pids: tuple[int, ...] = ()

    def __init__(self, name: str, calls: list[str], jct_s: float) -> None:
        self.name, self.calls, self.jct_s = name, calls, jct_s

    def run(self, x: Any, *, timeout_s: float) -> Any:
        cold = self.calls[-1:] != [self.name]
        self.calls.append(self.name)
        return SimpleNamespace(report=SimpleNamespace(jct_s=9.0 if cold else self.jct_s))


def both(calls: list[str]) -> tuple[Executor, Executor]:
    return cast("Executor", Runs("a", calls, 1.0)), cast("Executor", Runs("b", calls, 2.0))


def test_they_take_turns_and_each_is_run_once_before_it_is_timed() -> None:
    calls: list[str] = []
    found = list(in_pairs(*both(calls), X, most=7, budget_s=60.0, timeout_s=1.0))
    assert found == [(1.0, 2.0)] * 7
    assert "".join(calls[:12]) == "bbaaaabbbbaa"


def test_no_pair_begins_after_the_budget_but_as_many_as_an_interval_needs_do() -> None:
    seconds = iter(range(100))
    found = list(in_pairs(*both([]), X, most=50, budget_s=3.0, timeout_s=1.0, clock=lambda: float(next(seconds))))
    assert len(found) == LEAST_PAIRS + 3
