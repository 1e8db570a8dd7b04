from __future__ import annotations

import pytest

from esen_lab.errors import DeviceError, ModelError, UsageError, WorkerDied, WorkerTimeout
from esen_lab.profiler.given_up import PointsGivenUp


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def given_up(notes: list[str]) -> PointsGivenUp:
    return PointsGivenUp(["a", "b"], lambda units: f"{units} of 8 units", notes.append)


@pytest.mark.parametrize("problem", [ModelError("it raised"), UsageError("it does not fit")])
def test_what_raises_before_its_first_point_is_tried_no_more(
    given_up: PointsGivenUp, notes: list[str], problem: Exception
) -> None:
    given_up.failed("a", 8, problem)
    assert [given_up.skips("a", units) for units in (1, 8)] == [True, True]
    assert not given_up.skips("b", 8)
    assert notes == ["a: its other shares are not tried, since it raised at 8 of 8 units."]


def test_what_raises_after_a_point_is_tried_at_other_shares(given_up: PointsGivenUp, notes: list[str]) -> None:
    given_up.measured("a")
    given_up.failed("a", 4, ModelError("it raised"))
    assert not given_up.skips("a", 1)
    assert notes == []


def test_after_a_timeout_only_smaller_shares_are_given_up(given_up: PointsGivenUp, notes: list[str]) -> None:
    given_up.failed("a", 4, WorkerTimeout("late"))
    given_up.failed("a", 2, WorkerTimeout("late"))
    assert [given_up.skips("a", units) for units in (1, 3, 4, 8)] == [True, True, False, False]
    assert notes[0] == "a: shares below 4 are not tried, since it timed out at 4 of 8 units."


def test_two_deaths_before_the_first_point_are_enough(given_up: PointsGivenUp, notes: list[str]) -> None:
    given_up.failed("a", 8, WorkerDied("killed"))
    assert not given_up.skips("a", 1)
    given_up.failed("a", 4, WorkerDied("killed"))
    assert given_up.skips("a", 1)
    assert "since it ended its worker 2 times" in notes[0]


def test_what_is_no_fault_of_the_sub_model_gives_nothing_up(given_up: PointsGivenUp) -> None:
    for _ in range(5):
        given_up.failed("a", 8, DeviceError("no worker"))
    assert not given_up.skips("a", 1)
