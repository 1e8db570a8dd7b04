"""Answers of some of the members, with real lanes: in processes, in threads, and on what stands for a GPU.

Members are held back by files, not by time: what is late is late however slow the machine is.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cuda_doubles import CudaDouble
from gates import Gate
from in_process_doubles import InProcessDouble
from interrupting import interrupted_once
from models import Held, KillsItself, Raises, Times, mlp
from runtime_cases import X, ensemble_of, first, missing, plan_of
from waiting import when_waited_for

from esen_lab.devices import CpuDevice
from esen_lab.ensemble import Ensemble, make_combine
from esen_lab.errors import DeadlineMissed, ModelError, UsageError, WorkerDied, WorkerTimeout
from esen_lab.planner.plan import Lane, Plan
from esen_lab.run import Executor, ForkServer, RunOptions, Uncertain

Start = Callable[[Plan, Ensemble], Executor]
LONG_S = 60.0


@pytest.fixture(params=["processes", "threads", "gpu"])
def start(request: pytest.FixtureRequest, gate: Gate, fork_server: ForkServer) -> Iterator[Start]:
    started: list[Executor] = []
    helper = ForkServer()

    def start(plan: Plan, ensemble: Ensemble) -> Executor:
        if request.param == "processes":
            executor = Executor.start(plan, ensemble, CpuDevice(cores=[(0,)] * plan.units), fork_server)
        else:
            device = InProcessDouble(cuda=CudaDouble() if request.param == "gpu" else None)
            executor = Executor.start(plan, ensemble, device, helper)
        started.append(executor)
        return executor

    yield start
    gate.open()
    for executor in started:
        executor.close()
    helper.close()


def held(gate: Gate, **members: torch.nn.Module) -> Ensemble:
    """These members, and one that is held."""
    return ensemble_of(**members, late=gate.member(100.0))


def test_the_answer_is_of_the_members_that_are_done_and_the_report_names_the_others(start: Start, gate: Gate) -> None:
    executor = start(plan_of(("a", "late", "c"), ("b",)), held(gate, a=Times(1.0), b=Times(3.0), c=Times(9.0)))
    gate.close()
    ran = executor.run(X, meanwhile=gate.begun, options=first(2))
    torch.testing.assert_close(ran.output, X * 2)
    answered = ran.report.answered
    assert answered is not None
    assert answered.names == ("a", "b")
    assert missing(ran) == {"late": ("late", ""), "c": ("late", "")}
    assert answered.ended == "enough"
    assert {span.name for span in ran.report.spans} == {"a", "b"}
    assert "2 of 4 members answered: a, b. Missing:" in str(ran.report)
    assert ran.report.to_dict()["answered"]["names"] == ["a", "b"]


def test_runs_beside_a_late_lane_are_right_and_its_input_is_not_overwritten(start: Start, gate: Gate) -> None:
    executor = start(plan_of(("late", "a"), ("b",)), held(gate, a=Times(1.0), b=Times(3.0)))
    gate.close()
    for factor in (1.0, 2.0, 3.0):  # the lane of the first is late all the time
        ran = executor.run(X * factor, meanwhile=gate.begun, options=first(1))
        torch.testing.assert_close(ran.output, X * factor * 3)
    assert missing(ran)["a"] == ("late", "its lane was still at an earlier run")
    gate.open()
    ran = executor.run(X * 5, options=first(3))
    assert ran.report.answered is not None
    assert set(ran.report.answered.names) == {"a", "b", "late"}
    torch.testing.assert_close(ran.output, X * 5 * (1 + 3 + 100) / 3)
    torch.testing.assert_close(executor.run(X * 7).output, X * 7 * (1 + 3 + 100) / 3)


def test_a_plain_run_after_it_waits_for_the_late_lane_and_says_so(start: Start, gate: Gate) -> None:
    executor = start(plan_of(("late",), ("b",)), held(gate, b=Times(3.0)))
    gate.close()
    executor.run(X, meanwhile=gate.begun, options=first(1))
    when_waited_for(executor._groups[0].stepwise, gate.open)
    ran = executor.run(X * 2)
    torch.testing.assert_close(ran.output, X * 2 * (100 + 3) / 2)
    assert any("waited" in note and "late from an earlier call: late" in note for note in ran.report.notes)
    assert not any("waited" in note for note in executor.run(X).report.notes), "it is said of that run alone"


def test_a_late_lane_stops_after_the_member_at_hand(start: Start, gate: Gate, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    behind = Held(str(gate.path), 5.0, str(calls))
    executor = start(plan_of(("late", "behind"), ("b",)), held(gate, behind=behind, b=Times(3.0)))
    begun = len(calls.read_text().splitlines())
    gate.close()
    executor.run(X, meanwhile=gate.begun, options=first(1))
    gate.open()
    executor.run(X)
    assert len(calls.read_text().splitlines()) == begun + 1, "only for the plain run"


def test_inputs_of_other_shapes_go_through_beside_a_late_lane(start: Start, gate: Gate) -> None:
    executor = start(plan_of(("late",), ("b", "c"), ("d",)), held(gate, b=Times(3.0), c=Times(5.0), d=Times(7.0)))
    gate.close()
    for rows in (4, 2, 9, 9, 1, 64):
        x = torch.randn(rows, 8)
        torch.testing.assert_close(executor.run(x, meanwhile=gate.begun, options=first(3)).output, x * 5)
    gate.open()
    for rows in (64, 3, 4):
        x = torch.randn(rows, 8)
        torch.testing.assert_close(executor.run(x).output, x * (100 + 3 + 5 + 7) / 4)


def test_outputs_that_change_their_shape_do_not_touch_what_was_told_before(start: Start, gate: Gate) -> None:
    executor = start(plan_of(("b", "late", "c")), held(gate, b=Times(3.0), c=Times(5.0)))
    gate.close()
    x = torch.randn(33, 8)
    torch.testing.assert_close(executor.run(x, meanwhile=gate.begun, options=first(1)).output, x * 3)
    gate.open()
    torch.testing.assert_close(executor.run(x, options=first(3)).output, x * 36)


def test_with_too_few_done_at_the_deadline_an_error_names_them_and_the_lanes_stay_warm(
    start: Start, gate: Gate
) -> None:
    executor = start(plan_of(("late",), ("b",)), held(gate, b=Times(3.0)))
    executor.run(X)
    gate.close()
    with pytest.raises(DeadlineMissed, match="At least 2 of 2 members are done within") as caught:
        executor.run(X, meanwhile=gate.begun, options=RunOptions(deadline_s=0.5, at_least=2))
    assert dict(caught.value.missing)["late"] == "late"
    assert isinstance(caught.value, WorkerTimeout)
    gate.open()
    assert not executor.broken
    torch.testing.assert_close(executor.run(X).output, X * 103 / 2)


def test_an_answer_that_is_whole_before_its_deadline_is_that_of_all(start: Start, gate: Gate) -> None:
    executor = start(plan_of(("a", "b"), ("late",)), held(gate, a=Times(1.0), b=Times(3.0)))
    ran = executor.run(X, options=RunOptions(deadline_s=LONG_S))
    torch.testing.assert_close(ran.output, executor.run(X).output)
    answered = ran.report.answered
    assert answered is not None
    assert (answered.ended, answered.missing, answered.kept) == ("all", (), True)
    assert answered.at_s < LONG_S


def test_weights_are_those_of_the_members_that_answered(start: Start, gate: Gate) -> None:
    ensemble = held(gate, a=Times(1.0), b=Times(4.0))
    weighted = ensemble.with_combine(make_combine("weighted", weights={"a": 1, "b": 2, "late": 5}))
    executor = start(plan_of(("a",), ("b",), ("late",)), weighted)
    gate.close()
    torch.testing.assert_close(executor.run(X, meanwhile=gate.begun, options=first(2)).output, X * 3)


@pytest.mark.parametrize(
    "rule", ["stack", lambda outputs: next(iter(outputs.values()))], ids=["stack", "a function of one's own"]
)
def test_a_rule_that_needs_all_members_is_refused_before_anything_runs(fork_server: ForkServer, rule: Any) -> None:
    ensemble = ensemble_of(a=Times(1.0), b=Times(2.0)).with_combine(make_combine(rule))
    executor = Executor.start(plan_of(("a",), ("b",)), ensemble, CpuDevice(cores=[(0,)] * 2), fork_server)
    try:
        for options in (RunOptions(deadline_s=LONG_S), RunOptions(on_failure="leave-out"), RunOptions(stop_early=0.9)):
            with pytest.raises(UsageError, match="needs a rule that has a meaning for any of them"):
                executor.run(X, options=options)
        uncertain = executor.run(X, options=RunOptions(uncertainty=True)).output
        torch.testing.assert_close(uncertain.answer, executor.run(X).output)
    finally:
        executor.close()


def test_a_group_is_several_members_at_once_and_a_split_member_is_there_with_its_last_part(
    start: Start, gate: Gate
) -> None:
    a, b = mlp(seed=1, outputs=8), mlp(seed=2, outputs=8)
    ensemble = ensemble_of(a=a, b=b, split=Times(3.0), late=gate.member(100.0))
    plan = Plan(
        lanes=(Lane(units=1, members=("a+b", "split 1/2")), Lane(units=1, members=("late", "split 2/2"))), units=4
    )
    executor = start(plan, ensemble)
    whole = executor.run(X, options=RunOptions(deadline_s=LONG_S))
    torch.testing.assert_close(whole.output, executor.run(X).output)
    gate.close()
    ran = executor.run(X, meanwhile=gate.begun, options=first(2))
    with torch.no_grad():
        torch.testing.assert_close(ran.output, (a(X) + b(X)) / 2)
    assert set(missing(ran)) == {"late", "split"}


def test_a_member_that_raises_is_an_error_unless_it_may_be_left_out(start: Start, gate: Gate) -> None:
    ensemble = ensemble_of(example=X[:1], raises=Raises(), a=Times(3.0), late=Held(str(gate.path), 5.0))
    executor = start(plan_of(("raises", "a"), ("late",)), ensemble)
    with pytest.raises(ModelError, match="a batch of one"):
        executor.run(X, options=RunOptions(deadline_s=LONG_S))
    ran = executor.run(X, options=RunOptions(on_failure="leave-out"))
    torch.testing.assert_close(ran.output, X * 4)
    assert missing(ran)["raises"][0] == "failed"
    assert "LEFT OUT" in str(ran.report).splitlines()[1]
    assert "a batch of one" in str(ran.report)
    with pytest.raises(ModelError, match="a batch of one") as caught:
        executor.run(X, options=RunOptions(on_failure="leave-out", at_least=3))
    assert caught.value.__notes__[0].startswith("An answer of at least 3 members was asked for. raises:")
    torch.testing.assert_close(executor.run(X[:1]).output, X[:1] * 3)


def test_a_member_whose_lane_dies_is_left_out_and_what_it_had_answered_counts(fork_server: ForkServer) -> None:
    ensemble = ensemble_of(a=Times(2.0), dies=KillsItself(), b=Times(4.0), c=Times(6.0), example=X.abs())
    executor = Executor.start(plan_of(("a", "dies", "b"), ("c",)), ensemble, CpuDevice(cores=[(0,)] * 2), fork_server)
    try:
        x = -X.abs()
        ran = executor.run(x, options=RunOptions(on_failure="leave-out"))
        torch.testing.assert_close(ran.output, x * 4)
        assert {name: why for name, (why, _) in missing(ran).items()} == {"dies": "failed", "b": "failed"}
        assert "SIGKILL" in missing(ran)["dies"][1]
        assert executor.broken, "it starts anew for the next run"
        with pytest.raises(WorkerDied):
            executor.run(x)
    finally:
        executor.close()


def test_a_vote_that_is_decided_is_not_waited_for(start: Start, gate: Gate) -> None:
    ensemble = held(gate, a=Times(1.0), b=Times(3.0)).with_combine(make_combine("majority"))
    executor = start(plan_of(("a",), ("b",), ("late",)), ensemble)
    gate.close()
    ran = executor.run(X, meanwhile=gate.begun, options=RunOptions(stop_early="decided"))
    assert torch.equal(ran.output, X.argmax(-1))
    answered = ran.report.answered
    assert answered is not None
    assert (answered.ended, answered.names) == ("decided", ("a", "b"))
    assert missing(ran) == {"late": ("not needed", "")}
    assert "no missing member could have changed a row" in str(ran.report)


def test_a_confident_answer_is_not_waited_for_and_says_what_is_certain(start: Start, gate: Gate) -> None:
    ensemble = held(gate, a=Times(50.0), b=Times(70.0)).with_combine(make_combine("softmax-mean"))
    executor = start(plan_of(("a",), ("b",), ("late",)), ensemble)
    gate.close()
    x = torch.eye(8)[:3]
    ran = executor.run(x, meanwhile=gate.begun, options=RunOptions(stop_early=0.99, at_least=2))
    answered = ran.report.answered
    assert answered is not None
    assert (answered.ended, answered.certain_rows, answered.rows) == ("confident", 3, 3)
    torch.testing.assert_close(ran.output, x, atol=1e-4, rtol=0)


def test_stopping_early_on_scores_that_are_no_probabilities_is_refused(start: Start, gate: Gate) -> None:
    executor = start(plan_of(("a",), ("b",)), ensemble_of(a=Times(1.0), b=Times(2.0)))
    with pytest.raises(UsageError, match="probabilities"):
        executor.run(X, options=RunOptions(stop_early=0.9))
    torch.testing.assert_close(executor.run(X).output, X * 1.5)


def test_uncertainty_is_of_the_members_that_answered(start: Start, gate: Gate) -> None:
    executor = start(plan_of(("a",), ("b", "late")), held(gate, a=Times(1.0), b=Times(3.0)))
    gate.close()
    found = executor.run(X, meanwhile=gate.begun, options=first(2, uncertainty=True)).output
    assert isinstance(found, Uncertain)
    torch.testing.assert_close(found.answer, X * 2)
    torch.testing.assert_close(found.mean, X * 2)
    torch.testing.assert_close(found.variance, X.square())
    assert (found.entropy, found.probabilities, found.members) == (None, False, ("a", "b"))


def test_the_time_of_the_whole_call_ends_lanes_as_ever(start: Start, gate: Gate) -> None:
    executor = start(plan_of(("late",), ("b",)), held(gate, b=Times(3.0)))
    gate.close()
    with pytest.raises(WorkerTimeout, match="it was waiting for the lane of late"):
        executor.run(X, meanwhile=gate.begun, options=first(2), timeout_s=0.5)
    assert executor.broken


def test_what_the_lanes_are_asked_beside_runs_waits_for_late_ones(start: Start, gate: Gate) -> None:
    executor = start(plan_of(("late",), ("b",)), held(gate, b=Times(3.0)))
    gate.close()
    executor.run(X, meanwhile=gate.begun, options=first(1))
    when_waited_for(executor._groups[0].stepwise, gate.open)
    members = executor.run_members(X * 2).members
    torch.testing.assert_close(members["late"], X * 200)
    torch.testing.assert_close(members["b"], X * 6)


def test_ctrl_c_leaves_lanes_that_answer_right(fork_server: ForkServer, gate: Gate) -> None:
    executor = Executor.start(
        plan_of(("late",), ("b",)), held(gate, b=Times(3.0)), CpuDevice(cores=[(0,)] * 2), fork_server
    )
    try:
        gate.close()
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with interrupted_once(gate.has_begun, then=gate.open):
                executor.run(X, options=first(2))
        finally:
            signal.signal(signal.SIGINT, before)
        if not executor.broken:
            torch.testing.assert_close(executor.run(X * 3).output, X * 3 * 103 / 2)
    finally:
        executor.close()


def test_members_without_weight_are_neither_enough_nor_an_answer(start: Start, gate: Gate) -> None:
    ensemble = held(gate, a=Times(1.0), b=Times(4.0))
    weighted = ensemble.with_combine(make_combine("weighted", weights={"a": 0, "b": 0, "late": 1}))
    executor = start(plan_of(("a",), ("b",), ("late",)), weighted)
    gate.close()
    with pytest.raises(DeadlineMissed, match="At least 1 of 3"):
        executor.run(X, meanwhile=gate.begun, options=RunOptions(deadline_s=0.5))
    gate.open()
    torch.testing.assert_close(executor.run(X, options=RunOptions(deadline_s=LONG_S)).output, X * 100)


@pytest.mark.parametrize("rows", [0, 1])
def test_batches_of_no_row_and_of_one(start: Start, gate: Gate, rows: int) -> None:
    executor = start(plan_of(("a",), ("b", "late")), held(gate, a=Times(1.0), b=Times(3.0)))
    x = X[:rows]
    torch.testing.assert_close(executor.run(x, options=RunOptions(deadline_s=LONG_S)).output, x * 104 / 3)
    executor.run(x)  # it waits until all lanes are at rest
    gate.close()
    torch.testing.assert_close(executor.run(x, meanwhile=gate.begun, options=first(2)).output, x * 2)


def test_a_tie_of_the_votes_that_are_there_is_settled_as_that_of_all_would_be(start: Start, gate: Gate) -> None:
    ensemble = held(gate, a=Times(1.0), b=Times(-1.0)).with_combine(make_combine("majority"))
    executor = start(plan_of(("a",), ("b",), ("late",)), ensemble)
    gate.close()
    found = executor.run(X, meanwhile=gate.begun, options=first(2)).output
    rule = ensemble.combine.for_members(("a", "b"), ensemble.names)
    assert torch.equal(found, rule({"a": X, "b": -X}))
