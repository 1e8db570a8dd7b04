"""How much time is kept for combining before an answer is due. (Collecting itself: test_partial_runner.py.)"""

from __future__ import annotations

import math

import pytest

from esen_lab.run import Deadline
from esen_lab.run.member_collector import CombineTime


def test_what_it_took_lately_is_kept_and_a_little_more() -> None:
    times = CombineTime()
    times.took(0.010, 1000)
    assert times.kept_for(Deadline(1.0), 1000) == pytest.approx(0.012)


def test_a_slow_one_counts_for_many_runs_and_is_forgotten_in_the_end() -> None:
    times = CombineTime()
    times.took(0.100, 1000)
    for _ in range(10):
        times.took(0.001, 1000)
    assert times.kept_for(Deadline(1.0), 1000) > 0.05
    for _ in range(200):
        times.took(0.001, 1000)
    assert times.kept_for(Deadline(1.0), 1000) < 0.002


def test_a_larger_input_than_the_last_has_more_time_a_smaller_one_no_less() -> None:
    times = CombineTime()
    times.took(0.010, 1000)
    assert times.kept_for(Deadline(1.0), 4000) == pytest.approx(0.048)
    assert times.kept_for(Deadline(1.0), 10) == pytest.approx(0.012)


def test_never_more_than_half_of_the_time_nor_less_than_a_moment() -> None:
    times = CombineTime()
    assert 0 < times.kept_for(Deadline(1.0), 1000) < 0.001
    times.took(5.0, 1000)
    assert times.kept_for(Deadline(0.02), 1000) == pytest.approx(0.01)


def test_without_a_deadline_nothing_is_due() -> None:
    assert CombineTime().begins_s(None, 1000) == math.inf
