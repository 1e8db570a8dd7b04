"""The exact searcher: proven against brute force, and indifferent to what must not matter."""

from __future__ import annotations

import random as random_module
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from brute import brute_jct_s
from hypothesis import given, settings
from hypothesis import strategies as st

from esen_lab.errors import Cancelled, UsageError
from esen_lab.planner import SearchProgress, allocate
from esen_lab.planner.exact import exact

Latencies = dict[str, list[float]]
TABLES = st.integers(1, 6).flatmap(
    lambda units: st.lists(st.lists(st.floats(0.1, 10.0), min_size=units, max_size=units), min_size=1, max_size=6)
)


def named(tables: list[list[float]]) -> Latencies:
    return {f"m{i}": table for i, table in enumerate(tables)}


@given(tables=TABLES)
def test_it_is_as_good_as_trying_every_partition_and_proves_it(tables: list[list[float]]) -> None:
    units = len(tables[0])
    found = allocate(named(tables), units, sequential_within=0.0)
    assert found.jct_s == pytest.approx(brute_jct_s(named(tables), units), rel=1e-9)
    assert found.proven
    assert found.gap == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("n", [4, 8, 12])
def test_the_fast_answer_alone_is_close(n: int, latencies: Callable[..., Latencies]) -> None:
    for seed in range(4):
        tables = latencies(n, 16, seed, noise=0.03)
        fast = allocate(tables, 16, proof=False, sequential_within=0.0)
        best = allocate(tables, 16, sequential_within=0.0, time_limit_s=60)
        assert best.jct_s * (1 - 1e-9) <= fast.jct_s <= best.jct_s * 1.03
        assert fast.bound_s <= best.jct_s * (1 + 1e-9)


@given(tables=TABLES, seed=st.integers(0, 1000))
@settings(max_examples=50)
def test_names_and_their_order_do_not_matter(tables: list[list[float]], seed: int) -> None:
    units = len(tables[0])
    names = [f"x{i}" for i in range(len(tables))]
    random_module.Random(seed).shuffle(names)
    shuffled = list(zip(names, tables, strict=True))
    random_module.Random(seed + 1).shuffle(shuffled)
    one = allocate(named(tables), units)
    other = allocate(dict(shuffled), units)
    assert other.jct_s == one.jct_s
    assert sorted((share, len(group)) for share, group in other.lanes) == sorted(
        (share, len(group)) for share, group in one.lanes
    )


@given(tables=TABLES, scale=st.floats(1e-6, 1e6))
@settings(max_examples=50)
def test_the_unit_of_time_does_not_matter(tables: list[list[float]], scale: float) -> None:
    units = len(tables[0])
    scaled = allocate(named([[scale * t for t in table] for table in tables]), units)
    assert scaled.jct_s == pytest.approx(scale * allocate(named(tables), units).jct_s, rel=1e-8)


@given(tables=TABLES)
@settings(max_examples=50)
def test_more_units_are_never_slower(tables: list[list[float]]) -> None:
    units = len(tables[0])
    if units == 1:
        return
    fewer = allocate(named([table[:-1] for table in tables]), units - 1, sequential_within=0.0)
    more = allocate(named(tables), units, sequential_within=0.0)
    assert more.jct_s <= fewer.jct_s * (1 + 1e-9)


@given(tables=TABLES)
@settings(max_examples=50)
def test_one_sub_model_less_is_never_slower(tables: list[list[float]]) -> None:
    units = len(tables[0])
    if len(tables) == 1:
        return
    all_of_them = allocate(named(tables), units, sequential_within=0.0)
    assert allocate(named(tables[1:]), units, sequential_within=0.0).jct_s <= all_of_them.jct_s * (1 + 1e-9)


@pytest.mark.timing
@pytest.mark.parametrize(("n", "units"), [(12, 16), (16, 16)])
def test_sixteen_sub_models_on_sixteen_units_are_proven_within_the_default_time(
    latencies: Callable[..., Latencies], n: int, units: int
) -> None:
    found = allocate(latencies(n, units, 1), units)
    assert found.proven
    assert found.gap == pytest.approx(0.0, abs=1e-9)
    assert found.elapsed_s < 5  # two on an idle machine


def test_same_seed_same_plan(latencies: Callable[..., Latencies]) -> None:
    tables = latencies(20, 16, 3, noise=0.05)
    one, two = (allocate(tables, 16, steps=150, seed=7, time_limit_s=60, proof=False) for _ in range(2))
    assert (one.lanes, one.jct_s, one.evaluations) == (two.lanes, two.jct_s, two.evaluations)


def test_when_sequential_is_as_good_it_is_chosen_and_said() -> None:
    perfect = {name: [6.0, 3.0, 2.0] for name in "abc"}
    found = allocate(perfect, 3)
    assert found.plan.is_sequential
    assert found.lanes == ((3, ("a", "b", "c")),)
    assert found.plan.notes[0].startswith("sequential is as good: one lane is within 0.0 % of the lower bound")


def test_a_gain_below_the_tolerance_is_not_worth_lanes_but_the_optimum_is_still_told() -> None:
    latencies = {"a": [5.97, 3.0], "b": [5.97, 3.0]}
    found = allocate(latencies, 2, sequential_within=0.01)
    assert found.plan.is_sequential
    assert found.jct_s == 6.0
    assert "within 0.5 % of" in found.plan.notes[0]
    strict = allocate(latencies, 2, sequential_within=0.0)
    assert strict.jct_s == 5.97
    assert strict.lanes == ((1, ("a",)), (1, ("b",)))


def test_two_that_do_not_scale_run_side_by_side() -> None:
    found = allocate({"a": [1.0, 1.0], "b": [1.0, 1.0], "c": [1.0, 1.0]}, 2)
    assert found.jct_s == 2.0
    assert found.bound_s == 2.0
    assert found.schedule_bound_s == 1.5


def test_a_lane_may_use_fewer_units_than_it_has() -> None:
    found = allocate({"a": [1.0, 3.0]}, 2)
    assert found.jct_s == 1.0
    assert found.plan.lanes[0].active_units == (1,)


def test_without_time_for_a_proof_it_says_so(latencies: Callable[..., Latencies]) -> None:
    found = allocate(latencies(18, 16, 1), 16, time_limit_s=0.3, steps=20)
    assert not found.proven
    assert found.plan.notes[0] == "not proven to be the best: that needs more than the time limit of 0.3 s"
    assert found.gap > 0


def test_progress_is_reported_and_never_gets_worse(latencies: Callable[..., Latencies]) -> None:
    seen: list[SearchProgress] = []
    found = allocate(latencies(9, 16, 2), 16, on_progress=seen.append)
    jcts = [progress.jct_s for progress in seen if progress.jct_s is not None]
    bounds = [progress.bound_s for progress in seen]
    assert jcts == sorted(jcts, reverse=True)
    assert bounds == sorted(bounds)
    assert seen[-1].proven
    assert seen[-1].jct_s == found.jct_s
    assert [jct_s for _, jct_s, _ in found.trace] == sorted(set(jcts), reverse=True)


def test_a_stop_keeps_the_best_so_far(latencies: Callable[..., Latencies]) -> None:
    stop = threading.Event()

    def stop_at_the_first_plan(progress: SearchProgress) -> None:
        if progress.jct_s is not None:
            stop.set()

    found = allocate(latencies(12, 16, 1), 16, stop=stop, on_progress=stop_at_the_first_plan)
    assert not found.proven
    assert found.plan.notes[-1] == "stopped on request: this is the best plan found until then"


def test_an_interrupt_keeps_the_best_so_far(latencies: Callable[..., Latencies]) -> None:
    def interrupt(progress: SearchProgress) -> None:
        if len(found_before) == 2:
            raise KeyboardInterrupt
        if progress.jct_s is not None:
            found_before.append(progress.jct_s)

    found_before: list[float] = []
    found = allocate(latencies(12, 16, 1), 16, on_progress=interrupt)
    assert found.jct_s <= found_before[-1]
    assert "interrupted: this is the best plan found until then" in found.plan.notes


def test_an_interrupt_or_a_stop_before_any_plan_is_raised(latencies: Callable[..., Latencies]) -> None:
    def interrupt(progress: SearchProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        allocate(latencies(4, 4, 1), 4, on_progress=interrupt)
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(Cancelled):
        allocate(latencies(4, 4, 1), 4, "optuna", warm_start=False, stop=stopped)


@pytest.mark.parametrize(
    "options",
    [
        {"time_limit_s": 0}, {"time_limit_s": "2"}, {"time_limit_s": float("nan")}, {"sequential_within": 1.5},
        {"sequential_within": None}, {"steps": -1}, {"steps": 1.5}, {"steps": True}, {"seed": -1}, {"proof": "no"},
    ],
)  # fmt: skip
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        allocate({"a": [1.0]}, 1, **options)


@pytest.mark.timing
def test_a_proof_under_way_ends_soon_after_it_is_stopped(latencies: Callable[..., Latencies]) -> None:
    tables, stop = latencies(19, 32, 1, noise=0.03), threading.Event()
    begun_s: list[float] = []

    def stop_soon(progress: SearchProgress) -> None:
        if progress.message.startswith("looking for a faster plan") and not begun_s:
            begun_s.append(time.monotonic())
            threading.Timer(0.5, stop.set).start()

    found = allocate(tables, 32, time_limit_s=600.0, sequential_within=0.0, stop=stop, on_progress=stop_soon)
    assert begun_s
    assert time.monotonic() - begun_s[0] < 5
    assert any(note.startswith("stopped on request") for note in found.plan.notes)
    assert {name for _, names in found.lanes for name in names} == set(tables)


def test_a_search_without_an_end_of_its_time_ends_where_nothing_can_be_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(exact, "improve", lambda problem, watch, *, steps, seed: asked.append(steps))
    allocate({f"m{i}": [4.0 + i / 10, 2.5] for i in range(24)}, 2, time_limit_s=float("inf"))
    assert 0 < asked[0] < 10**7
