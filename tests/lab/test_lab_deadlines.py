"""Answers by a deadline, from a lab."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from choosing_lab import with_points
from models import Held, KillsItself, Times, mlp
from waiting import when_waited_for

from esen_lab import Lab
from esen_lab.devices import FakeDevice
from esen_lab.errors import DeadlineMissed, UsageError
from esen_lab.planner.plan import Lane, Plan
from esen_lab.run import Uncertain

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
LONG_S = 120.0


@pytest.fixture
def two() -> Iterator[Lab]:
    """A lab of two members, which has run."""
    with Lab(device="cpu") as lab:
        lab.combine("mean")
        lab.register("a", Times(2.0), example=X)
        lab.register("b", Times(4.0))
        lab.run(X)
        yield lab


def test_the_deadline_counts_from_the_call_and_lanes_that_start_are_found_by_the_next() -> None:
    with Lab(device="cpu") as lab:
        lab.register("a", Times(2.0), example=X)
        with pytest.raises(DeadlineMissed, match="no member had begun by then") as caught:
            lab.run(X, deadline_s=1e-3)
        assert caught.value.missing == (("a", "late"),)
        torch.testing.assert_close(lab.run(X, deadline_s=1e-3, otherwise="first"), X * 2)
        torch.testing.assert_close(lab.run(X), X * 2)


def test_the_report_knows_what_members_are_worth_once_they_were_asked_on_validation_data(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    with Lab(device="cpu") as lab:
        lab.register("a", Times(1.0), example=X)
        lab.register("late", Held(str(gate), -5.0))
        lab.profile(shares=[1], budget_s=0.05).result(timeout=300)
        lab.studies.members(X, X.argmax(-1).numpy())
        lab.apply(Plan(lanes=(Lane(units=1, members=("a", "late")),), units=lab.device.units))
        gate.unlink()
        lab.run(X, deadline_s=1e-3, otherwise="first")
        assert lab.report is not None
        assert lab.report.answered is not None
        worth = lab.report.answered.worth
        gate.touch()
        assert worth is not None
        assert (worth.accuracy, worth.samples) == (1.0, 4)
        assert worth.of_all < 1.0
        assert "100.0 % right on 4 validation samples" in str(lab.report)
        lab.register("a", Times(3.0))
        lab.run(X, deadline_s=LONG_S)
        assert lab.report.answered is not None
        assert lab.report.answered.worth is None, "of a member that has changed nothing is known"


def test_a_search_for_a_deadline_orders_by_accuracy_and_says_what_is_proven() -> None:
    with Lab(device="cpu") as lab:
        lab.register("a", mlp(seed=1, outputs=8), example=X)
        lab.register("b", mlp(seed=2, outputs=8))
        lab.profile(budget_s=0.05).result(timeout=300)
        with pytest.raises(UsageError, match="needs the accuracy of members"):
            lab.search(deadline_s=0.05)
        lab.studies.members(X, np.zeros(4, dtype=np.int64))
        plan = lab.search(deadline_s=10.0)
        assert sorted(plan.names) == ["a", "b"]
        assert any(note.startswith("By 10") and "proven" in note for note in plan.notes)
        with pytest.raises(UsageError, match="number of seconds above 0"):
            lab.search(deadline_s=-1.0)
        found = lab.start_search(deadline_s=10.0).result(timeout=120)
        assert found.notes[0].startswith("By 10")
        lab.run(X, deadline_s=LONG_S)


def test_a_plan_of_other_lanes_for_a_deadline_says_nothing_of_those_before() -> None:
    tables = {"a": [0.008, 0.008, 0.008, 0.004], "b": [0.007] * 4}
    latencies = {name: dict(enumerate(table, 1)) for name, table in tables.items()}
    with Lab(device=FakeDevice(latencies, units=4)) as lab:
        lab.register("a", mlp(seed=1, outputs=8), example=X)
        lab.register("b", mlp(seed=2, outputs=8))
        with_points(lab, tables)
        lab.studies.members(X, np.zeros(4, dtype=np.int64))
        before = lab.search()
        assert (before.describe(), [note for note in before.notes if "stay free" in note]) == (
            "1: a | 1: b",
            ["2 of 4 units stay free: no lane would be faster"],
        )
        plan = lab.search(deadline_s=0.0055)
        assert plan.describe() == "4: a + b"
        assert plan.notes[0].startswith("By 5.50 ms a is expected")
        assert not [note for note in plan.notes if "stay free" in note]


def test_options_that_cannot_be_had_are_refused_before_lanes_start() -> None:
    with Lab(device="cpu", combine="stack") as lab:
        lab.register("a", Times(2.0), example=X)
        with pytest.raises(UsageError, match="needs a rule"):
            lab.run(X, deadline_s=1.0)
        assert lab.state.executor is None


def test_awaited_runs_take_the_same_options() -> None:
    async def both(lab: Lab) -> tuple[object, object]:
        missed = await asyncio.gather(lab.arun(X, deadline_s=1e-3), return_exceptions=True)
        return missed[0], await lab.arun(X, uncertainty=True)

    with Lab(device="cpu") as lab:
        lab.register("a", Times(2.0), example=X)
        lab.register("b", Times(4.0))
        missed, found = asyncio.run(both(lab))
        assert isinstance(missed, DeadlineMissed)
        assert isinstance(found, Uncertain)
        torch.testing.assert_close(found.answer, X * 3)
        torch.testing.assert_close(found.variance, X.square())


def test_lanes_that_are_late_are_no_hindrance_to_a_close_or_to_another_plan(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    with Lab(device="cpu") as lab:
        lab.register("late", Held(str(gate), 5.0), example=X)
        lab.register("a", Times(1.0))
        lab.apply(Plan(lanes=(Lane(units=1, members=("a", "late")),), units=lab.device.units))
        lab.run(X)
        gate.unlink()
        lab.run(X, deadline_s=1e-3, otherwise="first")
        lab.close()
        gate.touch()
        torch.testing.assert_close(lab.run(X), X * 3)


def test_a_lane_that_dies_at_an_earlier_run_is_started_anew_for_the_next_one(tmp_path: Path) -> None:
    gate, calls = tmp_path / "gate", tmp_path / "calls"
    gate.touch()
    x = X.abs() + 1
    with Lab(device="cpu") as lab:
        lab.register("a", Times(3.0), example=x)
        lab.register("dies", torch.nn.Sequential(Held(str(gate), 1.0, str(calls)), KillsItself()))
        lanes = (Lane(units=1, members=("a",)), Lane(units=1, members=("dies",)))
        lab.apply(Plan(lanes=lanes, units=lab.device.units))
        lab.run(x)
        executor = lab.state.executor
        assert executor is not None
        begun = len(calls.read_text().splitlines())
        gate.unlink()
        while len(calls.read_text().splitlines()) == begun:  # a lane that is stopped before it begins is at rest
            lab.run(-x, deadline_s=0.3, otherwise="first")
        survivor = executor.pids[0]
        when_waited_for(executor._groups[0].stepwise, gate.touch)
        torch.testing.assert_close(lab.run(x), x * 2)
        assert lab.state.executor is executor
        assert executor.pids[0] == survivor
        assert any("Lanes were started anew" in note for note in lab.report.notes)
        torch.testing.assert_close(lab.run(-x, on_failure="leave-out"), -x * 3)
        assert "LEFT OUT" in str(lab.report)
        torch.testing.assert_close(lab.run(x), x * 2)


def test_awaited_runs_at_once_each_keep_their_own_deadline(two: Lab) -> None:
    async def all_of_them() -> list[object]:
        calls = [two.arun(X * n, deadline_s=LONG_S if n % 2 else 1e-6) for n in range(1, 9)]
        return await asyncio.gather(*calls, return_exceptions=True)

    for n, found in enumerate(asyncio.run(all_of_them()), start=1):
        if n % 2:
            torch.testing.assert_close(found, X * n * 3)
        else:
            assert isinstance(found, DeadlineMissed)
    torch.testing.assert_close(two.run(X), X * 3)


def test_beside_a_profile_in_the_background_a_deadline_is_met_or_missed_in_words(two: Lab) -> None:
    job = two.profile(shares=[1], budget_s=0.5)
    for _ in range(5):
        try:
            torch.testing.assert_close(two.run(X, deadline_s=0.02, otherwise="error", at_least=2), X * 3)
        except DeadlineMissed as problem:
            assert "a" in dict(problem.missing)  # noqa: PT017  which of both comes is up to the machine
    job.result(timeout=300)
    torch.testing.assert_close(two.run(X, deadline_s=LONG_S), X * 3)
