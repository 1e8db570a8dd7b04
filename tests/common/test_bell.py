"""The bell: every state in its order, whatever a listener does."""

from __future__ import annotations

import threading
import time

import pytest

from esen_lab.common.bell import Bell

WAIT_S = 60


class Ear:
    """Writes down what it hears: a test double."""

    def __init__(self, until: int) -> None:
        self.heard: list[int] = []
        self.all = threading.Event()
        self._until = until

    def __call__(self, state: int) -> None:
        self.heard.append(state)
        if state == self._until:
            self.all.set()


def test_every_listener_hears_every_state_in_order() -> None:
    bell: Bell[int] = Bell()
    ears = [Ear(until=99), Ear(until=99)]
    stops = [bell.listen(ear) for ear in ears]
    for state in range(100):
        bell.ring(state)
    assert all(ear.all.wait(WAIT_S) for ear in ears)
    assert [ear.heard for ear in ears] == [list(range(100))] * 2
    for stop in stops:
        stop()


def test_what_is_rung_while_no_thread_can_be_started_is_heard_with_the_next_ring(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bell: Bell[int] = Bell()
    ear = Ear(until=1)
    stop = bell.listen(ear)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", _refused)
        bell.ring(0)
    bell.ring(1)
    assert ear.all.wait(WAIT_S)
    assert ear.heard == [0, 1]
    stop()


def _refused(self: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_who_rings_waits_for_nobody_and_a_slow_listener_is_late_alone() -> None:
    bell: Bell[int] = Bell()
    go, ear = threading.Event(), Ear(until=1)
    stops = [bell.listen(lambda _: go.wait(WAIT_S)), bell.listen(ear)]
    began = time.monotonic()
    bell.ring(0)
    bell.ring(1)
    assert time.monotonic() - began < WAIT_S / 2
    assert ear.all.wait(WAIT_S)
    go.set()
    for stop in stops:
        stop()


@pytest.mark.filterwarnings("always")
def test_one_that_raises_is_dropped_with_a_warning_and_the_others_hear_on(recwarn: pytest.WarningsRecorder) -> None:
    bell: Bell[int] = Bell()
    calls, raised, ear = [], threading.Event(), Ear(until=2)

    def raises(state: int) -> None:
        calls.append(state)
        raised.set()
        raise ValueError("a broken view")

    stops = [bell.listen(raises), bell.listen(ear)]
    bell.ring(1)
    assert raised.wait(WAIT_S)
    while not recwarn.list:
        time.sleep(0.001)
    bell.ring(2)
    assert ear.all.wait(WAIT_S)
    assert calls == [1]
    assert "a broken view" in str(recwarn.list[0].message)
    for stop in stops:
        stop()


def test_who_stopped_listening_hears_nothing_more() -> None:
    bell: Bell[int] = Bell()
    quiet, ear = Ear(until=2), Ear(until=2)
    stop, end = bell.listen(quiet), bell.listen(ear)
    bell.ring(1)
    stop()
    stop()
    bell.ring(2)
    assert ear.all.wait(WAIT_S)
    assert 2 not in quiet.heard
    end()


def test_a_thread_that_ended_for_want_of_news_is_followed_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esen_lab.common.bell._IDLE_S", 0.01)
    bell: Bell[int] = Bell()
    ear = Ear(until=2)
    end = bell.listen(ear)
    bell.ring(1)
    while any(thread.name == "esen_lab bell" for thread in threading.enumerate()):
        time.sleep(0.005)
    bell.ring(2)
    assert ear.all.wait(WAIT_S)
    assert ear.heard == [1, 2]
    end()
