"""What pages are told, and when: with scripted comms and subjects, which are test doubles, and a clock of our own."""

from __future__ import annotations

from typing import Any

import pytest

from esen_lab.errors import UsageError
from esen_lab.notebook.panel.talk import BUSY_LOOK_S, IDLE_LOOK_S, MOST_PAGES, PROTOCOL, Talk


class Comm:
    """A comm that writes down what is sent: a test double."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.open = True
        self.broken = False

    def send(self, data: dict[str, Any]) -> None:
        if self.broken:
            raise RuntimeError("the page is gone")
        self.sent.append(data)

    def close(self) -> None:
        self.open = False

    def kinds(self) -> list[str]:
        return [message["kind"] for message in self.sent]


class Monitor:
    """Scripted readings: a test double."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.closed = False
        self.broken = False

    def bokeh(self) -> tuple[str, str]:
        return "the source", "3.9"

    def document(self) -> dict[str, Any]:
        return {"number": 1}

    def fresh(self) -> dict[str, Any] | None:
        if self.broken:
            raise OSError("the readings are gone")
        return self.messages.pop(0) if self.messages else None

    def close(self) -> None:
        self.closed = True


class Subject:
    """A scripted notebook: a test double."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {"plan": None, "busy": {"cell": False}}
        self.is_busy = False
        self.stopped: list[str | None] = []
        self.monitor = Monitor()
        self.refuses = ""
        self.unreadable = False

    def sections(self) -> dict[str, Any]:
        if self.unreadable:
            raise KeyError("in the middle of a change")
        return dict(self.state)

    def busy(self) -> bool:
        return self.is_busy

    def stop(self, job: str | None) -> None:
        if self.refuses:
            raise UsageError(self.refuses)
        self.stopped.append(job)

    def open_monitor(self, interval_s: float, history_s: float) -> Monitor:
        if self.refuses:
            raise UsageError(self.refuses)
        return self.monitor


class Conversation:
    """A talk without its thread: the test says when it looks."""

    def __init__(self) -> None:
        self.now = 100.0
        self.subject = Subject()
        self.talk = Talk(self.subject, clock=lambda: self.now)
        self.talk._thread = object()  # type: ignore[assignment]  # so that none is started

    def page(self, name: str = "p", **data: Any) -> Comm:
        comm = Comm()
        self.talk.opened(comm, {"protocol": PROTOCOL, "page": name, "rate_hz": 4, **data})
        return comm

    def look(self, after_s: float = 0.0) -> float:
        self.now += after_s
        return self.talk.look()


@pytest.fixture
def conversation() -> Conversation:
    return Conversation()


def test_a_page_gets_a_hello_and_then_everything(conversation: Conversation) -> None:
    comm = conversation.page()
    conversation.look()
    hello, state = comm.sent
    assert (hello["kind"], hello["protocol"], hello["seq"]) == ("hello", PROTOCOL, 0)
    assert (state["kind"], state["seq"], state["sections"]) == ("state", 1, conversation.subject.state)


def test_a_lab_that_cannot_be_read_for_a_moment_is_read_at_the_next_look(conversation: Conversation) -> None:
    comm = conversation.page()
    conversation.subject.unreadable = True
    assert conversation.look() == BUSY_LOOK_S
    assert comm.sent == []
    conversation.subject.unreadable = False
    conversation.look(after_s=BUSY_LOOK_S)
    assert comm.kinds() == ["hello", "state"]


def test_a_lab_that_cannot_be_read_for_long_is_told_once_with_the_reason(conversation: Conversation) -> None:
    comm = conversation.page()
    conversation.subject.unreadable = True
    for _ in range(5):
        conversation.look(after_s=1)
    assert comm.kinds() == ["hello", "said"]
    assert "KeyError: 'in the middle of a change'" in comm.sent[1]["text"]
    later = conversation.page("later")
    conversation.look(after_s=1)
    assert later.kinds() == ["hello", "said"], "a page that comes then is told too"
    conversation.subject.unreadable = False
    conversation.look(after_s=1)
    assert comm.kinds()[2:] == ["state"]


def test_plots_that_fail_are_ended_with_the_reason_and_the_rest_goes_on(conversation: Conversation) -> None:
    comm = conversation.page()
    conversation.look()
    conversation.talk.command("p", {"kind": "monitor", "on": True})
    conversation.look(after_s=1)
    conversation.subject.monitor.broken = True
    conversation.subject.state["plan"] = {"jct_s": 1.0}
    conversation.look(after_s=1)
    assert comm.kinds()[-2:] == ["patch", "monitor"]
    assert (comm.sent[-1]["what"], comm.sent[-1]["text"]) == ("none", "the readings are gone")
    assert conversation.subject.monitor.closed
    conversation.look(after_s=1)
    assert comm.kinds()[-1] == "monitor"


def test_only_sections_that_changed_are_sent_and_nothing_when_none_did(conversation: Conversation) -> None:
    comm = conversation.page()
    conversation.look()
    conversation.look(after_s=1)
    assert len(comm.sent) == 2
    conversation.subject.state["plan"] = {"jct_s": 1.0}
    conversation.look(after_s=1)
    assert comm.sent[2:] == [{"kind": "patch", "seq": 2, "sections": {"plan": {"jct_s": 1.0}}}]


def test_a_page_is_told_no_oftener_than_it_asked_for_and_gets_the_last_state(conversation: Conversation) -> None:
    comm = conversation.page(rate_hz=2)
    conversation.look()
    pauses = []
    for step in range(4):
        conversation.subject.state["plan"] = step
        pauses.append(conversation.look(after_s=0.125))
    assert comm.kinds() == ["hello", "state", "patch"]
    assert comm.sent[-1]["sections"] == {"plan": 3}
    assert pauses[0] == pytest.approx(0.375), "it looks again when the page is due"


def test_readings_are_told_once_a_second_and_never_in_the_way_of_news(conversation: Conversation) -> None:
    comm = conversation.page()
    conversation.look()
    for step in range(12):  # three seconds, with a reading at each look
        conversation.subject.state["device"] = {"utilization": step}
        conversation.look(after_s=0.25)
    assert [sorted(message["sections"]) for message in comm.sent[2:]] == [["device"]] * 3
    conversation.subject.state |= {"device": {"utilization": 99}, "plan": 1}
    conversation.look(after_s=0.125)
    assert sorted(comm.sent[-1]["sections"]) == ["device", "plan"], "at once, though a reading has just been told"


def test_it_looks_oftener_while_something_goes_on(conversation: Conversation) -> None:
    conversation.page()
    conversation.look()
    assert conversation.look() == IDLE_LOOK_S
    conversation.subject.is_busy = True
    assert conversation.look() == BUSY_LOOK_S


def test_a_resync_brings_everything_at_once(conversation: Conversation) -> None:
    comm = conversation.page()
    conversation.look()
    conversation.talk.command("p", {"kind": "resync"})
    conversation.look()
    assert comm.kinds() == ["hello", "state", "state"]
    assert [message["seq"] for message in comm.sent] == [0, 1, 2]


def test_another_protocol_is_said_and_hung_up_on(conversation: Conversation) -> None:
    comm = conversation.page(protocol=99)
    assert comm.kinds() == ["mismatch"]
    assert "99" in comm.sent[0]["text"]
    assert "same version" in comm.sent[0]["text"]
    assert not comm.open
    assert conversation.talk.pages == 0


def test_a_stop_is_obeyed_at_once_and_a_refusal_is_told(conversation: Conversation) -> None:
    comm = conversation.page()
    conversation.look()
    conversation.talk.command("p", {"kind": "stop", "job": "profile"})
    conversation.talk.command("p", {"kind": "stop"})
    assert conversation.subject.stopped == ["profile", None]
    conversation.subject.refuses = "A job that runs can be stopped"
    conversation.talk.command("p", {"kind": "stop", "job": "search"})
    assert (comm.sent[-1]["kind"], comm.sent[-1]["level"]) == ("said", "error")


def test_a_page_that_says_goodbye_or_breaks_is_told_nothing_more(conversation: Conversation) -> None:
    leaving, broken, staying = (conversation.page(name) for name in ("a", "b", "c"))
    conversation.look()
    conversation.talk.command("a", {"kind": "bye"})
    broken.broken = True
    conversation.subject.state["plan"] = 1
    conversation.look(after_s=1)
    conversation.subject.state["plan"] = 2
    conversation.look(after_s=1)
    assert len(leaving.sent) == 2
    assert len(staying.sent) == 4
    assert conversation.talk.pages == 1


def test_pages_that_were_closed_without_a_word_fall_out(conversation: Conversation) -> None:
    comms = [conversation.page(f"page {number}") for number in range(MOST_PAGES + 2)]
    conversation.look()
    assert conversation.talk.pages == MOST_PAGES
    assert [bool(comm.sent) for comm in comms[:3]] == [False, False, True]


def test_a_lab_in_the_middle_of_a_change_is_looked_at_again(conversation: Conversation) -> None:
    comm = conversation.page()
    whole = conversation.subject.sections

    def fails() -> dict[str, Any]:
        raise RuntimeError("changing")

    conversation.subject.sections = fails  # type: ignore[method-assign]
    conversation.look()
    conversation.subject.sections = whole  # type: ignore[method-assign]
    conversation.look()
    assert comm.kinds() == ["hello", "state"]


def test_the_monitor_sends_bokeh_only_where_it_is_missing(conversation: Conversation) -> None:
    first, second = conversation.page("a"), conversation.page("b")
    conversation.look()
    conversation.talk.command("a", {"kind": "monitor", "on": True, "have": []})
    conversation.talk.command("b", {"kind": "monitor", "on": True, "have": ["3.9"]})
    conversation.look()
    assert [m["what"] for m in first.sent if m["kind"] == "monitor"] == ["bokeh", "doc"]
    assert [m["what"] for m in second.sent if m["kind"] == "monitor"] == ["doc"]


def test_the_monitors_rows_follow_its_document_until_it_is_turned_off(conversation: Conversation) -> None:
    comm = conversation.page()
    conversation.talk.command("p", {"kind": "monitor", "on": True, "have": ["3.9"]})
    monitor = conversation.subject.monitor
    monitor.messages = [{"kind": "rows", "number": 2}, {"kind": "doc", "doc": {"number": 3}}]
    for _ in range(3):
        conversation.look()
    assert [m["what"] for m in comm.sent if m["kind"] == "monitor"] == ["doc", "rows", "doc"]
    assert [m["seq"] for m in comm.sent] == list(range(len(comm.sent)))
    conversation.talk.command("p", {"kind": "monitor", "on": False})
    conversation.look()
    assert monitor.closed


def test_a_monitor_without_readings_says_why(conversation: Conversation) -> None:
    comm = conversation.page()
    conversation.subject.refuses = "Nothing can be read here"
    conversation.talk.command("p", {"kind": "monitor", "on": True, "have": []})
    conversation.look()
    assert comm.sent[-1]["what"] == "none"
    assert "Nothing can be read here" in comm.sent[-1]["text"]


def test_odd_commands_change_nothing(conversation: Conversation) -> None:
    comm = conversation.page(rate_hz="often")
    conversation.look()
    wrong_rate = {"kind": "rate", "rate_hz": "often"}
    wrong_monitor = {"kind": "monitor", "on": 1, "interval_s": "x"}
    for odd in (None, "stop", {}, {"kind": "dance"}, wrong_rate, wrong_monitor):
        conversation.talk.command("p", odd)
        conversation.talk.command("nobody", odd)
    conversation.look()
    assert conversation.talk.pages == 1
    assert comm.kinds() == ["hello", "state", "monitor"]
    assert comm.sent[-1]["what"] == "none"


def test_its_thread_tells_ends_without_pages_and_begins_again() -> None:
    subject = Subject()
    talk = Talk(subject)
    for _ in range(2):
        comm = Comm()
        talk.opened(comm, {"protocol": PROTOCOL, "page": "p"})
        thread = talk._thread
        assert thread is not None
        _wait(lambda comm=comm: len(comm.sent) == 2)
        talk.command("p", {"kind": "bye"})
        thread.join(5)
        assert not thread.is_alive()
    comm = Comm()
    talk.opened(comm, {"protocol": PROTOCOL, "page": "p"})
    _wait(lambda: len(comm.sent) == 2)
    talk.close("unloaded")
    assert comm.sent[-1] == {"kind": "bye", "text": "unloaded", "seq": 2}
    assert not comm.open
    late = Comm()
    talk.opened(late, {"protocol": PROTOCOL, "page": "q"})
    assert talk.pages == 0


def _wait(condition: Any) -> None:
    import time

    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
