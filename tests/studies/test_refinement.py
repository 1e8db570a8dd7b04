"""Refinement, driven: what is run in which order, when it ends, and that the best measured plan is kept."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from choosing_lab import with_points
from models import Sleeper

from esen_lab import Lab, Plan
from esen_lab.cost_model import fit_points
from esen_lab.errors import EsenError, InfeasibleError, UsageError
from esen_lab.planner import Limits, search
from esen_lab.planner.plan import Lane
from esen_lab.run import RunReport, Span
from esen_lab.studies import LaneRuns, Refined, Round, refine_plan

UNITS = 4
TABLES = {
    "a": {1: 8e-3, 2: 4e-3, 3: 3e-3, 4: 2.5e-3},
    "b": {1: 8e-3, 2: 4e-3, 3: 3e-3, 4: 2.5e-3},
    "c": {1: 2e-3, 2: 1e-3, 3: 1e-3, 4: 1e-3},
}
MODELS = {name: fit_points(name, points, UNITS) for name, points in TABLES.items()}


class Machine:
    """Runs plans in no time: each sub-model takes its table's time multiplied by what the machine does to it."""

    def __init__(self, slower: Mapping[str, float] | None = None, drift: float = 1.0, runs: int = 3) -> None:
        self.slower, self.drift, self.runs = slower or {}, drift, runs
        self.plans: list[Plan] = []

    def of(self, plan: Plan) -> Generator[RunReport, None, None]:
        self.plans.append(plan)
        worse = self.drift ** (len(self.plans) - 1)
        for _ in range(self.runs):
            spans, ends = [], [0.0]
            for number, lane in enumerate(plan.lanes):
                now = 0.0
                for name in lane.members:
                    end = now + worse * self.slower.get(name, 1.0) * TABLES[name][lane.units]
                    spans.append(Span(name=name, lane=number, start_s=now, end_s=end))
                    now = end
                ends.append(now)
            yield RunReport(jct_s=max(ends), spans=tuple(spans), lanes=(), copy_s=0.0, combine_s=0.0)


def as_plan(plan: Plan) -> Plan:
    return plan


def refined(machine: Machine, first: Plan | None = None, **options: Any) -> Refined:
    first = first or search(MODELS, UNITS, sequential_within=0.0).plan
    return refine_plan(first, MODELS, cast("LaneRuns", machine), as_plan, sequential_within=0.0, **options)


def test_a_plan_that_runs_as_predicted_stays() -> None:
    machine = Machine()
    found = refined(machine)
    assert len(machine.plans) == len(found.rounds) == 1
    assert found.best == 0
    assert found.plan.lanes == machine.plans[0].lanes
    assert found.plan.measured_s == found.rounds[0].measured_s
    assert "already measured" in found.reason


def test_a_sub_model_that_is_slower_in_company_gets_more() -> None:
    machine = Machine({"c": 6.0})
    found = refined(machine)
    assert found.best > 0
    assert found.gain > 0.01
    assert found.plan.measured_s == min(one.measured_s for one in found.rounds)
    assert any(note.startswith("refined: measured") for note in found.plan.notes)
    assert Plan.from_dict(found.plan.to_dict()) == found.plan


@pytest.mark.parametrize("drift", [1.0, 1.3, 3.0])
@pytest.mark.parametrize("slow", ["a", "c"])
def test_it_never_keeps_a_plan_that_was_measured_worse_than_the_best_and_ends_after_four(
    drift: float, slow: str
) -> None:
    machine = Machine({slow: 5.0}, drift=drift)
    found = refined(machine, least_gain=0.0)
    assert len(machine.plans) <= 4
    assert found.rounds[found.best].measured_s == min(one.measured_s for one in found.rounds)
    assert found.plan.lanes == found.rounds[found.best].plan.lanes


def test_each_round_is_told_with_its_decision() -> None:
    told: list[tuple[Round, ...]] = []
    found = refined(Machine({"c": 6.0}), on_round=told.append)
    assert [len(rounds) for rounds in told] == list(range(1, len(found.rounds) + 1))
    assert all(one.decision for one in found.rounds)
    data = found.to_dict()
    assert len(data["rounds"]) == len(found.rounds)
    assert data["plan"]["measured_s"] == found.plan.measured_s


def test_limits_hold_in_every_round() -> None:
    machine = Machine({"c": 6.0})
    limits = Limits(pinned={"a": 1})
    first = search(MODELS, UNITS, limits=limits).plan
    refined(machine, first, limits=limits)
    assert all(plan.lane_of("a").units == 1 for plan in machine.plans)


def test_stopping_and_ctrl_c_keep_the_best_measured() -> None:
    stop = threading.Event()

    def after_one(rounds: tuple[Round, ...]) -> None:
        stop.set()

    found = refined(Machine({"c": 6.0}), stop=stop, on_round=after_one)
    assert len(found.rounds) == 1
    assert found.reason.startswith("stopped on request")

    def interrupt(rounds: tuple[Round, ...]) -> None:
        raise KeyboardInterrupt

    found = refined(Machine({"c": 6.0}), on_round=interrupt)
    assert found.reason.startswith("interrupted")
    with pytest.raises(UsageError, match="before its first plan"):
        refined(Machine(), stop=stop)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"most_rounds": 0}, "at least one round"),
        ({"most_rounds": 1.5}, "at least one round"),
        ({"least_gain": 1.0}, "a fraction from 0 up to 1"),
        (
            {"first": Plan(lanes=(Lane(units=4, members=("a", "b", "c"), mode="threads"),), units=4)},
            "one after another",
        ),
    ],
)
def test_what_cannot_be_refined_is_refused(options: dict[str, Any], message: str) -> None:
    machine = Machine()
    with pytest.raises(UsageError, match=message):
        refined(machine, **options)
    assert machine.plans == []


# --- the lab, with real lanes -------------------------------------------------------------------------------------

X = torch.ones(2)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Lab]]:
    made: list[Lab] = []

    def make(**modules: Any) -> Lab:
        lab = Lab(device="cpu", store=tmp_path / "profiles.sqlite")
        made.append(lab)
        for name, module in modules.items():
            lab.register(name, module, example=X)
        table = [0.01] * lab.device.units
        return with_points(lab, dict.fromkeys(modules, table))

    yield make
    for lab in made:
        lab.close()


def test_the_lab_refines_with_real_lanes_and_takes_the_best(make: Callable[..., Lab]) -> None:
    lab = make(a=Sleeper(0.02), b=Sleeper(0.01), c=Sleeper(0.005))
    found = lab.studies.refine(X, runs=2, rounds=3)
    assert 1 <= len(found.rounds) <= 3
    assert lab.plan is found.plan
    assert found.plan.measured_s == min(one.measured_s for one in found.rounds)
    assert set(found.rounds[0].submodel_s) == {"a", "b", "c"}
    assert found.rounds[0].submodel_s["a"] > 0.019


def test_the_lab_keeps_to_the_limits_of_the_last_search(make: Callable[..., Lab]) -> None:
    lab = make(a=Sleeper(0.02), b=Sleeper(0.001))
    lab.search(limits={"max_lanes": 1})
    found = lab.studies.refine(runs=1)
    assert all(len(one.plan.lanes) == 1 for one in found.rounds)


def test_the_limits_of_a_search_that_found_nothing_are_forgotten(make: Callable[..., Lab]) -> None:
    lab = make(a=Sleeper(0.001), b=Sleeper(0.001))
    lab.search(limits={"max_lanes": 1})
    with pytest.raises(InfeasibleError):
        lab.search(limits={"memory_limit_bytes": 1})
    with pytest.raises(InfeasibleError):
        lab.start_search(limits={"memory_limit_bytes": 1}).result(timeout=30)
    assert all(len(one.plan.lanes) == 1 for one in lab.studies.refine(runs=1).rounds)


def test_bad_input_leaves_the_plan_as_it_was(make: Callable[..., Lab]) -> None:
    lab = make(a=Sleeper(0.001), b=Sleeper(0.001))
    before = lab.search()
    for options in ({"rounds": 0}, {"runs": 0}, {"runs": True}, {"least_gain": 2.0}, {"limits": {"pinned": {"z": 1}}}):
        with pytest.raises(UsageError):
            lab.studies.refine(X, **options)
    with pytest.raises(EsenError):
        lab.studies.refine("no tensor")
    assert lab.plan is before


def test_refining_before_anything_is_measured_says_what_to_do(tmp_path: Path) -> None:
    with Lab(device="cpu", store=tmp_path / "store.sqlite") as lab:
        with pytest.raises(UsageError, match="Register one"):
            lab.studies.refine(X)
        lab.register("a", Sleeper(0.001), example=X)
        with pytest.raises(UsageError, match=r"lab\.profile\(\)"):
            lab.studies.refine(X)
