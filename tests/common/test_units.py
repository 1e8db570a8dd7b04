"""Checks and formats used everywhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pytest

from esen_lab.common.units import (
    check_count,
    check_name,
    check_number,
    check_seed,
    check_units,
    days_since,
    format_bytes,
    format_change,
    format_confidence,
    format_count,
    format_percent,
    format_rate,
    format_seconds,
    format_spread,
    format_switch,
    format_units,
)
from esen_lab.common.words import some_of
from esen_lab.errors import UsageError


@pytest.mark.parametrize("seed", [-1, 2**32, "x", 1.0, True, None])
def test_a_seed_is_one_that_every_generator_takes(seed: object) -> None:
    with pytest.raises(UsageError, match="A seed is a whole number from 0 to 4294967295"):
        check_seed(seed)
    assert check_seed(2**32 - 1) == 2**32 - 1


def test_one_of_something_is_not_several() -> None:
    assert format_count(1, "plan") == "1 plan"
    assert format_count(1200, "plan") == "1,200 plans"


@pytest.mark.parametrize(
    ("unit", "several"),
    [("core", "2 cores"), ("%", "2 %"), ("percent", "2 percent"), ("group of 8 SMs", "2 groups of 8 SMs")],
)
def test_units_have_the_plural_that_people_give_them(unit: str, several: str) -> None:
    assert format_units(2, unit) == several
    assert format_units(1, unit) == f"1 {unit}"


def test_a_time_that_is_no_zero_is_not_shown_as_one() -> None:
    assert format_seconds(1e-9) == "0.001 µs"
    assert format_seconds(0.0) == "0.00 µs"


def test_a_figure_beyond_all_measure_fills_no_line() -> None:
    assert format_seconds(1e300) == "1e+300 s"
    assert format_rate(1e300) == "1e+300"
    assert format_bytes(10**30) == "1e+21 GB"
    assert format_percent(1e300) == "1e+300 times"
    assert format_change(1e300) == "1e+300 times slower"
    assert format_seconds(86_400.0) == "86400 s"
    assert format_percent(46.0, signed=True) == "+46 times"


@pytest.mark.parametrize("name", ["a", "resnet50-v2.1", "_x", "größe", "a" * 64])
def test_names_of_letters_digits_and_a_few_signs_are_fine(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", " a", "a b", "../a", "a/b", "a\n", "a'", '"a"', "1a", "-a", ".a", "a" * 65, None, 3]
)
def test_other_names_are_refused_with_the_rule(name: object) -> None:
    with pytest.raises(UsageError, match="A name starts with a letter"):
        check_name(name)


@pytest.mark.parametrize(("name", "near"), [("my net", "my_net"), ("<b>x</b>", "b_x_b"), ("a" * 65, "a" * 64)])
def test_a_name_that_is_refused_is_told_one_like_it(name: str, near: str) -> None:
    with pytest.raises(UsageError) as problem:
        check_name(name)
    assert problem.value.hint == f"Such as {near}."


def test_a_value_that_stands_in_place_of_a_name_is_told_in_short() -> None:
    with pytest.raises(UsageError) as problem:
        check_name("tensor([[1.0, 2.0]])" * 1000)
    assert len(str(problem.value)) < 300


@pytest.mark.parametrize("units", [0, -1, 5, 1.0, True, "2", None])
def test_a_share_is_a_whole_number_within_the_device(units: object) -> None:
    with pytest.raises(UsageError):
        check_units(units, 4)
    assert check_units(4, 4) == 4


@pytest.mark.parametrize(
    "check", [lambda value: check_units(value, 4), lambda value: check_count(value, "rule"), check_seed]
)
@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8])
def test_whole_numbers_of_numpy_are_taken_as_those_of_python(check: Callable[[object], int], kind: type) -> None:
    found = check(kind(3))
    assert (found, type(found)) == (3, int)


@pytest.mark.parametrize("value", [np.float64(3.0), np.bool_(True)])
def test_what_is_no_whole_number_in_numpy_is_none_here(value: object) -> None:
    with pytest.raises(UsageError):
        check_units(value, 4)


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


@pytest.mark.parametrize("value", [0.0, 1.0, -1, 2, math.nan, math.inf, "0.5", None, True, [0.5]])
def test_a_number_outside_of_its_bounds_is_refused_by_their_rule(value: object) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        check_number(value, "It lies between 0 and 1", above=0.0, below=1.0)


def test_bounds_may_belong_to_what_is_allowed() -> None:
    assert check_number(0, "rule", least=0.0, most=1.0) == 0.0
    assert check_number(1, "rule", least=0.0, most=1.0) == 1.0
    assert check_number(math.inf, "rule", above=0.0) == math.inf
    with pytest.raises(UsageError, match="rule"):
        check_number(math.nan, "rule")


@pytest.mark.parametrize("value", [0, 11, 1.0, True, "3", None])
def test_a_count_is_a_whole_number_within_its_bounds(value: object) -> None:
    with pytest.raises(UsageError, match=f"It lies between 1 and 10.*Given: {value!r}"):
        check_count(value, "It lies between 1 and 10", most=10)


def test_a_count_within_its_bounds_is_given_back() -> None:
    assert [check_count(value, "rule", most=10) for value in (1, 10)] == [1, 10]
    assert check_count(0, "rule", least=0) == 0


@pytest.mark.parametrize(
    ("confidence", "text"),
    [(0.9, "0.9"), (0.9985, "0.9985"), (0.9999998, "0.9999998"), (1.0, "1"), (1 - 2**-53, "0.9999999999999999")],
)
def test_a_confidence_below_one_is_not_told_as_one(confidence: float, text: str) -> None:
    assert format_confidence(confidence) == text


@pytest.mark.parametrize(("per_s", "text"), [(240.4, "240"), (2.44, "2.4"), (0.0312, "0.031"), (0.0, "0")])
def test_a_low_rate_is_not_told_as_none(per_s: float, text: str) -> None:
    assert format_rate(per_s) == text


@pytest.mark.parametrize(("value", "text"), [(True, "on"), (False, "off"), ("torch.float16", "float16"), (3, "3")])
def test_a_switch_is_told_as_people_say_it(value: object, text: str) -> None:
    assert format_switch(value) == text


def test_of_many_names_the_first_few_are_told() -> None:
    assert some_of(["a", "b"], 2) == "a, b"
    assert some_of(["a", "b", "c", "d", "e"], 2) == "a, b and 3 more"
