"""Refinement, driven: what is run in which order, when it ends, and that the best measured plan is kept."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
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
        self.in_turns: list[tuple[str, str]] = []
        self.later, self.no_room = 1.0, False  # in turns: how much longer the second takes than before

    def pairs_s(self, one: Plan, other: Plan) -> Generator[tuple[float, float], None, None]:
        self.in_turns.append((one.searcher, other.searcher))
        if self.no_room:
            raise EsenError("One plan at a time")
        times_s = [next(self.of(plan)).jct_s for plan in (one, other)]
        for number in range(12):
            yield times_s[0], times_s[1] * self.later * (1 + 0.2 * (number % 2))

    def of(self, plan: Plan, *, as_planned: bool = False) -> Generator[RunReport, None, None]:
        self.plans.append(plan)
        if as_planned and plan.searcher == "refused":
            raise EsenError("A plan that is tried runs as it says")
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


def at_once(units: int, called: str) -> Plan:
    """All at once: how long the double lets it take is that of its share."""
    lane = Lane(units=units, members=("a", "b", "c"), mode="threads")
    return Plan(lanes=(lane,), units=UNITS, searcher=called, notes=(f"all at once: {called}",))


def test_plans_that_nothing_predicts_are_run_at_the_end_and_kept_where_they_are_fastest() -> None:
    slow = search(MODELS, UNITS, limits=Limits(together=(("a", "b", "c"),), max_units=dict.fromkeys("abc", 1))).plan
    asked: list[Plan] = []
    told: list[int] = []

    def others(best: Plan) -> list[Plan]:
        asked.append(best)
        return [at_once(1, "one core"), at_once(1, "refused"), at_once(4, "all cores")]

    machine = Machine()
    found = refined(machine, slow, most_rounds=1, others=others, on_round=lambda rounds: told.append(len(rounds)))
    assert asked == [slow]
    assert [plan.searcher for plan in machine.plans[1:4]] == ["one core", "refused", "all cores"]
    assert found.plan.searcher == "all cores"
    assert found.plan.measured_s == found.rounds[2].measured_s
    assert found.rounds[2].decision.startswith("all at once: all cores; in turns it takes 0.")
    assert found.rounds[2].decision.endswith("times as long as round 1")
    assert "2 plans with all sub-models at once were run besides" in found.reason
    assert told == [1, 2, 3, 3]


@pytest.mark.parametrize(("later", "kept"), [(0.9, "all cores"), (5.0, "exact"), (30.0, "exact")])
def test_the_luckiest_of_several_is_run_in_turns_with_the_best_searched_one(later: float, kept: str) -> None:
    slow = search(MODELS, UNITS, limits=Limits(together=(("a", "b", "c"),), max_units=dict.fromkeys("abc", 1))).plan
    machine = Machine()
    machine.later = later
    found = refined(machine, slow, most_rounds=1, others=lambda best: [at_once(4, "all cores")])
    assert machine.in_turns == [(slow.searcher, "all cores")]
    assert (found.plan.searcher == "all cores") == (kept == "all cores")
    assert found.plan.measured_s == found.rounds[found.best].measured_s
    assert found.rounds[found.best].runs == 12


def test_where_two_plans_have_no_room_at_a_time_the_measured_one_stays() -> None:
    slow = search(MODELS, UNITS, limits=Limits(together=(("a", "b", "c"),), max_units=dict.fromkeys("abc", 1))).plan
    machine = Machine()
    machine.no_room = True
    found = refined(machine, slow, most_rounds=1, others=lambda best: [at_once(4, "all cores")])
    assert found.plan.searcher == "all cores"
    assert found.rounds[1].decision == "all at once: all cores"


def test_plans_that_nothing_predicts_are_left_where_they_are_no_faster() -> None:
    found = refined(Machine(), others=lambda best: [at_once(1, "one core")])
    assert (found.best, len(found.rounds)) == (0, 2)
    assert found.plan.lanes == found.rounds[0].plan.lanes


def test_a_stop_ends_other_plans_too_and_keeps_the_best_measured() -> None:
    stop = threading.Event()

    def after_two(rounds: tuple[Round, ...]) -> None:
        if len(rounds) == 2:
            stop.set()

    plans = [at_once(1, "first"), at_once(4, "second")]
    found = refined(Machine(), others=lambda best: plans, stop=stop, on_round=after_two)
    assert len(found.rounds) == 2
    assert found.reason.endswith("stopped on request before all others were run")


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


def test_two_plans_are_run_in_turns_with_real_lanes_and_who_sleeps_longer_takes_longer(
    make: Callable[..., Lab],
) -> None:
    lab = make(a=Sleeper(0.03), b=Sleeper(0.03))
    apart = Plan(lanes=(Lane(units=1, members=("a",)), Lane(units=1, members=("b",))), units=lab.device.units)
    one = Plan(lanes=(Lane(units=1, members=("a", "b")),), units=lab.device.units)
    with closing(lab._runtime.lane_runs(lab.ensemble, X, 1).pairs_s(apart, one)) as ran:
        pairs = [next(ran) for _ in range(3)]
    apart_s, one_s = (min(column) for column in zip(*pairs, strict=True))  # load can only add time
    assert apart_s < 0.059 < one_s


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
