"""Some runs of `make stress`: it finds nothing wrong, and it would find what is."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import stress_deadlines as stress


@pytest.mark.parametrize("stages", [False, True], ids=["side by side", "in stages"])
def test_runs_with_slow_raising_and_dying_members_are_right_and_leave_nothing(*, stages: bool) -> None:
    tally = stress.stress(60, seed=5, dying=0.05, stages=stages, tell=lambda line: None)
    assert tally.wrong == []
    assert tally.unexpected == []
    assert tally.left == []
    assert sum(tally.events.values()) >= 60


def test_an_answer_of_other_members_than_the_report_names_is_found() -> None:
    tally = stress.Tally()
    x = torch.randn(4, stress.WIDTH, generator=torch.Generator().manual_seed(0))
    stress._check(x, x, ("m0",), "report", "plain", tally)
    assert tally.wrong == []
    stress._check(x, x, ("m0", "m1"), "report", "plain", tally)
    assert len(tally.wrong) == 1
    assert not tally.fine


def test_an_answer_to_another_input_is_found() -> None:
    tally = stress.Tally()
    x = torch.zeros(4, stress.WIDTH)
    stress._check(x + 1, x, ("m0",), "report", "plain", tally)
    assert len(tally.wrong) == 1


def test_an_error_that_nobody_asked_for_is_counted() -> None:
    tally = stress.Tally()

    def run(x: torch.Tensor, **asked: object) -> torch.Tensor:
        raise RuntimeError("of its own")

    lab = SimpleNamespace(run=run, report=None)
    stress._once(lab, random.Random(0), torch.Generator().manual_seed(0), 0.0, tally)
    assert "of its own" in tally.unexpected[0]
