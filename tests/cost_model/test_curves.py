"""Curves through measured points, and what is claimed beyond them."""

from __future__ import annotations

import numpy as np
import pytest

from esen_lab.cost_model.curves import amdahl, interpolate


def test_interpolation_goes_through_every_point_and_is_straight_in_one_over_share() -> None:
    at = np.array([2.0, 3.0, 4.0, 6.0, 12.0])
    predicted = interpolate([2, 4, 12], [8.0, 5.0, 6.0], at)
    assert predicted[[0, 2, 4]].tolist() == [8.0, 5.0, 6.0]
    assert predicted[1] == pytest.approx(8.0 - 3.0 * (1 / 2 - 1 / 3) / (1 / 2 - 1 / 4))


def test_beyond_the_largest_measured_share_no_gain_is_promised() -> None:
    assert interpolate([1, 2], [4.0, 3.0], np.array([3.0, 100.0])).tolist() == [3.0, 3.0]
    assert amdahl([1, 2], [4.0, 3.0], np.array([2.0, 100.0])).tolist() == pytest.approx([3.0, 3.0])


@pytest.mark.parametrize(
    ("latencies_s", "expected"),
    [([4.0, 3.0], 4.0 + 4.0 * (1 / 1 - 1 / 2)), ([4.0, 4.5], 4.0), ([4.0, 0.5], 8.0)],
    ids=["the line goes on", "never faster with fewer units", "never worse than perfect scaling"],
)
def test_below_the_smallest_measured_share_the_slope_is_held_in_reason(
    latencies_s: list[float], expected: float
) -> None:
    assert interpolate([2, 4], latencies_s, np.array([1.0])).tolist() == pytest.approx([expected])


def test_amdahl_finds_the_parameters_it_was_made_from() -> None:
    shares = np.array([3, 7, 16])
    predicted = amdahl(shares.tolist(), (0.5 + 6.0 / shares).tolist(), np.arange(1.0, 17.0))
    assert predicted.tolist() == pytest.approx((0.5 + 6.0 / np.arange(1, 17)).tolist())


@pytest.mark.parametrize("latencies_s", [[1.0, 2.0, 3.0], [9.0, 2.0, 0.1], [1.0, 1.0, 1.0]])
def test_amdahl_keeps_both_parts_nonnegative(latencies_s: list[float]) -> None:
    predicted = amdahl([1, 2, 4], latencies_s, np.array([1.0, 2.0, 4.0, 8.0]))
    assert (predicted > 0).all()
    assert (np.diff(predicted) <= 1e-12).all()
    assert (predicted[0] <= predicted * np.array([1, 2, 4, 8]) + 1e-9).all()
