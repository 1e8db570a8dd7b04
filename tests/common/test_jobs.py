"""The one kind of background work: with a scripted job, which is a test double."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from esen_lab.common.jobs import Job, JobState
from esen_lab.errors import Cancelled, DeviceError, WorkerTimeout

WAIT_S = 60


class Scripted(Job[str, int]):
    """Makes one step after another, when it is told to go on."""

    def __init__(self, *, fails: Exception | None = None) -> None:
        super().__init__("count", unfinished="A count is known at its end", hint="Wait longer.")
        self.steps = 0
        self.fails = fails
        self.go = threading.Semaphore(0)

    def _work(self) -> None:
        for _ in range(3):
            assert self.go.acquire(timeout=WAIT_S)
            self._check_cancelled()
            self.steps += 1
            self._changed()
        if self.fails is not None:
            raise self.fails

    def snapshot(self) -> int:
        return self.steps

    def outcome(self) -> str:
        if self._error is not None:
            raise self._error
        return f"{self.steps} steps"


@pytest.fixture
def job() -> Iterator[Scripted]:
    made = Scripted()
    made.start()
    yield made
    made.cancel()
    made.go.release(3)
    assert made.wait(WAIT_S)


def test_it_goes_on_in_the_background_and_gives_its_result_when_it_is_over(job: Scripted) -> None:
    assert (job.state, job.done, job.error) == (JobState.RUNNING, False, None)
    with pytest.raises(WorkerTimeout, match="A count is known at its end"):
        job.result(timeout=0.01)
    assert not job.wait(0.01)
    job.go.release(3)
    assert job.result(WAIT_S) == "3 steps"
    assert (job.state, job.done, job.snapshot()) == (JobState.FINISHED, True, 3)


@pytest.mark.filterwarnings("ignore:A listener of a count")
def test_nobody_waits_for_ever_where_a_listener_ends_the_thread(job: Scripted) -> None:
    def leave(job: Scripted) -> None:
        if job.state.over:
            raise SystemExit(3)

    job.listen(leave)
    job.go.release(3)
    assert job.result(WAIT_S) == "3 steps"


def test_a_cancelled_job_stops_and_says_so_and_one_that_is_over_stays_as_it_is(job: Scripted) -> None:
    job.cancel()
    assert job.cancelled
    job.go.release(3)
    with pytest.raises(Cancelled, match="count was stopped on request"):
        job.result(WAIT_S)
    assert job.state is JobState.CANCELLED
    over = Scripted()
    over.start()
    over.go.release(3)
    over.wait(WAIT_S)
    over.cancel()
    assert (over.state, over.result()) == (JobState.FINISHED, "3 steps")


def test_one_that_is_cancelled_before_it_begins_is_over_and_never_begins() -> None:
    job = Scripted()
    job.cancel()
    job.start()
    with pytest.raises(Cancelled, match="before it began"):
        job.result(WAIT_S)
    assert (job.done, job.snapshot()) == (True, 0)


def test_what_its_work_raises_is_kept_for_the_result() -> None:
    job = Scripted(fails=ZeroDivisionError("ours"))
    job.start()
    job.go.release(3)
    with pytest.raises(ZeroDivisionError, match="ours"):
        job.result(WAIT_S)
    assert job.state is JobState.FAILED
    assert isinstance(job.error, ZeroDivisionError)


def test_listeners_hear_each_change_and_the_end_before_anybody_who_waits(job: Scripted) -> None:
    heard: list[tuple[int, JobState]] = []
    hold, entered = threading.Event(), threading.Event()

    def listen(changed: Scripted) -> None:
        heard.append((changed.steps, changed.state))
        if changed.state.over:
            assert changed.outcome() == changed.result() == "3 steps", "a listener may ask for the result"
            entered.set()
            hold.wait(WAIT_S)

    job.listen(listen)
    job.go.release(3)
    assert entered.wait(WAIT_S)
    assert not job.done, "nobody goes on before the listeners know"
    assert not job.wait(0.01)
    hold.set()
    job.result(WAIT_S)
    assert heard == [(1, JobState.RUNNING), (2, JobState.RUNNING), (3, JobState.RUNNING), (3, JobState.FINISHED)]


def test_who_stopped_listening_hears_nothing_and_who_comes_late_hears_the_end(job: Scripted) -> None:
    heard: list[str] = []
    stop = job.listen(lambda _: heard.append("early"))
    stop()
    stop()
    job.go.release(3)
    job.result(WAIT_S)
    job.listen(lambda changed: heard.append(changed.state))
    assert heard == [JobState.FINISHED]


@pytest.mark.filterwarnings("always")
def test_a_listener_that_raises_is_dropped_with_a_warning_and_the_job_goes_on(
    job: Scripted, recwarn: pytest.WarningsRecorder
) -> None:
    calls = []

    def raises(_: Scripted) -> None:
        calls.append(1)
        raise ValueError("a broken view")

    job.listen(raises)
    job.go.release(3)
    assert job.result(WAIT_S) == "3 steps"
    assert len(calls) == 1
    assert [str(warning.message) for warning in recwarn] == [
        "A listener of a count is not told any more: it raised ValueError: a broken view"
    ]


def test_a_job_that_gets_no_thread_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    job = Scripted()
    heard: list[JobState] = []
    job.listen(lambda changed: heard.append(changed.state))
    with pytest.raises(DeviceError, match="thread"):
        job.start()
    assert (job.done, job.state, heard) == (True, JobState.FAILED, [JobState.FAILED])
