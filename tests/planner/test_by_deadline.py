"""Plans for a deadline, against all plans there are."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from esen_lab.errors import UsageError
from esen_lab.planner import allocate
from esen_lab.planner.by_deadline import DeadlineSearch, ReadyBy
from esen_lab.planner.plan import Lane, Plan

Tables = dict[str, list[float]]


def tables_of(drawn: random.Random, members: int, units: int) -> Tables:
    tables: Tables = {}
    for name in "abcdefghijklmnop"[:members]:
        alone = drawn.uniform(1.0, 4.0)
        tables[name] = [alone / (1 + 0.7 * (share - 1)) for share in range(1, units + 1)]
    return tables


def accuracy_of(drawn: random.Random, names: Sequence[str]) -> Callable[[tuple[str, ...]], float]:
    """Any function of sets: more members are not always better."""
    known: dict[tuple[str, ...], float] = {}

    def accuracy(chosen: tuple[str, ...]) -> float:
        assert chosen == tuple(name for name in names if name in chosen), "in the order of the ensemble"
        return known.setdefault(chosen, round(drawn.random(), 2))

    return accuracy


def accuracy_on_samples(seed: int, names: Sequence[str]) -> Callable[[tuple[str, ...]], float]:
    """Of members whose mean score decides, as those of real ensembles do."""
    drawn = np.random.default_rng(seed)
    skill = {name: drawn.uniform(0.2, 1.5) for name in names}
    margins = {name: drawn.normal(skill[name], 1.0, 300) + 0.4 * drawn.normal(0, 1, 300) for name in names}
    return lambda chosen: float(np.mean(sum(margins[name] for name in chosen) > 0))


def partitions(names: Sequence[str]) -> Iterator[list[list[str]]]:
    if not names:
        yield []
        return
    for rest in partitions(names[1:]):
        yield [[names[0]], *rest]
        for i in range(len(rest)):
            yield [*rest[:i], [names[0], *rest[i]], *rest[i + 1 :]]


def ready_sets(tables: Tables, units: int, deadline_s: float) -> set[tuple[str, ...]]:
    """All sets that are ready by a deadline under some plan of all members, in some order."""
    found = set()
    for groups in partitions(list(tables)):
        for shares in itertools.product(range(1, units + 1), repeat=len(groups)):
            if sum(shares) > units:
                continue
            beginnings = []
            for group, share in zip(groups, shares, strict=True):
                own = set()
                for order in itertools.permutations(group):
                    at_s, done = 0.0, []
                    for name in order:
                        at_s += tables[name][share - 1]
                        if at_s > deadline_s:
                            break
                        done.append(name)
                    own.add(frozenset(done))
                beginnings.append(own)
            found.update(tuple(sorted(frozenset().union(*chosen))) for chosen in itertools.product(*beginnings))
    return found - {()}


def look(tables: Tables, units: int, deadline_s: float, accuracy: Callable[[tuple[str, ...]], float]) -> ReadyBy:
    return DeadlineSearch(tables, units, accuracy, deadline_s)(allocate(tables, units, sequential_within=0.0).plan)


@pytest.mark.parametrize("seed", range(12))
def test_the_bound_holds_for_every_plan_and_what_is_called_proven_reaches_it(seed: int) -> None:
    drawn = random.Random(seed)
    units = drawn.choice((2, 3))
    tables = tables_of(drawn, 4, units)
    accuracy = accuracy_of(drawn, list(tables))
    deadline_s = drawn.uniform(0.5, 6.0)
    best = max(map(accuracy, ready_sets(tables, units, deadline_s)), default=None)
    found = look(tables, units, deadline_s, accuracy)
    assert sorted(found.plan.names) == sorted(tables), "every member runs"
    assert sum(lane.units for lane in found.plan.lanes) <= units
    if best is None:
        assert (found.ready, found.accuracy, found.bound, found.proven) == ((), None, None, True)
        return
    assert found.bound is not None
    assert found.bound >= best - 1e-12
    assert found.accuracy is None or found.accuracy <= best
    if found.proven:
        assert found.accuracy == pytest.approx(best)


def test_most_of_the_time_the_best_is_found_and_proven() -> None:
    proven = 0
    for seed in range(30):
        drawn = random.Random(1000 + seed)
        tables = tables_of(drawn, 6, 4)
        proven += look(tables, 4, drawn.uniform(1.0, 5.0), accuracy_on_samples(seed, list(tables))).proven
    assert proven >= 24


def test_what_is_called_ready_is_who_ends_by_then() -> None:
    tables = {"a": [1.0], "b": [2.0], "c": [4.0]}
    worth = {"a": 0.5, "b": 0.6, "c": 0.9}
    found = look(tables, 1, 5.0, lambda names: max(worth[name] for name in names))
    assert found.ready == ("a", "c")
    assert found.plan.lanes[0].members[:1] == ("c",), "the most accurate goes first"
    assert "a, c are expected to be ready: 90.0 % right" in found.sentence
    assert "proven" in found.sentence


def test_a_member_that_would_spoil_the_answer_is_kept_behind_a_longer_one() -> None:
    tables = {"good": [1.0], "bad": [1.0], "long": [3.0]}
    accuracy = {("good",): 0.9, ("good", "bad"): 0.4, ("bad",): 0.1}
    found = look(tables, 1, 2.5, lambda names: accuracy.get(names, 0.2))
    assert found.plan.lanes[0].members == ("good", "long", "bad")
    assert (found.ready, found.accuracy, found.proven) == (("good",), 0.9, True)


def test_time_that_a_run_costs_besides_is_not_the_lanes() -> None:
    tables = {"a": [1.0], "b": [1.0]}
    plan = Plan(lanes=(Lane(units=1, members=("a", "b")),), units=1)
    all_of_it = DeadlineSearch(tables, 1, len, 2.0)(plan)
    less = DeadlineSearch(tables, 1, len, 2.0, overhead_s=0.1)(plan)
    assert (all_of_it.ready, less.ready) == (("a", "b"), ("a",))
    assert DeadlineSearch(tables, 1, len, 2.0, overhead_s=3.0)(plan).ready == ()


def test_where_lanes_may_not_change_only_their_order_does() -> None:
    tables = {"a": [3.0, 1.0], "b": [3.0, 3.0]}
    plan = Plan(lanes=(Lane(units=1, members=("a",)), Lane(units=1, members=("b",))), units=2)
    held = DeadlineSearch(tables, 2, len, 2.0, free=False)(plan)
    assert held.plan.lanes == plan.lanes
    assert not held.proven
    assert "no plan can have more than" in held.sentence or held.accuracy is None
    assert DeadlineSearch(tables, 2, len, 2.0)(plan).ready == ("a",)


def test_many_members_are_ordered_too_with_the_bound_that_was_given() -> None:
    drawn = random.Random(5)
    tables = tables_of(drawn, 15, 2)
    worth = {name: drawn.random() for name in tables}
    search = DeadlineSearch(
        tables, 2, lambda names: sum(worth[n] for n in names) / 20, 6.0, most_accurate=lambda names: 0.99
    )
    plan = allocate(tables, 2, time_limit_s=0.5).plan
    found = search(plan)
    assert not search.exact
    assert found.bound == 0.99
    assert not found.proven
    before = search.ready(plan)
    assert found.accuracy is not None
    assert found.accuracy >= sum(worth[name] for name in before) / 20


@pytest.mark.parametrize("deadline_s", [0, -1.0, math.inf, math.nan, True, "soon"])
def test_a_deadline_is_a_number_of_seconds(deadline_s: object) -> None:
    with pytest.raises(UsageError, match="deadline"):
        DeadlineSearch({"a": [1.0]}, 1, len, deadline_s)  # type: ignore[arg-type]
