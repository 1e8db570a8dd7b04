"""The deadline of a whole call."""

from __future__ import annotations

import math
import threading
import time

import pytest

from esen_lab.errors import UsageError, WorkerDied, WorkerTimeout
from esen_lab.run.deadline import NEVER, Deadline


@pytest.mark.parametrize("wrong", [0, -1, math.nan, "1", None, True], ids=repr)
def test_what_is_no_time_is_refused(wrong: object) -> None:
    with pytest.raises(UsageError, match="seconds above 0"):
        Deadline(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("long", [1e300, math.inf])
def test_a_deadline_beyond_all_clocks_never_comes(long: float) -> None:
    deadline = Deadline(long)
    assert deadline.left_s == math.inf
    with deadline.ending(lambda: None, "nothing"):
        pass


def test_it_says_what_the_call_was_waiting_for() -> None:
    with pytest.raises(WorkerTimeout, match=r"done within 1.00 µs.*waiting for the lane of b.*timeout_s"):
        Deadline(1e-6).check("the lane of b")
    NEVER.check("anything")


def test_requests_without_a_deadline_of_their_own_are_ended_by_it() -> None:
    ended = threading.Event()

    def wait() -> None:
        with Deadline(0.05).ending(ended.set, "lanes that load"):
            assert ended.wait(30)
            raise WorkerDied("lane 1 ended")

    with pytest.raises(WorkerTimeout, match="lanes that load"):
        wait()


def test_a_failure_before_the_deadline_stays_what_it_is() -> None:
    with pytest.raises(WorkerDied), Deadline(30).ending(lambda: None, "lanes that load"):
        raise WorkerDied("lane 1 ended")


def test_what_ends_in_time_is_not_ended_later() -> None:
    ended = threading.Event()
    with Deadline(0.05).ending(ended.set, "lanes that load"):
        pass
    time.sleep(0.1)
    assert not ended.is_set()


def test_the_thread_that_watches_has_ended_when_the_requests_have() -> None:
    before = set(threading.enumerate())
    for _ in range(50):
        with Deadline(30).ending(lambda: None, "lanes that load"):
            pass
        assert set(threading.enumerate()) <= before
