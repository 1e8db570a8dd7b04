"""Checks and formats used everywhere."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest

from esen_lab.common.units import (
    check_name,
    check_units,
    days_since,
    format_bytes,
    format_change,
    format_percent,
    format_seconds,
    format_spread,
)
from esen_lab.errors import UsageError


@pytest.mark.parametrize("name", ["a", "resnet50-v2.1", "_x", "größe", "a" * 64])
def test_names_of_letters_digits_and_a_few_signs_are_fine(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", " a", "a b", "../a", "a/b", "a\n", "a'", '"a"', "1a", "-a", ".a", "a" * 65, None, 3]
)
def test_other_names_are_refused_with_the_rule(name: object) -> None:
    with pytest.raises(UsageError, match="A name starts with a letter"):
        check_name(name)


@pytest.mark.parametrize("units", [0, -1, 5, 1.0, True, "2", None])
def test_a_share_is_a_whole_number_within_the_device(units: object) -> None:
    with pytest.raises(UsageError):
        check_units(units, 4)
    assert check_units(4, 4) == 4


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1.234, "1.23 s"),
        (0.0123, "12.3 ms"),
        (0.123, "123 ms"),
        (4.5e-6, "4.50 µs"),
        (0, "0.00 µs"),
        (None, "-"),
        (math.nan, "-"),
    ],
)
def test_durations_have_three_digits(seconds: float | None, text: str) -> None:
    assert format_seconds(seconds) == text


def test_sizes_and_ratios_for_people() -> None:
    assert [format_bytes(n) for n in (0, 999, 1234, 5_600_000, 7_800_000_000, None)] == [
        "0 B",
        "999 B",
        "1.2 kB",
        "5.6 MB",
        "7.8 GB",
        "-",
    ]
    assert format_percent(0.1234) == "12.3 %"
    assert format_percent(-0.05, signed=True) == "-5.0 %"
    assert [format_percent(r) for r in (None, math.nan, math.inf, 1.5, 2.0, 46.31, 152.2)] == [
        "-",
        "-",
        "-",
        "150.0 %",
        "2.0 times",
        "46 times",
        "152 times",
    ]


def test_a_change_is_told_in_percent_up_to_twice_and_in_times_beyond() -> None:
    told = [format_change(ratio) for ratio in (1.12, 0.8, 1.0, 3.0, 46.31, 0.1, 0.0005)]
    assert told == [
        "12.0 % slower",
        "20.0 % faster",
        "0.0 % slower",
        "3.0 times slower",
        "46 times slower",
        "10 times faster",
        "2000 times faster",
    ]
    assert {format_change(ratio) for ratio in (None, 0.0, -1.0, math.nan, math.inf)} == {"-"}


def test_a_spread_above_its_median_is_unsteady_and_no_percentage() -> None:
    assert format_spread(0.0001, 0.004) == "2.5 %"
    assert format_spread(0.61, 0.004) == "unsteady"
    assert {format_spread(0.1, 0.0), format_spread(math.nan, 1.0), format_spread(math.inf, 1.0)} == {"-"}


def test_days_are_counted_from_a_written_time() -> None:
    now = datetime(2026, 11, 3, tzinfo=UTC)
    assert days_since("2026-11-01T00:00:00+00:00", now) == 2.0
    assert days_since("2026-11-04", now) == -1.0
    assert days_since("", now) is None
