"""Which shares are measured, and in which order."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esen_lab.profiler.share_order import default_shares, measuring_order


@pytest.mark.parametrize("units", [1, 2, 7, 16])
def test_a_small_device_is_measured_at_every_share(units: int) -> None:
    assert default_shares(units) == tuple(range(1, units + 1))


@pytest.mark.parametrize(
    ("units", "shares"),
    [
        (17, (1, 2, 3, 4, 6, 8, 12, 17)),
        (24, (1, 2, 3, 4, 6, 8, 12, 16, 24)),
        (100, (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 100)),
        (132, (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 132)),
    ],
)
def test_a_large_device_is_measured_densely_at_small_shares(units: int, shares: tuple[int, ...]) -> None:
    assert default_shares(units) == shares


@given(st.integers(1, 1000))
def test_default_shares_ascend_from_one_to_the_whole_device_without_wide_gaps(units: int) -> None:
    shares = default_shares(units)
    assert shares[0] == 1
    assert shares[-1] == units
    assert all(a < b <= max(2 * a, a + 1) for a, b in itertools.pairwise(shares))


def test_the_extremes_come_first_and_then_the_middle() -> None:
    assert measuring_order([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16])[:5] == (16, 1, 4, 8, 2)


@given(st.sets(st.integers(1, 200), min_size=1))
def test_every_share_is_measured_once(shares: set[int]) -> None:
    assert sorted(measuring_order(list(shares))) == sorted(shares)


def test_a_share_named_twice_is_measured_once() -> None:
    assert measuring_order([2, 2, 1]) == (2, 1)
