"""One state, one bell: every change of a lab is a new record, and those who listen hear of it."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from choosing_lab import with_points
from torch import nn

from esen_lab import Lab, Plan
from esen_lab.devices import CpuDevice
from esen_lab.errors import UsageError
from esen_lab.lab import Action, LabState
from esen_lab.planner.plan import Lane

X = torch.zeros(4, 8)
WAIT_S = 60


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(CpuDevice(cores=[(0,), (0,)]), store=tmp_path / "points.sqlite3") as made:
        yield made


def heard(lab: Lab, condition: Callable[[LabState], bool]) -> tuple[threading.Event, Callable[[], None]]:
    """Set once a state that is rung fulfils the condition."""
    found = threading.Event()
    stop = lab.bell.listen(lambda state: found.set() if condition(state) else None)
    return found, stop


def one_lane(units: int = 1) -> Plan:
    return Plan(lanes=(Lane(units=units, members=("a",)),), units=2)


def test_a_state_that_was_taken_stays_what_it_was(lab: Lab) -> None:
    before = lab.state
    lab.register("a", nn.ReLU(), X)
    assert (before.ensemble.names, lab.state.ensemble.names) == ((), ("a",))
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.plan = one_lane()  # type: ignore[misc]


def test_every_change_rings_with_the_state_after_it(lab: Lab) -> None:
    changes: dict[str, tuple[Callable[[], object], Callable[[LabState], bool]]] = {
        "registered": (lambda: lab.register("a", nn.ReLU(), X), lambda state: state.ensemble.names == ("a",)),
        "combined": (lambda: lab.combine("stack"), lambda state: "stack" in state.ensemble.combine.describe()),
        "measured": (lambda: with_points(lab, {"a": [0.002, 0.001]}), lambda state: state.measured is not None),
        "planned": (lab.search, lambda state: state.plan is not None),
        "run": (lambda: lab.run(X), lambda state: state.report is not None and state.warm is not None),
    }
    for what, (change, condition) in changes.items():
        found, stop = heard(lab, condition)
        change()
        assert found.wait(WAIT_S), what
        stop()


def test_what_is_refused_changes_nothing(lab: Lab) -> None:
    lab.register("a", nn.ReLU(), X)
    before = lab.state
    with pytest.raises(UsageError):
        lab.plan = Plan(lanes=(Lane(units=1, members=("b",)),), units=2)
    with pytest.raises(UsageError):
        lab.unregister("b")
    assert lab.state is before


def test_a_profile_rings_while_it_goes_on_and_its_points_are_known_when_it_is_done(lab: Lab) -> None:
    lab.register("a", nn.ReLU(), X)
    running, stop = heard(lab, lambda state: state.profiling)
    job = lab.profile(budget_s=0.02)
    job.wait(60)
    assert running.wait(WAIT_S)
    stop()
    assert lab.state.measured is not None
    assert len(lab.state.measured.points) == 2
    assert not lab.state.profiling


def test_a_background_search_puts_its_plan_in_force_before_it_shows_it(lab: Lab) -> None:
    lab.register("a", nn.ReLU(), X)
    with_points(lab, {"a": [0.002, 0.001]})
    job = lab.start_search()
    plan = job.result(WAIT_S)
    assert lab.plan is plan is job.best
    assert lab.state.proof is not None
    later = lab.start_search()
    lab.plan = mine = one_lane()
    later.result(WAIT_S)
    assert lab.plan is mine, "a plan that is set by hand stays"


def test_a_slow_listener_keeps_no_run_waiting(lab: Lab) -> None:
    lab.register("a", nn.ReLU(), X)
    go = threading.Event()
    stop = lab.bell.listen(lambda _: go.wait(WAIT_S))
    torch.testing.assert_close(lab.run(X), torch.relu(X))
    go.set()
    stop()


def test_marks_follow_the_state(lab: Lab) -> None:
    lab.register("a", nn.ReLU(), X)
    lab.profile(budget_s=0.02).result(60)
    lab.plan = one_lane()
    _, marks = lab.readings.marks.since(0)
    assert [(mark.what, mark.phase) for mark in marks] == [("profile", "begin"), ("profile", "end"), ("plan", "")]


def test_the_next_step_is_an_action_and_why(lab: Lab) -> None:
    def action() -> Action:
        assert lab.state.next_step.why
        return lab.status().next_step.action

    seen = [action()]
    lab.register("a", nn.ReLU(), X)
    seen.append(action())
    with_points(lab, {"a": [0.002, 0.001]})
    seen.append(action())
    lab.search()
    seen.append(action())
    lab.run(X)
    seen.append(action())
    assert seen == [Action.REGISTER, Action.PROFILE, Action.SEARCH, Action.RUN, Action.COMPARE]


def test_names_that_have_moved_still_work_and_say_where_to(lab: Lab) -> None:
    with pytest.warns(DeprecationWarning, match=r"lab\.glance is lab\.readings\.glance now"):
        assert lab.glance() is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        lab.nothing  # noqa: B018


def test_the_face_stays_small() -> None:
    public = {name: thing for name, thing in vars(Lab).items() if not name.startswith("_")}
    methods = [name for name, thing in public.items() if not isinstance(thing, property)]
    assert len(methods) <= 20, "what is not called daily belongs to a part of the lab, such as `lab.studies`"
