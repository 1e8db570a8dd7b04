"""Where the system gives no more threads, whatever moves in a page says so or waits, and goes on with the next one."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from fake_front import FakeFront, FakeLive
from fake_lab import FakeJob, FakeLab

from esen_lab.errors import DeviceError, EsenError
from esen_lab.ui import views
from esen_lab.ui.magics.lines import run_line
from esen_lab.ui.panel.channel import PROTOCOL, Talk
from esen_lab.ui.session import Session
from esen_lab.ui.views import View
from esen_lab.ui.widgets.acts import Acts
from esen_lab.ui.widgets.live import Publisher
from esen_lab.ui.widgets.live_displays import Follower
from esen_lab.ui.widgets.still import Still


@pytest.fixture
def scarce(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Threads do not start until its `over` is called."""

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    start = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", refuse)
    return SimpleNamespace(over=lambda: monkeypatch.setattr(threading.Thread, "start", start))


def test_a_job_that_cannot_be_followed_is_said_and_the_next_one_is_followed(scarce: Any) -> None:
    follower, job = Follower(interval_s=0.005), FakeJob()
    with pytest.raises(DeviceError, match="ulimit -u"):
        follower.follow(FakeJob(), FakeLive(View()), views.progress)
    scarce.over()
    live = FakeLive(View())
    ended = follower.follow(job, live, views.progress)
    job.finish()
    assert ended.wait(60)
    assert live.last
    follower.close()


def test_a_profile_that_cannot_be_followed_goes_on_and_its_button_is_taken_away(
    session: Session, front: FakeFront, lab: FakeLab, scarce: Any
) -> None:
    with pytest.raises(DeviceError, match="threads"):
        run_line(session, "profile")
    assert lab.job is not None
    assert not lab.job.done
    assert front.taken_away == front.widgets


def test_a_button_whose_work_needs_a_thread_says_why_nothing_happens(scarce: Any) -> None:
    said: list[tuple[EsenError, Any]] = []
    done: list[str] = []
    acts = Acts(lambda problem, where: said.append((problem, where)))
    acts.beside(lambda: done.append("never"), "here")
    assert [(type(problem), where) for problem, where in said] == [(DeviceError, "here")]
    acts.settle()
    scarce.over()
    acts.beside(lambda: done.append("done"))
    acts.settle(5)
    assert done == ["done"]


def test_a_still_form_is_drawn_at_the_next_change(scarce: Any) -> None:
    live = FakeLive(View())
    still = Still(live, lambda: View(title="now"), interval_s=0.0)
    still.changed()
    scarce.over()
    still.changed()
    still.close()
    assert live.text == "now"
    assert live.last


def test_plots_that_cannot_be_kept_current_are_not_opened(scarce: Any) -> None:
    publisher = Publisher()
    with pytest.raises(DeviceError, match="threads"):
        publisher.open(SimpleNamespace())  # type: ignore[arg-type]
    assert publisher.plots == ()
    publisher.close()


def test_pages_are_told_with_the_next_word_for_them(scarce: Any) -> None:
    sent: list[dict[str, Any]] = []
    heard = threading.Event()

    def send(data: dict[str, Any]) -> None:
        sent.append(data)
        if data["kind"] == "state":
            heard.set()

    subject: Any = SimpleNamespace(sections=lambda: {"jobs": []}, listen=lambda _: lambda: None)
    talk = Talk(subject)
    talk.opened(SimpleNamespace(send=send, close=lambda: None), {"protocol": PROTOCOL, "page": "p"})
    assert sent == []
    scarce.over()
    talk.stirred()
    assert heard.wait(60)
    talk.close("")
