"""Plans in stages that are answered before their end: by a deadline, without members that failed.

Members are held back by files, not by time: what is late is late however slow the machine is.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from runtime_cases import ensemble_of, first, missing
from test_stage_runner import NETS, ROWS, X, expected, net, staged
from torch import nn

from esen_lab.ensemble import Ensemble
from esen_lab.ensemble.confidence import sure_rows
from esen_lab.errors import DeadlineMissed, ModelError, UsageError
from esen_lab.planner.plan import Plan
from esen_lab.run import Executor, RunOptions

Start = Callable[[Plan, Ensemble], Executor]
LONG_S = 60.0
THRESHOLD = 0.45


class HeldNet(nn.Module):
    """Answers as a net of this seed does, once a file is there. `calls` has a line for each time it began."""

    def __init__(self, seed: int, gate: str, calls: str) -> None:
        super().__init__()
        self.net, self.gate, self.calls = net(seed), gate, calls

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with open(self.calls, "a", encoding="utf-8") as calls:
            calls.write("began\n")
        while not os.path.exists(self.gate):
            time.sleep(0.002)
        return self.net(x)


class RaisesAt(nn.Module):
    """Raises, or ends its process, at a batch whose first number is above 50."""

    def __init__(self, seed: int, *, dies: bool = False) -> None:
        super().__init__()
        self.net, self.dies = net(seed), dies

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool((x > 50).any()):
            if self.dies:
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("told to raise")
        return self.net(x)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """Open while lanes start, since they run the example then."""
    gate = tmp_path / "gate"
    gate.touch()
    yield gate
    gate.touch()


def held(gate: Path, seed: int) -> HeldNet:
    return HeldNet(seed, str(gate), str(gate.with_name("calls")))


def of_stage_one(x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return NETS["a"](x).softmax(-1)


def test_with_time_enough_the_answer_is_that_of_a_plain_run(start: Start) -> None:
    executor = start(staged(("b",), ("a", "c"), lanes=2), ensemble_of("softmax-mean", X, **NETS))
    for rows in (1, 2, 5, ROWS, 3 * ROWS, 0):
        x = torch.randn(rows, 8, generator=torch.Generator().manual_seed(rows))
        run = executor.run(x, options=RunOptions(deadline_s=LONG_S))
        assert torch.equal(run.output, executor.run(x).output)
        if rows:
            torch.testing.assert_close(run.output, expected((("b",), ("a", "c")), (THRESHOLD,), x))
        answered = run.report.answered
        assert answered is not None
        assert (answered.ended, answered.cut_rows, answered.kept) == ("all", 0, True)


def test_rows_that_no_later_stage_has_answered_take_the_answer_so_far(start: Start, gate: Path) -> None:
    ensemble = ensemble_of("softmax-mean", X, a=NETS["a"], b=held(gate, 1))
    executor = start(staged(("a",), ("b",)), ensemble)
    gate.unlink()
    run = executor.run(X, options=RunOptions(deadline_s=1.5))
    torch.testing.assert_close(run.output, of_stage_one(X))
    unsure = int((~sure_rows(of_stage_one(X), THRESHOLD)).sum())
    answered = run.report.answered
    assert answered is not None
    assert 0 < unsure < ROWS
    assert (answered.ended, answered.names, answered.cut_rows) == ("deadline", ("a",), unsure)
    assert missing(run)["b"][0] == "late"
    assert f"{unsure} of {ROWS} rows were not sure yet" in str(run.report)
    assert answered.worth is None
    gate.touch()
    torch.testing.assert_close(executor.run(X).output, expected((("a",), ("b",)), (THRESHOLD,), X))


def test_runs_beside_a_late_stage_are_right_and_its_rows_are_not_overwritten(start: Start, gate: Path) -> None:
    ensemble = ensemble_of("softmax-mean", X, a=NETS["a"], b=held(gate, 1), c=NETS["c"])
    executor = start(staged(("a",), ("b", "c"), lanes=2, threshold=1.0), ensemble)
    gate.unlink()
    with torch.no_grad():
        for factor in (1.0, 2.0, 0.5):
            x = X * factor
            run = executor.run(x, options=first(2))
            two = (NETS["a"](x).softmax(-1) + NETS["c"](x).softmax(-1)) / 2
            torch.testing.assert_close(run.output, two)
            assert run.report.answered is not None
            assert run.report.answered.names == ("a", "c")
            assert run.report.answered.ended == "enough"
    assert executor.run(X[:3], options=first(2)).output.shape == (3, 3)
    gate.touch()
    whole = expected((("a",), ("b", "c")), (1.0,), X)
    torch.testing.assert_close(executor.run(X, options=RunOptions(deadline_s=LONG_S, at_least=3)).output, whole)
    torch.testing.assert_close(executor.run(X).output, whole)


def test_too_few_members_at_the_deadline_are_an_error_and_the_lanes_stay_warm(start: Start, gate: Path) -> None:
    ensemble = ensemble_of("softmax-mean", X, a=held(gate, 0), b=NETS["b"])
    executor = start(staged(("a",), ("b",), threshold=1.0), ensemble)
    gate.unlink()
    with pytest.raises(DeadlineMissed, match="At least 1 of 1 members"):
        executor.run(X, options=RunOptions(deadline_s=0.2))
    gate.touch()
    pids = executor.pids
    with pytest.raises(UsageError, match="at_least is at most"):
        executor.run(X, options=RunOptions(deadline_s=LONG_S, at_least=3))
    assert executor.run(X, options=RunOptions(deadline_s=LONG_S, at_least=2)).output.shape == (ROWS, 3)
    assert executor.pids == pids
    assert not executor.broken


def test_a_member_that_raises_is_left_out_of_the_rows_of_its_stage(start: Start) -> None:
    ensemble = ensemble_of("softmax-mean", X, a=NETS["a"], b=RaisesAt(1), c=NETS["c"])
    executor = start(staged(("a",), ("b", "c"), threshold=2.0), ensemble)
    x = X.clone()
    x[3] = 60.0
    with pytest.raises(ModelError, match="told to raise"):
        executor.run(x)
    run = executor.run(x, options=RunOptions(on_failure="leave-out"))
    with torch.no_grad():
        torch.testing.assert_close(run.output, (NETS["a"](x).softmax(-1) + NETS["c"](x).softmax(-1)) / 2)
    assert missing(run)["b"][0] == "failed"
    assert "LEFT OUT" in str(run.report)


@pytest.mark.parametrize("dies", [False, True], ids=["raises", "dies"])
def test_a_stage_of_which_everybody_fails_hands_its_rows_on(start: Start, *, dies: bool) -> None:
    first_fails = start(
        staged(("b",), ("a",), threshold=2.0), ensemble_of("softmax-mean", X, a=NETS["a"], b=RaisesAt(1, dies=dies))
    )
    x = X.clone()
    x[0] = 60.0
    run = first_fails.run(x, options=RunOptions(on_failure="leave-out"))
    torch.testing.assert_close(run.output, of_stage_one(x))
    last_fails = start(
        staged(("a",), ("b",), threshold=2.0), ensemble_of("softmax-mean", X, a=NETS["a"], b=RaisesAt(1, dies=dies))
    )
    run = last_fails.run(x, options=RunOptions(on_failure="leave-out"))
    torch.testing.assert_close(run.output, of_stage_one(x))
    assert run.report.answered is not None
    assert run.report.answered.names == ("a",)


def test_nobody_who_answers_is_an_error(start: Start) -> None:
    executor = start(
        staged(("a",), ("b",), threshold=2.0), ensemble_of("softmax-mean", X, a=RaisesAt(0), b=RaisesAt(1))
    )
    with pytest.raises(ModelError, match="told to raise"):
        executor.run(X + 60.0, options=RunOptions(on_failure="leave-out"))
    assert not executor.broken


def test_what_has_no_meaning_in_stages_is_refused_with_its_reason(start: Start) -> None:
    executor = start(staged(("a",), ("b",)), ensemble_of("softmax-mean", X, a=NETS["a"], b=NETS["b"]))
    with pytest.raises(UsageError, match="row by row, at its thresholds"):
        executor.run(X, options=RunOptions(stop_early=0.9))
    with pytest.raises(UsageError, match="no disagreement is known"):
        executor.run(X, options=RunOptions(uncertainty=True))
