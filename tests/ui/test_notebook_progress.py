from __future__ import annotations

import threading

from fake_front import FakeLive
from fake_lab import FakeJob

from esen_lab.profiler.progress import ProfileProgress
from esen_lab.ui import views
from esen_lab.ui.views import View
from esen_lab.ui.widgets.live_displays import Follower, Slow


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "esen-progress"]


def _live() -> FakeLive:
    return FakeLive(View())


def test_a_display_is_current_until_its_job_is_done_and_then_stays() -> None:
    follower, job, live = Follower(interval_s=0.005), FakeJob(), _live()
    ended = follower.follow(job, live, views.progress)
    job.finish()
    assert ended.wait(60)
    assert "4 of 4 points" in live.text
    assert live.last
    follower.close()
    assert _threads() == []


def test_an_unchanged_job_is_not_drawn_again() -> None:
    follower, job, live = Follower(interval_s=0.001), FakeJob(), _live()
    follower.follow(job, live, views.progress)
    while job.looks < 20:
        job.stir()
    follower.close()
    assert len(live.views) == 2  # the first, and the one drawn from the job


def test_several_jobs_share_one_thread() -> None:
    follower, jobs = Follower(interval_s=0.005), [FakeJob(), FakeJob()]
    ended = [follower.follow(job, _live(), views.progress) for job in jobs]
    assert len(_threads()) == 1
    for job in jobs:
        job.finish()
    assert all(event.wait(60) for event in ended)
    follower.close()


def test_a_job_that_cannot_be_asked_says_so_and_ends() -> None:
    class Broken(FakeJob):
        def snapshot(self) -> ProfileProgress:
            raise RuntimeError("the store went away")

    live = _live()
    follower = Follower(interval_s=0.005)
    assert follower.follow(Broken(), live, views.progress).wait(60)
    assert "the store went away" in live.text
    follower.close()


def test_without_news_the_time_that_is_left_is_told_anew() -> None:
    follower, job, live = Follower(interval_s=0.001, tick_s=0.005), FakeJob(), _live()
    follower.follow(job, live, views.progress)
    while job.looks < 3:
        pass
    follower.close()


def test_the_end_of_a_job_is_shown_at_once() -> None:
    follower, job, live = Follower(interval_s=60, tick_s=60), FakeJob(), _live()
    ended = follower.follow(job, live, views.progress)
    job.finish()
    assert ended.wait(60)
    assert live.last
    follower.close()


def test_closing_ends_the_thread_and_frees_who_waits() -> None:
    follower = Follower(interval_s=60)
    ended = follower.follow(FakeJob(), _live(), views.progress)
    follower.close()
    assert ended.wait(60)
    assert _threads() == []
    follower.close()


def test_it_can_follow_again_after_it_was_closed() -> None:
    follower = Follower(interval_s=0.005)
    follower.follow(FakeJob(), _live(), views.progress)
    follower.close()
    job, live = FakeJob(), _live()
    ended = follower.follow(job, live, views.progress)
    job.finish()
    assert ended.wait(60)
    assert live.last
    follower.close()


def test_quick_work_shows_its_result_only() -> None:
    shown: list[View] = []
    slow = Slow("Comparing", shown.append, FakeLive, clock=lambda: 0.0)
    slow.tell(1, 2, "round 1")
    slow.finish(View(title="result"))
    assert shown == [View(title="result")]


def test_slow_work_shows_progress_and_replaces_it() -> None:
    now = [0.0]
    lives: list[FakeLive] = []

    def live(view: View) -> FakeLive:
        lives.append(FakeLive(view))
        return lives[0]

    slow = Slow("Comparing", lambda view: None, live, clock=lambda: now[0])
    for now[0] in (0.1, 1.0, 1.01, 1.2):
        slow.tell(1, 2, f"at {now[0]}")
    slow.finish(View(title="result"))
    assert [len(lives), len(lives[0].views)] == [1, 3]  # 1.0, 1.2 (1.01 came too soon), the result
    assert lives[0].text == "result"
