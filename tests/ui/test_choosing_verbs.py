"""The verbs that choose plans: what they ask of the lab, what they show, and what Ctrl-C and cancel leave."""

from __future__ import annotations

from typing import Any

import pytest
from fake_front import FakeFront
from fake_lab import FakeLab
from waiting import until

from esen_lab.errors import InfeasibleError, UsageError
from esen_lab.planner import Limits, SearchJob
from esen_lab.ui.html import to_html
from esen_lab.ui.magics.lines import run_line
from esen_lab.ui.magics.verbs import plan
from esen_lab.ui.session import Session


@pytest.mark.parametrize(
    ("line", "limits"),
    [
        ("--pin wide=2,deep=1", {"pinned": {"wide": 2, "deep": 1}}),
        ("--min wide=2 --max deep=3", {"min_units": {"wide": 2}, "max_units": {"deep": 3}}),
        ("--together wide,deep slim,tall", {"together": [["wide", "deep"], ["slim", "tall"]]}),
        ("--apart wide,deep --one-each", {"apart": [["wide", "deep"]], "one_each": True}),
        ("--lanes 3 --oversubscribe 1.5", {"max_lanes": 3, "oversubscription": 1.5}),
        ("--oversubscribe unlimited", {"oversubscription": float("inf")}),
        ("--memory 4GB --lane-memory 550MB", {"memory_limit_bytes": 4_000_000_000, "lane_bytes": 550_000_000}),
        ("--memory 1.5GiB", {"memory_limit_bytes": 1_610_612_736}),
        ("--target 5ms", {"target_s": 0.005}),
    ],
)
def test_every_limit_can_be_asked_for_on_the_line(
    session: Session, lab: FakeLab, line: str, limits: dict[str, Any]
) -> None:
    run_line(session, f"search {line}")
    assert lab.calls == [("start_search", "exact", {"limits": limits})]
    Limits.of(limits)


def test_measuring_takes_a_batch_and_runs(session: Session, lab: FakeLab) -> None:
    run_line(session, "search --searcher optuna --measure x --runs 3 --trials 9")
    options = {"n_trials": 9, "objective": "measured", "x": [1, 2], "runs": 3}
    assert lab.calls == [("start_search", "optuna", options)]


def test_the_quantile_is_passed_on(session: Session, lab: FakeLab) -> None:
    run_line(session, "search --quantile q90")
    assert lab.calls == [("start_search", "exact", {"quantile": "q90"})]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("search --pin wide", "such as wide=2,deep=4"),
        ("search --pin wide=x", "such as wide=2,deep=4"),
        ("search --pin wide=1,wide=2", "such as wide=2,deep=4"),
        ("search --memory much", "such as 500MB or 4GB"),
        ("search --memory 4XB", "such as 500MB or 4GB"),
        ("search --oversubscribe twice", "or unlimited"),
        ("search --target soon", "positive number of seconds"),
        ("search --lanes few", "A whole number"),
        ("search --pinned wide=1", "Did you mean --pin"),
    ],
)
def test_a_limit_that_does_not_read_is_refused_before_anything_starts(
    session: Session, lab: FakeLab, line: str, message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        run_line(session, line)
    assert message in str(caught.value)
    assert lab.calls == []


def test_refining_runs_the_batch_keeps_to_limits_and_shows_every_round(
    session: Session, front: FakeFront, lab: FakeLab
) -> None:
    found = run_line(session, "refine x + [3] --rounds 2 --runs 5 --pin wide=1")
    assert lab.calls == [("refine", [1, 2, 3], {"rounds": 2, "runs": 5, "limits": {"pinned": {"wide": 1}}})]
    assert front.marked == [found]
    assert "Refined: 25.0 % faster" in front.text
    assert "2 (best)" in front.text
    assert "It ended: the plan was already measured." in front.text


def test_groups_and_parts_are_measured_when_asked_for_and_searched_unless_told_not_to(
    session: Session, lab: FakeLab
) -> None:
    run_line(session, "profile --groups --parts")
    run_line(session, "search --no-groups")
    run_line(session, "search --no-parts")
    assert lab.calls == [
        ("profile", None, {"groups": True, "parts": True}),
        ("start_search", "exact", {"groups": False}),
        ("start_search", "exact", {"parts": False}),
    ]


def test_profiling_adaptively_is_a_switch_with_a_tolerance(session: Session, lab: FakeLab) -> None:
    run_line(session, "profile --adaptive --within 5%")
    assert lab.calls == [("profile", None, {"adaptive": True, "within": 0.05})]
    with pytest.raises(UsageError, match="A percentage"):
        run_line(session, "profile --adaptive --within much")


def test_members_shows_the_front_and_any_point_can_be_taken(session: Session, front: FakeFront, lab: FakeLab) -> None:
    found = run_line(session, "members x x --batch 8 --seed 1")
    assert lab.calls == [("members", [1, 2], [1, 2], {"batch": 8, "seed": 1})]
    assert front.marked == [found]
    assert "Members: 2 points worth having" in front.text
    assert "data:image/svg+xml" in to_html(front.shown[-1])
    plan = run_line(session, "members x x --take 2")
    assert lab.calls[-1] == ("take", found.choices[1].names)
    assert front.marked[-1] is plan
    assert "left out" in front.text
    with pytest.raises(UsageError, match="1 to 2"):
        run_line(session, "members x x --take 3")


def test_place_and_cascade_are_planned_and_saved_on_request(session: Session, front: FakeFront, lab: FakeLab) -> None:
    found = run_line(session, 'place {"a": 1, "b": 2} --save plan.json')
    assert lab.calls == [("place", {"a": 1, "b": 2}), ("plan_of", found)]
    assert "Plan saved to plan.json" in front.text
    assert "Planned, not run" in front.text
    found = run_line(session, "cascade x --threshold 0.8 --order wide,deep --save plan.json")
    assert lab.calls[-2:] == [
        ("cascade", [1, 2], None, {"threshold": 0.8, "order": ["wide", "deep"]}),
        ("plan_of", found),
    ]
    assert "Cascade of 2 stages" in front.text
    run_line(session, "cascade x x")
    assert lab.calls[-1] == ("cascade", [1, 2], [1, 2], {})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("cascade", r"%esen cascade takes X \(.*\)\. Given: nothing\."),
        ("members x", r"%esen members takes Y \(the right class of each sample: .*\)\. Given: no more\."),
        ("members x x --take 0", "counted from 1"),
        ("members x x --take two", "A whole number"),
        ("place", r"takes EXPR \(how many devices like this one"),
        ("cascade x --threshold high", "such as 0.9"),
    ],
)
def test_what_does_not_read_is_refused(session: Session, lab: FakeLab, line: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run_line(session, line)
    assert lab.calls == []


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "FIRST_ANSWER_S", 0.05)


def test_the_first_answer_is_shown_and_the_proof_goes_on_without_blocking(
    session: Session, front: FakeFront, lab: FakeLab, impatient: None
) -> None:
    lab.endless = True
    found = run_line(session, "search")
    assert found is lab.plan
    assert front.marked == [found]
    assert "goes on in the background" in front.lives[0].text
    assert lab.search_job is not None
    assert not lab.search_job.done
    run_line(session, "cancel")
    assert "The best plan found until now stays" in front.text
    until(lambda: front.lives[0].last)
    assert "goes on in the background" not in front.lives[0].text


def test_a_terminal_is_shown_the_first_answer_once(
    session: Session, front: FakeFront, lab: FakeLab, impatient: None
) -> None:
    front.updates_in_place = False
    lab.endless = True
    run_line(session, "search")
    assert front.lives == []
    assert "The search goes on: `%esen plan`".replace("`", "") in front.text


def test_ctrl_c_while_waiting_ends_the_search_and_keeps_the_best_so_far(
    session: Session, front: FakeFront, lab: FakeLab, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.endless = True

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(plan, "_look_on", interrupt)
    found = run_line(session, "search --wait")
    assert found is lab.plan
    assert lab.search_job is not None
    assert lab.search_job.cancelled
    assert front.marked == [found]


def test_what_the_search_raises_is_raised_by_the_line(
    session: Session, lab: FakeLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def infeasible(**_: Any) -> Any:
        raise InfeasibleError("The JCT is at most 1 ms", given="no plan takes less than 2 ms: 1 ms too slow")

    monkeypatch.setattr(lab, "start_search", lambda *_, **__: SearchJob(infeasible))
    with pytest.raises(InfeasibleError, match="1 ms too slow"):
        run_line(session, "search")


def test_the_best_plan_is_asked_for_by_time_or_by_loss(session: Session, front: FakeFront, lab: FakeLab) -> None:
    plan = run_line(session, "best --within 50ms --on x,x --cascade --greedy")
    assert lab.calls == [("best_within", 0.05, [1, 2], [1, 2], {"cascade": True, "weights": "greedy"})]
    assert plan.searcher == "members"
    assert "Members" in front.shown[0].title
    run_line(session, "best --accuracy-loss 0.5% --on x,x")
    assert lab.calls[-1] == ("fastest_within", pytest.approx(0.005), [1, 2], [1, 2], {})
    for odd, message in (
        ("--on x,x", "a time, or a loss"),
        ("--within 5ms --accuracy-loss 1% --on x,x", "a time, or a loss"),
        ("--within 5ms --on x", "data and its labels"),
        ("--within 5ms", "data and its labels"),
    ):
        with pytest.raises(UsageError, match=message):
            run_line(session, f"best {odd}")


def test_a_cascade_is_put_in_force_on_request(session: Session, lab: FakeLab) -> None:
    found = run_line(session, "cascade x x --deadline 20ms")
    assert lab.calls[-1] == ("cascade", [1, 2], [1, 2], {"deadline_s": 0.02})
    assert found.stages


def test_what_a_comparison_measured_is_put_in_force_by_its_name(
    session: Session, front: FakeFront, lab: FakeLab
) -> None:
    with pytest.raises(UsageError, match="after a comparison has measured it"):
        run_line(session, "use sequential")
    run_line(session, "compare [1]")
    assert run_line(session, "use sequential") is lab.plan
    assert lab.plan is not None
    assert lab.plan.measured_s == 0.010
    for name, told in (("vmap", "did not run: two kinds"), ("sequental", "Did you mean sequential")):
        with pytest.raises(UsageError, match=told):
            run_line(session, f"use {name}")
