"""What points say against themselves: load, age, a clock that was wrong."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from points import POINT

from esen_lab.profiler.records import Profile, doubts_about

NOW = datetime(2026, 11, 3, 12, tzinfo=UTC)  # two days after POINT
pytestmark = pytest.mark.load


def loaded(load: Any, **known: Any) -> Any:
    return replace(POINT, readings={"load": load}, **known)


def test_a_recent_point_of_a_quiet_machine_raises_no_doubt() -> None:
    assert doubts_about([POINT, loaded(0.02)], NOW) == ()
    assert POINT.load is None
    assert not POINT.loaded


def test_points_measured_under_load_are_named_with_the_load_and_what_to_do() -> None:
    (told,) = doubts_about([loaded(0.48), loaded(0.3, units=1), loaded(0.2, name="deep")], NOW)
    assert "up to 48.0 %" in told
    assert "wide at 1 and 2, deep at 2" in told
    assert "profile again" in told


@pytest.mark.parametrize("reading", ["unreadable", True, float("nan"), -1.0, 7.0, None])
def test_a_load_that_is_no_part_of_the_time_is_not_known(reading: Any) -> None:
    assert loaded(reading).load is None
    assert not loaded(reading).loaded


def test_points_of_many_sub_models_are_counted_and_not_listed() -> None:
    (told,) = doubts_about([loaded(0.5, name=f"m{k}") for k in range(9)], NOW)
    assert "9 points of 9 sub-models" in told


def test_old_points_say_how_old_and_how_to_measure_anew() -> None:
    (told,) = doubts_about([POINT], datetime(2027, 2, 1, tzinfo=UTC))
    assert "92 days ago: wide at 2" in told
    assert "fresh=True" in told


def test_a_time_in_the_future_or_unreadable_gives_no_age() -> None:
    (told,) = doubts_about([POINT], datetime(2026, 10, 1, tzinfo=UTC))
    assert "Dated in the future" in told
    assert replace(POINT, measured_at="").age_days(NOW) is None
    assert replace(POINT, measured_at="2026-11-01T12:00:00").age_days(NOW) == 2.0, "without a zone it is UTC"
    assert doubts_about([replace(POINT, measured_at="yesterday")], NOW) == ()


def test_a_profile_tells_its_doubts_in_a_terminal() -> None:
    profile = Profile(device={}, units=4, points=(loaded(0.48),))
    assert "48.0 %" in str(profile)
    assert profile.to_dict()["points"][0]["readings"] == {"load": 0.48}
