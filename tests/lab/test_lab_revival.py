"""A lane that died is started alone: the others keep their processes, and what their members know."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from models import CountsCalls, Draws, KillsItself, Times, mlp
from torch import nn
from waiting import until

from esen_lab import Lab
from esen_lab.errors import DeviceError, WorkerDied
from esen_lab.planner.plan import Lane, Plan
from esen_lab.run import Executor

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(device="cpu", store=tmp_path / "profiles.sqlite") as lab:
        yield lab


def in_lanes(lab: Lab, *lanes: tuple[str, ...]) -> Executor:
    """Each lane one unit; the lab's executor, warm."""
    lab.apply(Plan(lanes=tuple(Lane(units=1, members=names) for names in lanes), units=lab.device.units))
    lab.run(X.abs())
    return executor_of(lab)


def executor_of(lab: Lab) -> Executor:
    executor = lab.state.executor
    assert executor is not None
    return executor


def kill(executor: Executor, *numbers: int) -> None:
    """As the system does when memory runs out, and noticed as the server does it: while nothing runs."""
    ended = [executor.pids[number] for number in numbers]
    for pid in ended:
        os.kill(pid, signal.SIGKILL)
    until(lambda: executor.notice_ended() and sum(not worker.alive for worker in executor._workers) == len(ended))


def test_the_lane_that_was_killed_is_started_alone_and_the_next_run_is_right(lab: Lab) -> None:
    lab.combine("mean")
    for name, factor in (("a", 1.0), ("b", 3.0), ("c", 5.0)):
        lab.register(name, Times(factor), example=X)
    executor = in_lanes(lab, ("a",), ("b",), ("c",))
    before = executor.pids
    kill(executor, 1)
    torch.testing.assert_close(lab.run(X), X * 3)
    assert executor_of(lab) is executor
    after = executor.pids
    assert (after[0], after[2]) == (before[0], before[2])
    assert after[1] != before[1]
    assert any("The lane of b had ended and was started anew" in note for note in lab.report.notes)
    lab.run(X)
    assert not any("started anew" in note for note in lab.report.notes), "it is said of one run"
    x = torch.randn(9, 8)
    torch.testing.assert_close(lab.run(x), x * 3)


def test_a_lane_that_dies_in_a_run_is_an_error_or_left_out_and_the_next_run_has_it_again(lab: Lab) -> None:
    lab.combine("mean")
    lab.register("a", Times(3.0), example=X.abs())
    lab.register("dies", KillsItself())
    executor = in_lanes(lab, ("a",), ("dies",))
    survivor = executor.pids[0]
    x = X.abs() + 1
    for _ in range(2):
        with pytest.raises(WorkerDied, match="SIGKILL"):
            lab.run(-x)
        torch.testing.assert_close(lab.run(x), x * 2)
        torch.testing.assert_close(lab.run(-x, on_failure="leave-out"), -x * 3)
        torch.testing.assert_close(lab.run(x, deadline_s=60.0), x * 2)
    assert executor_of(lab) is executor
    assert executor.pids[0] == survivor


def test_members_of_the_new_lane_begin_as_registered_and_the_others_go_on(lab: Lab) -> None:
    lab.combine("stack")
    lab.register("a", CountsCalls(), example=X)
    lab.register("b", CountsCalls())
    executor = in_lanes(lab, ("a",), ("b",))
    assert lab.run(X)[:, 0, 0].tolist() == [2.0, 2.0]
    kill(executor, 0)
    assert lab.run(X)[:, 0, 0].tolist() == [1.0, 3.0]
    assert lab.run(X)[:, 0, 0].tolist() == [2.0, 4.0]


def test_random_numbers_are_those_of_the_run_whatever_became_of_the_lane(lab: Lab) -> None:
    lab.combine("stack")
    lab.register("a", Draws(), example=X)
    lab.register("b", Draws())
    executor = in_lanes(lab, ("a",), ("b",))
    torch.manual_seed(7)
    wanted = lab.run(X).clone()
    kill(executor, 0)
    lab.run(X)
    torch.manual_seed(7)
    assert torch.equal(lab.run(X), wanted)


class DrawsIfMany(nn.Module):
    """Draws random numbers for batches that are larger than its example."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(x, 0.5, training=len(x) > 4)


def test_random_numbers_that_no_example_shows_are_those_of_the_first_run_of_the_new_lane_too(lab: Lab) -> None:
    lab.combine("stack")
    lab.register("a", DrawsIfMany(), example=X)
    lab.register("b", DrawsIfMany())
    executor = in_lanes(lab, ("a",), ("b",))
    x = torch.rand(16, 8) + 1

    def seeded() -> torch.Tensor:
        torch.manual_seed(7)
        answer: torch.Tensor = lab.run(x)
        return answer

    wanted = seeded()
    kill(executor, 0)
    assert torch.equal(seeded(), wanted)
    assert torch.equal(seeded(), wanted)


def test_several_lanes_are_started_together_and_all_of_them_as_a_new_plan_would_be(lab: Lab) -> None:
    lab.combine("mean")
    for name, factor in (("a", 1.0), ("b", 3.0), ("c", 5.0)):
        lab.register(name, Times(factor), example=X)
    executor = in_lanes(lab, ("a",), ("b",), ("c",))
    last = executor.pids[2]
    kill(executor, 0, 1)
    torch.testing.assert_close(lab.run(X), X * 3)
    assert executor_of(lab) is executor
    assert executor.pids[2] == last
    kill(executor, 0, 1, 2)
    assert not executor.revivable
    torch.testing.assert_close(lab.run(X), X * 3)
    assert executor_of(lab) is not executor


def test_where_it_cannot_be_started_alone_all_lanes_are(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.combine("mean")
    lab.register("a", Times(1.0), example=X)
    lab.register("b", Times(3.0))
    executor = in_lanes(lab, ("a",), ("b",))

    def refused(*_: object, **__: object) -> None:
        raise DeviceError("There is a place for it")

    monkeypatch.setattr(Executor, "revive", refused)
    kill(executor, 0)
    torch.testing.assert_close(lab.run(X), X * 2)
    assert executor_of(lab) is not executor


def test_a_member_that_has_changed_meanwhile_is_the_new_one_in_every_lane(lab: Lab) -> None:
    lab.combine("mean")
    lab.register("a", Times(1.0), example=X)
    lab.register("b", Times(3.0))
    executor = in_lanes(lab, ("a",), ("b",))
    before = executor.pids[0]
    kill(executor, 1)
    lab.register("a", Times(5.0))
    torch.testing.assert_close(lab.run(X), X * 4)
    assert executor.pids[0] == before


def test_a_lane_of_a_later_stage_is_started_alone(lab: Lab) -> None:
    lab.combine("softmax-mean")
    for seed, name in enumerate("abc"):
        lab.register(name, mlp(seed=seed), example=X)
    lanes = (Lane(units=1, members=("a",)), *(Lane(units=1, members=(name,), stage=1) for name in "bc"))
    plan = Plan(lanes=lanes, units=lab.device.units, reach=(1.0, 1.0), threshold=1.0)
    lab.apply(plan)
    wanted = lab.run(X).clone()
    executor = executor_of(lab)
    before = executor.pids
    kill(executor, 1)
    torch.testing.assert_close(lab.run(X), wanted)
    assert executor_of(lab) is executor
    assert (executor.pids[0], executor.pids[2]) == (before[0], before[2])
    lab.apply(replace(plan, threshold=0.01))
    assert lab.run(X).shape == (4, 3)
    assert len(lab.report.stages) == 2
