"""Work that lets runs go first."""

from __future__ import annotations

import threading

import pytest

from esen_lab.lab import recorder
from esen_lab.lab.recorder import MOST_S, QUIET_S, QuietMoments


class Hours:
    """A clock, and an event that takes the time it is waited for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        self.moments = QuietMoments(lambda: self.now_s)
        monkeypatch.setattr(self.moments._hurry, "wait", self.pass_by)
        self.runs_until_s = 0.0

    def pass_by(self, seconds: float) -> bool:
        self.now_s += seconds
        if self.now_s < self.runs_until_s:
            self.moments.ran()
        return self.moments._hurry.is_set()


@pytest.fixture
def hours(monkeypatch: pytest.MonkeyPatch) -> Hours:
    return Hours(monkeypatch)


def test_where_nothing_ran_nobody_waits(hours: Hours) -> None:
    hours.moments.wait()
    assert hours.now_s == 100.0


def test_after_the_last_run_it_is_quiet_a_moment_later(hours: Hours) -> None:
    hours.moments.ran()
    hours.moments.wait()
    assert hours.now_s == pytest.approx(100.0 + QUIET_S)


def test_runs_that_go_on_are_waited_for_and_not_for_ever(hours: Hours) -> None:
    hours.runs_until_s = 103.0
    hours.moments.ran()
    hours.moments.wait()
    assert 103.0 <= hours.now_s <= 103.0 + 2 * QUIET_S
    hours.runs_until_s = float("inf")
    hours.moments.ran()
    before_s = hours.now_s
    hours.moments.wait()
    assert hours.now_s == pytest.approx(before_s + MOST_S)


def test_who_hurries_wakes_who_waits_and_is_waited_for_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "QUIET_S", 1e6)
    monkeypatch.setattr(recorder, "MOST_S", 1e6)
    moments = QuietMoments()
    moments.ran()
    waiting = threading.Thread(target=moments.wait)
    waiting.start()
    moments.hurry()
    waiting.join(60)
    assert not waiting.is_alive()
    moments.wait()
