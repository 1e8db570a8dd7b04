"""The search over ways to group and to split: one bound for all, by exhaustion where that is possible."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest
from brute import brute_jct_s

from esen_lab.cost_model import CostModel, fit_points
from esen_lab.errors import InfeasibleError, UsageError
from esen_lab.planner import Limits, SearchProgress, search
from esen_lab.planner.allocation import Allocation
from esen_lab.planner.steps import check_steps, members_of
from esen_lab.planner.ways import EqualSet, Split, Ways, make_ways, search_ways

UNITS = 4


def model(name: str, *seconds: float) -> CostModel:
    """Of 1, 2, ... units; the last figure for all that follow."""
    curve = [*seconds, *[seconds[-1]] * (UNITS - len(seconds))]
    return fit_points(name, dict(enumerate(curve, start=1)), UNITS)


EQUAL = {name: model(name, 2.0) for name in "abcd"}
FOUR = EqualSet(members=tuple("abcd"), groups={4: model("group", 3.0), 2: model("group", 2.2)})
BIG = {"big": model("big", 9.0)}
PARTS = Split(name="big", parts={2: model("part", 5.0), 3: model("part", 3.5), 4: model("part", 2.9)})


def ways(
    models: dict[str, CostModel],
    sets: Sequence[EqualSet] = (),
    splits: Sequence[Split] = (),
    limits: Limits | None = None,
    most: int = 64,
) -> Ways:
    return make_ways(models, sets, splits, limits or Limits(), most=most)


def test_only_the_sizes_of_groups_count() -> None:
    made = ways(EQUAL, [FOUR])
    assert {tuple(sorted(way)) for way in made.ways} == {
        ("a", "b", "c", "d"),
        ("a+b+c+d",),
        ("a+b", "c+d"),
        ("a+b", "c", "d"),
    }
    assert len(made.ways) == 4
    assert list(made.ways[0]) == list("abcd"), "the plain way is the first"


def test_each_way_answers_for_every_sub_model_once() -> None:
    both = Split(name="a", parts={2: model("part", 1.1)})
    made = ways({**EQUAL, **BIG}, [FOUR], [PARTS, both])
    assert len({frozenset(way) for way in made.ways}) == len(made.ways)
    for way in made.ways:
        check_steps(list(way))
        assert set(members_of(way)) == {*"abcd", "big"}


def test_groups_and_parts_are_found_together_and_proven() -> None:
    found = search_ways(ways({**EQUAL, **BIG}, [FOUR], [PARTS]), UNITS)
    assert found.jct_s == pytest.approx(3.5)
    assert sorted(found.plan.steps) == ["a+b+c+d", "big 1/3", "big 2/3", "big 3/3"]
    assert found.proven
    assert found.bound_s == pytest.approx(3.5)
    assert found.plan.predicted_s["a+b+c+d"] == pytest.approx(3.0)


def test_the_bound_is_the_least_of_all_ways_searched_alone() -> None:
    made = ways({**EQUAL, **BIG}, [FOUR], [PARTS])
    alone = [search(way, UNITS) for way in made.ways]
    assert all(one.proven for one in alone)
    found = search_ways(made, UNITS)
    assert found.jct_s == pytest.approx(min(one.jct_s for one in alone))
    assert found.bound_s == pytest.approx(min(one.bound_s for one in alone))


def test_what_gains_less_than_is_told_apart_stays_plain_and_says_so() -> None:
    slight = EqualSet(members=tuple("abcd"), groups={2: model("group", 3.99)})
    models = {name: model(name, 2.0) for name in "abcd"}
    found = search_ways(ways(models, [slight], limits=Limits(max_lanes=1)), UNITS, limits=Limits(max_lanes=1))
    assert found.plan.steps == found.plan.names
    assert any("is no gain" in note for note in found.plan.notes)
    assert found.bound_s < found.jct_s
    assert found.proven


def test_slower_groups_are_ruled_out_and_the_plain_plan_is_that_of_the_plain_search() -> None:
    slow = EqualSet(members=tuple("abcd"), groups={4: model("group", 50.0)})
    found, plain = search_ways(ways(EQUAL, [slow]), UNITS), search(EQUAL, UNITS)
    assert found.plan.lanes == plain.plan.lanes
    assert found.bound_s == plain.bound_s
    assert found.proven


def test_sub_models_that_a_limit_names_stay_alone() -> None:
    limits = Limits(pinned={"a": 1}, apart=[["b", "big"]])
    made = ways({**EQUAL, **BIG}, [FOUR], [PARTS], limits)
    grouped = {name for way in made.ways for step in way if "+" in step for name in step.split("+")}
    assert grouped == {"c", "d"}
    assert not any("big 1" in step for way in made.ways for step in way)
    assert any("a, b, big" in note for note in made.notes)
    assert search_ways(made, UNITS, limits=limits).plan.lane_of("a").units == 1


@pytest.mark.parametrize("limits", [Limits(one_each=True), Limits(target_s=9.5)])
def test_limits_on_every_lane_keep_every_sub_model_alone(limits: Limits) -> None:
    models = {"a": EQUAL["a"], "b": EQUAL["b"], **BIG}
    two = EqualSet(members=("a", "b"), groups={2: model("group", 2.1)})
    made = ways(models, [two], [PARTS], limits)
    assert len(made.ways) == 1
    found = search_ways(made, UNITS, limits=limits)
    assert found.plan.steps == found.plan.names
    assert any("every sub-model alone" in note for note in found.plan.notes)


def test_parts_count_their_memory_each() -> None:
    limits = Limits(memory_limit_bytes=250, memory_bytes={"big": 100})
    found = search_ways(ways(BIG, splits=[PARTS]), UNITS, limits=limits)
    assert set(found.plan.steps) == {"big 1/2", "big 2/2"}, "thirds would take 300 bytes"


def test_what_cannot_be_planned_at_all_says_why_as_ever() -> None:
    limits = Limits(memory_limit_bytes=50, memory_bytes={"big": 100})
    with pytest.raises(InfeasibleError, match="at most 50 B"):
        search_ways(ways(BIG, splits=[PARTS]), UNITS, limits=limits)
    with pytest.raises(UsageError, match="takes"):
        search_ways(ways(BIG, splits=[PARTS]), UNITS, nonsense=1)


def test_ways_beyond_the_most_leave_the_plan_unproven() -> None:
    made = ways({**EQUAL, **BIG}, [FOUR], [PARTS], most=3)
    assert (len(made.ways), made.left_out) == (3, 13)
    found = search_ways(made, UNITS)
    assert not found.proven
    assert any("13 more were not" in note for note in found.plan.notes)


def test_many_equal_networks_are_enumerated_within_bounds() -> None:
    names = [f"m{i}" for i in range(300)]
    models = {name: model(name, 1.0) for name in names}
    groups = {size: model("group", 1.0) for size in (300, 150, 75, 38, 37, 19, 18, 10, 9, 5, 4, 3, 2)}
    made = ways(models, [EqualSet(members=tuple(names), groups=groups)])
    assert len(made.ways) == 64
    assert made.left_out > 0


def test_a_time_limit_holds_for_all_ways_and_what_was_not_searched_is_said() -> None:
    moments = itertools.count(0.0, 3.0)
    found = search_ways(ways({**EQUAL, **BIG}, [FOUR], [PARTS]), UNITS, clock=lambda: next(moments), time_limit_s=2.0)
    assert not found.proven
    assert found.bound_s < found.jct_s
    assert any("more were not" in note for note in found.plan.notes)


def test_better_plans_are_told_as_they_come_and_the_last_is_the_result() -> None:
    told: list[Allocation] = []
    steps: list[SearchProgress] = []
    found = search_ways(ways({**EQUAL, **BIG}, [FOUR], [PARTS]), UNITS, on_better=told.append, on_progress=steps.append)
    jcts = [one.jct_s for one in told]
    assert jcts == sorted(jcts, reverse=True)
    assert told[-1].plan.lanes == found.plan.lanes
    assert all(one.bound_s <= found.bound_s * (1 + 1e-9) for one in told), "a bound of all ways, not of one"
    assert all(step.bound_s <= found.bound_s * (1 + 1e-9) for step in steps)
    assert [jct for _, jct, _ in found.trace][-1] == found.jct_s


def test_a_search_that_is_stopped_keeps_its_best() -> None:
    stop = threading.Event()
    made = ways({**EQUAL, **BIG}, [FOUR], [PARTS])
    found = search_ways(made, UNITS, on_better=lambda _: stop.set(), stop=stop)
    assert found.plan.steps == found.plan.names
    assert not found.proven


def test_an_interrupt_between_ways_keeps_the_best() -> None:
    def interrupt(found: Allocation) -> None:
        if "big 1/3" in found.plan.steps:
            raise KeyboardInterrupt

    found = search_ways(ways({**EQUAL, **BIG}, [FOUR], [PARTS]), UNITS, on_better=interrupt)
    assert any(note.startswith("interrupted") for note in found.plan.notes)


def test_who_is_grouped_does_not_depend_on_who_was_registered_first() -> None:
    """Equal networks that measuring found a little apart: the slowest are grouped, the fastest stay alone."""
    seconds = {"a": 2.0, "b": 2.1, "c": 2.2}
    for names in itertools.permutations(seconds):
        models = {name: model(name, seconds[name]) for name in names}
        made = ways(models, [EqualSet(members=names, groups={2: model("group", 2.2)})])
        found = search_ways(made, UNITS, limits=Limits(max_lanes=1), sequential_within=0.0)
        assert found.jct_s == pytest.approx(4.2)


def test_the_bound_holds_whoever_of_nearly_equal_sub_models_is_grouped() -> None:
    """Their curves cross: which two are best grouped is not known before it is tried."""
    for seed in range(60):
        drawn = random.Random(seed)
        seconds = [drawn.uniform(0.5, 4.0) for _ in range(3)]
        curves = {name: [s * drawn.uniform(0.97, 1.03) for s in seconds] for name in "abc"}
        models = {name: fit_points(name, dict(enumerate(curve, 1)), 3) for name, curve in curves.items()}
        pair = fit_points("group", {share: drawn.uniform(0.5, 4.0) for share in (1, 2, 3)}, 3)
        made = make_ways(models, [EqualSet(members=tuple("abc"), groups={2: pair})], [], Limits())
        found = search_ways(made, 3, sequential_within=0.0)
        grouped = [brute_jct_s({"group": pair.latency_s, name: models[name].latency_s}, 3) for name in "abc"]
        best = min(brute_jct_s({name: model.latency_s for name, model in models.items()}, 3), *grouped)
        assert found.bound_s <= best * (1 + 1e-9)
        assert not found.proven or found.jct_s == pytest.approx(best)


def test_the_bound_holds_where_one_of_equal_sub_models_answers_wrongly_at_other_shares() -> None:
    """It may not have a share that the others may, so it matters whether it is in the group."""
    for seed in range(60):
        drawn = random.Random(seed)
        seconds = {share: drawn.uniform(0.5, 4.0) for share in (1, 2, 3)}
        models = {name: fit_points(name, seconds, 3) for name in "abc"}
        models["b"] = replace(models["b"], avoid=(drawn.choice((1, 2)),))
        pair = fit_points("group", {share: drawn.uniform(0.5, 4.0) for share in (1, 2, 3)}, 3)
        made = make_ways(models, [EqualSet(members=tuple("abc"), groups={2: pair})], [], Limits())
        assert made.notes == ("b: not grouped, with wrong answers at other shares than equal networks",)
        found = search_ways(made, 3, sequential_within=0.0)
        plain = brute_jct_s({name: model.table(3) for name, model in models.items()}, 3)
        best = min(plain, brute_jct_s({"group": pair.table(3), "b": models["b"].table(3)}, 3))
        assert found.bound_s <= best * (1 + 1e-9)
        assert not found.proven or found.jct_s == pytest.approx(best)
