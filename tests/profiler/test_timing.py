"""Measuring one step, on a clock that only the step moves."""

from __future__ import annotations

import gc
import itertools
import random
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from profiling_fakes import FakeClock

from esen_lab.profiler.timing import (
    Timing,
    measure,
    median_is_known,
    no_longer_faster,
)


class FakeMeter:
    def __init__(self, growth: int | None = 7) -> None:
        self.growth = growth

    def start(self) -> None: ...

    def stop(self) -> int | None:
        return self.growth


class StepOnGpuDouble:
    """A step that says it ran on a GPU: 2 ms for the caller, 1.5 ms on the GPU's own clock."""

    gpu = ""
    device_s = 0.0015

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.meter = FakeMeter(growth=9)

    def __call__(self) -> None:
        self.clock.sleep(0.002)


def test_a_step_on_a_gpu_is_timed_for_the_caller_and_read_on_the_gpu() -> None:
    clock = FakeClock()
    found = measure(StepOnGpuDouble(clock), clock=clock)
    assert found.median_s == pytest.approx(0.002)
    assert found.growth_bytes == 9
    assert found.readings["events_median_s"] == 0.0015
    assert found.readings["sm_percent"] == "it is not known which GPU this is"


def timed(latencies: Iterable[float], *, budget_s: float = 1.0) -> tuple[Timing, float]:
    """The timing of steps that take `latencies`, and the time that all of them took."""
    clock = FakeClock()
    following = iter(latencies)
    timing = measure(lambda: clock.sleep(next(following)), budget_s=budget_s, clock=clock, meter=FakeMeter())
    return timing, clock.now


def test_a_steady_step_is_known_after_six_repeats() -> None:
    timing, _ = timed(itertools.repeat(0.01))
    assert timing == Timing(
        median_s=pytest.approx(0.01),
        spread_s=pytest.approx(0, abs=1e-12),
        quantile_90_s=pytest.approx(0.01),
        repeats=6,
        warmups=6,
        settled=True,
        growth_bytes=7,
    )


def test_cold_steps_do_not_count() -> None:
    cold = [1.0, 0.5, 0.05, 0.04, 0.03, 0.02]
    timing, _ = timed([*cold, *itertools.repeat(0.01, 1000)], budget_s=10)
    assert timing.median_s == pytest.approx(0.01)
    assert timing.quantile_90_s == pytest.approx(0.01)
    assert timing.warmups > len(cold)


def test_warming_up_takes_a_quarter_of_the_budget_at_most() -> None:
    ever_faster = (0.02 * 0.97**n for n in itertools.count())
    timing, _ = timed(ever_faster, budget_s=1.0)
    spent = sum(0.02 * 0.97**n for n in range(timing.warmups))
    assert spent < 0.25 + 0.02


def test_very_short_steps_warm_up_for_some_time_and_not_only_some_calls() -> None:
    timing, _ = timed(itertools.repeat(10e-6), budget_s=1.0)
    assert timing.warmups * 10e-6 >= 1.0 / 50


def test_a_noisy_step_ends_with_the_budget_and_says_that_it_is_not_settled() -> None:
    noise = random.Random(0)
    timing, spent = timed((0.01 * noise.choice([1, 2, 3, 4]) for _ in itertools.count()), budget_s=1.0)
    assert not timing.settled
    assert 1.0 <= spent < 1.05
    assert timing.repeats > 20


def test_a_slow_step_is_still_timed_three_times() -> None:
    timing, spent = timed(itertools.repeat(10.0), budget_s=1.0)
    assert (timing.warmups, timing.repeats, timing.settled) == (2, 3, False)
    assert spent == pytest.approx(50)


def test_a_rather_slow_steady_step_gets_the_six_repeats_that_settle_it() -> None:
    timing, spent = timed(itertools.repeat(0.3), budget_s=1.0)
    assert (timing.warmups, timing.repeats, timing.settled) == (2, 6, True)
    assert spent < 3


def test_a_generous_budget_is_not_spent_for_its_own_sake() -> None:
    _, spent = timed(itertools.repeat(0.001), budget_s=100.0)
    assert spent < 3


def test_quartiles_and_the_90th_percentile_are_those_of_numpy() -> None:
    noise = random.Random(1)
    taken: list[float] = []
    clock = FakeClock()

    def step() -> None:
        taken.append(noise.uniform(0.01, 0.1))
        clock.sleep(taken[-1])

    timing = measure(step, budget_s=3.0, clock=clock, meter=FakeMeter())
    counted = np.array(taken[timing.warmups :])
    assert len(counted) == timing.repeats
    assert timing.median_s == pytest.approx(np.median(counted))
    assert timing.spread_s == pytest.approx(np.subtract(*np.quantile(counted, [0.75, 0.25])))
    assert timing.quantile_90_s == pytest.approx(np.quantile(counted, 0.9))


def test_the_garbage_collector_is_off_meanwhile_and_on_again_after() -> None:
    clock = FakeClock()
    seen = []

    def step() -> None:
        seen.append(gc.isenabled())
        clock.sleep(0.1)

    assert gc.isenabled()
    measure(step, clock=clock, meter=FakeMeter())
    assert set(seen) == {False}
    assert gc.isenabled()


def test_a_raising_step_is_heard_and_the_garbage_collector_comes_back() -> None:
    def step() -> None:
        raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        measure(step, meter=FakeMeter())
    assert gc.isenabled()


def test_a_garbage_collector_that_was_off_stays_off() -> None:
    clock = FakeClock()
    gc.disable()
    try:
        measure(lambda: clock.sleep(0.1), clock=clock, meter=FakeMeter())
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_unreadable_memory_is_absent_and_not_zero() -> None:
    clock = FakeClock()
    assert measure(lambda: clock.sleep(0.1), clock=clock, meter=FakeMeter(None)).growth_bytes is None


def test_five_equal_samples_know_nothing_yet() -> None:
    assert not median_is_known([1.0] * 5)
    assert median_is_known([1.0] * 6)


def test_one_outlier_among_many_does_not_unsettle_a_median() -> None:
    assert median_is_known([1.0] * 20 + [50.0])


def test_getting_slower_counts_as_warm() -> None:
    assert no_longer_faster([1, 1, 1, 2, 2, 2])
    assert not no_longer_faster([2, 2, 2, 1, 1, 1])
    assert not no_longer_faster([1, 1, 1, 1, 1])


@pytest.mark.parametrize(
    ("name", "draw", "truth"),
    [
        ("log-normal", lambda r: 0.001 * r.lognormvariate(0, 0.1), 0.001),
        ("long tail", lambda r: 0.001 * (1 + r.expovariate(10)), 0.001 * (1 + np.log(2) / 10)),
    ],
)
def test_a_settled_median_is_within_2_percent_of_the_truth_19_times_in_20(
    name: str, draw: Callable[[random.Random], float], truth: float
) -> None:
    noise = random.Random(2)
    found = [timed((draw(noise) for _ in itertools.count()), budget_s=5.0)[0] for _ in range(200)]
    settled = [timing.median_s for timing in found if timing.settled]
    assert len(settled) > 190
    right = sum(abs(median / truth - 1) <= 0.02 for median in settled) / len(settled)
    assert right >= 0.93  # 0.95 less two standard errors of 200 draws


def test_what_is_done_before_a_step_is_not_timed() -> None:
    clock = FakeClock()
    order: list[str] = []

    def step() -> None:
        order.append("step")
        clock.sleep(0.001)

    def before() -> None:
        order.append("before")
        clock.sleep(0.5)

    found = measure(step, budget_s=1.0, clock=clock, meter=FakeMeter(), before=before)
    assert found.median_s == pytest.approx(0.001)
    assert order[-2:] == ["before", "step"]
    assert order.count("before") == found.repeats


def test_a_long_step_needs_nothing_before_it() -> None:
    clock = FakeClock()
    called: list[int] = []
    measure(lambda: clock.sleep(0.1), budget_s=1.0, clock=clock, meter=FakeMeter(), before=lambda: called.append(1))
    assert called == []


class LoadDouble:
    def start(self) -> None: ...

    def stop(self) -> float:
        return 0.0


def test_what_kind_of_place_it_was_measured_on_is_read_with_the_load(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    monkeypatch.setattr("esen_lab.devices.cpu.topology.place_now", lambda: "two nodes")

    def step() -> None:
        clock.sleep(0.002)

    assert measure(step, clock=clock, meter=FakeMeter(), load=LoadDouble()).readings == {
        "load": 0.0,
        "place": "two nodes",
    }
    assert measure(step, clock=clock, meter=FakeMeter()).readings == {}
    on_gpu = measure(StepOnGpuDouble(clock), clock=clock, load=LoadDouble()).readings
    assert "place" not in on_gpu, "a GPU's workers are not pinned"


def test_a_place_that_is_not_known_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    monkeypatch.setattr("esen_lab.devices.cpu.topology.place_now", lambda: "")
    found = measure(lambda: clock.sleep(0.002), clock=clock, meter=FakeMeter(), load=LoadDouble())
    assert found.readings == {"load": 0.0}
