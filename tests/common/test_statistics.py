"""Quantiles, spreads and intervals of repeated measurements."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from esen_lab.common.statistics import interval_rank, median_interval, quantile, spread

VALUES = [5.0, 1.0, 2.0, 4.0, 3.5, 9.0]


@pytest.mark.parametrize("at", [0.0, 0.25, 0.5, 0.9, 0.99, 1.0])
def test_quantiles_are_those_of_numpy(at: float) -> None:
    assert quantile(VALUES, at) == pytest.approx(np.quantile(VALUES, at))


def test_a_single_value_is_its_own_quantile_and_has_no_spread() -> None:
    assert quantile([0.5], 0.99) == 0.5
    assert spread([0.5]) == 0.0


def test_the_spread_is_the_interquartile_range() -> None:
    assert spread(VALUES) == pytest.approx(np.subtract(*np.quantile(VALUES, [0.75, 0.25])))


def test_the_interval_of_six_values_is_their_range_and_five_have_none() -> None:
    assert median_interval(VALUES) == (1.0, 9.0)
    assert median_interval(VALUES[:5]) == (-math.inf, math.inf)


@pytest.mark.parametrize(
    ("count", "rank"),
    # The published table of 95 % confidence intervals for a median (Conover, table A3 and others).
    [(1, 0), (5, 0), (6, 1), (8, 1), (9, 2), (10, 2), (15, 4), (20, 6), (25, 8), (30, 10), (50, 18), (100, 40)],
)
def test_the_ranks_are_those_of_the_published_table(count: int, rank: int) -> None:
    assert interval_rank(count) == rank


def test_the_exact_ranks_go_over_smoothly_into_the_approximate_ones() -> None:
    ranks = [interval_rank(n) for n in range(480, 520)]
    assert all(0 <= later - earlier <= 1 for earlier, later in itertools.pairwise(ranks))
