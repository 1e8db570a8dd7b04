"""The computed latencies against a simulation of the same queue, event by event."""

from __future__ import annotations

import random

import pytest

from esen_lab.errors import UsageError
from esen_lab.planner.rate import ServiceTimes, latencies, most_rate_per_s
from esen_lab.planner.rate.held import best_batch

STEADY = ServiceTimes(by_rows=((1, 0.010), (4, 0.016), (16, 0.040)))
NOISY = ServiceTimes(by_rows=STEADY.by_rows, factors=((0.9, 0.25), (1.0, 0.5), (1.3, 0.25)))


def simulated_s(service: ServiceTimes, rate: float, most_rows: int, requests: int = 60_000) -> list[float]:
    """Ascending latencies of requests that arrive at random, worked on batch by batch."""
    draw = random.Random(7)
    arrivals, now = [], 0.0
    for _ in range(requests):
        now += draw.expovariate(rate)
        arrivals.append(now)
    took, free, first = [], 0.0, 0
    while first < requests:
        begin = max(free, arrivals[first])
        last = first
        while last < requests and last - first < most_rows and arrivals[last] <= begin:
            last += 1
        factor = draw.choices(*zip(*service.factors, strict=True))[0]
        free = begin + service.at_s(last - first) * factor
        took += [free - arrival for arrival in arrivals[first:last]]
        first = last
    return sorted(took)


@pytest.mark.parametrize("service", [STEADY, NOISY], ids=["steady", "noisy"])
@pytest.mark.parametrize(("rate", "most_rows"), [(20, 1), (80, 1), (80, 4), (150, 8), (300, 16)])
def test_percentiles_are_those_of_a_simulation(service: ServiceTimes, rate: float, most_rows: int) -> None:
    found = latencies(service, rate, most_rows)
    took = simulated_s(service, rate, most_rows)
    tolerance = 0.15 if most_rows == 1 and rate == 80 else 0.05  # nearly full: the simulation itself scatters
    assert found.mean_s == pytest.approx(sum(took) / len(took), rel=tolerance)
    assert found.p50_s == pytest.approx(took[len(took) // 2], rel=tolerance)
    assert found.p99_s == pytest.approx(took[int(len(took) * 0.99)], rel=tolerance)


def test_a_request_alone_takes_the_time_of_one_row() -> None:
    found = latencies(STEADY, 0.01, 16)
    assert found.p99_s == pytest.approx(0.010, rel=0.02)
    assert found.mean_rows == pytest.approx(1, abs=0.01)


def test_the_known_formula_of_single_requests_comes_out() -> None:
    """M/D/1: mean wait = rho S / (2 (1 - rho)), A. K. Erlang 1909."""
    found = latencies(STEADY, 50, 1)
    assert found.mean_s == pytest.approx(0.010 + 0.5 * 0.010 / (2 * 0.5), rel=0.01)
    assert found.busy == pytest.approx(0.5, rel=1e-3)


def test_a_rate_beyond_the_capacity_is_not_held() -> None:
    assert not latencies(STEADY, 101, 1).held
    assert latencies(STEADY, 101, 4).held
    assert not latencies(STEADY, 401, 16).held


def test_larger_batches_are_chosen_for_larger_rates() -> None:
    assert best_batch(STEADY, 380, 16).most_rows == 16
    assert STEADY.capacity_per_s(16) == pytest.approx(400)


def test_the_largest_rate_is_within_the_limit_and_a_little_more_is_not() -> None:
    held = most_rate_per_s(STEADY, 0.1, 16)
    assert held.at is not None
    assert held.at.p99_s <= 0.1
    assert best_batch(STEADY, held.rate_per_s * 1.02, 16).p99_s > 0.1


def test_a_limit_shorter_than_one_request_is_held_at_no_rate() -> None:
    assert most_rate_per_s(STEADY, 0.009, 16).rate_per_s == 0


def test_times_come_from_runs_and_never_fall_with_rows() -> None:
    service = ServiceTimes.of({1: (0.010, 0.010, 0.011), 2: (0.009, 0.009, 0.009), 4: (0.02, 0.02, 0.02)})
    assert service.by_rows == ((1, 0.009), (2, 0.009), (4, 0.02))
    assert service.at_s(3) == pytest.approx(0.0145)
    assert service.at_s(8) == pytest.approx(0.04)
    with pytest.raises(UsageError, match="ascending"):
        ServiceTimes(by_rows=((4, 1.0), (1, 2.0)))


def test_a_rate_that_is_a_small_part_of_the_capacity_is_found_too() -> None:
    """Nearly each request has to be alone, and large batches would answer more than a thousand times as many."""
    service = ServiceTimes(by_rows=((1, 0.010), (16, 0.0101)))
    held = most_rate_per_s(service, 0.0102, 16)
    assert 0 < held.rate_per_s < service.capacity_per_s(16) / 512
    assert held.at is not None
    assert held.at.p99_s <= 0.0102
    assert best_batch(service, held.rate_per_s * 1.02, 16).p99_s > 0.0102


@pytest.mark.parametrize("most_rows", [256, 400, 512])
def test_batches_of_hundreds_of_rows_hold_rates_too(most_rows: int) -> None:
    found = latencies(STEADY, 20, most_rows)
    assert found.held
    assert found.p99_s == pytest.approx(latencies(STEADY, 20, 16).p99_s, rel=0.02)


@pytest.mark.parametrize(("rate", "most_rows"), [(0, 4), (-1.0, 4), (float("nan"), 4), (float("inf"), 4), (10, 0)])
def test_rates_and_batches_that_cannot_be_are_refused(rate: float, most_rows: int) -> None:
    with pytest.raises(UsageError):
        latencies(STEADY, rate, most_rows)


def test_a_time_that_is_no_number_is_refused() -> None:
    with pytest.raises(UsageError, match="Times of batches"):
        ServiceTimes(by_rows=((1, float("nan")),))
