"""Waiting for a GPU by asking it, on a clock of the test's own."""

from __future__ import annotations

import math

import pytest

from esen_lab.run.gpu_wait import wait_until


class Waits:
    """Something that is done at `ends_s`; every question takes a microsecond."""

    def __init__(self, ends_s: float) -> None:
        self.ends_s = ends_s
        self.now = 0.0
        self.asked: list[float] = []
        self.naps: list[float] = []

    def done(self) -> bool:
        self.now += 1e-6
        self.asked.append(self.now)
        return self.now >= self.ends_s

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.naps.append(seconds)
        self.now += seconds

    def until(self, expected_s: float, timeout_s: float = math.inf) -> bool:
        return wait_until(self.done, expected_s, timeout_s, clock=lambda: self.now, sleep=self.sleep)


@pytest.mark.parametrize("ends_s", [0.0, 0.0005, 0.02, 0.8])
def test_what_ends_as_expected_is_seen_within_microseconds(ends_s: float) -> None:
    waits = Waits(ends_s)
    assert waits.until(expected_s=ends_s)
    assert waits.now - ends_s < 5e-6


def test_most_of_a_long_wait_is_slept() -> None:
    waits = Waits(0.8)
    waits.until(expected_s=0.8)
    assert sum(waits.naps) > 0.7
    assert max(waits.naps) <= 0.05, "an interrupt is seen soon"


def test_what_ends_late_is_asked_about_now_and_then() -> None:
    waits = Waits(1.0)
    assert waits.until(expected_s=0.01)
    assert waits.now - 1.0 < 2e-4
    assert len(waits.asked) < 15_000, "most of that time it slept"


def test_what_ends_early_is_seen_after_one_nap() -> None:
    waits = Waits(0.001)
    assert waits.until(expected_s=0.5)
    assert waits.now < 0.06


@pytest.mark.parametrize("expected_s", [0.0, 0.02, 10.0])
def test_a_deadline_is_kept_to_the_microsecond(expected_s: float) -> None:
    waits = Waits(math.inf)
    assert not waits.until(expected_s, timeout_s=0.3)
    assert waits.now == pytest.approx(0.3, abs=5e-6)


def test_what_is_done_already_is_done_whatever_the_deadline() -> None:
    assert Waits(0.0).until(expected_s=0.0, timeout_s=0.0)
