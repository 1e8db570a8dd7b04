"""The order in which lanes are woken."""

from __future__ import annotations

import os

import pytest

from esen_lab.run import lane_group
from esen_lab.run.lane_group import WakingOrder


@pytest.mark.parametrize(
    ("here", "order"),
    [(0, [2, 1, 0]), (1, [2, 0, 1]), (2, [1, 0, 2]), (3, [1, 0, 2]), (9, [2, 1, 0])],
)
def test_a_lane_that_may_take_our_core_is_woken_last(
    monkeypatch: pytest.MonkeyPatch, here: int, order: list[int]
) -> None:
    cores = {101: {0}, 102: {1}, 103: {2, 3}}
    monkeypatch.setattr(lane_group, "_cores_of", cores.__getitem__)
    waker = WakingOrder([101, 102, 103])
    monkeypatch.setattr(waker, "_here", lambda: here)
    assert list(waker.of([2, 1, 0])) == order


def test_the_order_stays_where_nobody_says_which_core_this_is(monkeypatch: pytest.MonkeyPatch) -> None:
    waker = WakingOrder([os.getpid(), os.getpid()])
    monkeypatch.setattr(waker, "_here", None)
    assert list(waker.of([1, 0])) == [1, 0]


def test_a_process_that_has_ended_and_a_lane_in_this_one_have_no_core_of_their_own() -> None:
    waker = WakingOrder([2**22 + 1, os.getpid()])
    assert list(waker.of([1, 0])) == [1, 0]
