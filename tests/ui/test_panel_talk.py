"""What pages are told, and when: with scripted comms and subjects, which are test doubles, and a clock of our own."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from waiting import until

from esen_lab.errors import UsageError
from esen_lab.ui.panel import channel
from esen_lab.ui.panel.channel import AGAIN_S, LOOK_S, MOST_PAGES, PROTOCOL, Talk
from esen_lab.ui.panel.messages import problem, schema


class Comm:
    """A comm that writes down what is sent: a test double."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.open = True
        self.broken = False

    def send(self, data: dict[str, Any]) -> None:
        if self.broken:
            raise RuntimeError("the page is gone")
        # What a kernel sends is JSON, and what this page's side of the protocol takes.
        json.dumps(data, allow_nan=False).encode("utf-8")
        assert problem(data, schema()["to_page"][data["kind"]]) == ""
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
        self.stirred: Callable[[], None] | None = None
        self.stopped: list[str | None] = []
        self.monitor = Monitor()
        self.refuses = ""
        self.unreadable = False

    def sections(self) -> dict[str, Any]:
        if self.unreadable:
            raise KeyError("in the middle of a change")
        return dict(self.state)

    def listen(self, stirred: Callable[[], None]) -> Callable[[], None]:
        self.stirred = stirred
        return lambda: setattr(self, "stirred", None)

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
    assert conversation.look() == AGAIN_S
    assert comm.sent == []
    conversation.subject.unreadable = False
    conversation.look(after_s=AGAIN_S)
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


@pytest.mark.parametrize("section", ["device", "nodes"])
def test_readings_are_told_once_a_second_and_never_in_the_way_of_news(conversation: Conversation, section: str) -> None:
    comm = conversation.page()
    conversation.look()
    for step in range(12):  # three seconds, with a reading at each look
        conversation.subject.state[section] = {"reading": step}
        conversation.look(after_s=0.25)
    assert [sorted(message["sections"]) for message in comm.sent[2:]] == [[section]] * 3
    conversation.subject.state |= {section: {"reading": 99}, "plan": 1}
    conversation.look(after_s=0.125)
    assert sorted(comm.sent[-1]["sections"]) == [section, "plan"], "at once, though a reading has just been told"


def test_without_news_it_looks_at_readings_once_a_second(conversation: Conversation) -> None:
    conversation.page()
    conversation.look()
    assert conversation.look() == LOOK_S


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
        until(lambda comm=comm: len(comm.sent) == 2)
        talk.command("p", {"kind": "bye"})
        thread.join(60)
        assert not thread.is_alive()
    comm = Comm()
    talk.opened(comm, {"protocol": PROTOCOL, "page": "p"})
    until(lambda: len(comm.sent) == 2)
    talk.close("unloaded")
    assert comm.sent[-1] == {"kind": "bye", "text": "unloaded", "seq": 2}
    assert not comm.open
    late = Comm()
    talk.opened(late, {"protocol": PROTOCOL, "page": "q"})
    assert talk.pages == 0


# --- messages that are not of the protocol ----------------------------------------------------------------------------

BAD: list[Any] = [
    {"kind": "monitor", "on": True, "have": 5},
    {"kind": "monitor", "on": True, "have": None},
    {"kind": "monitor", "on": True, "have": [{}]},
    {"kind": "monitor", "on": True, "interval_s": math.nan},
    {"kind": "monitor", "on": True, "interval_s": 10**400},
    {"kind": "monitor", "on": True, "interval_s": -1},
    {"kind": "monitor", "on": True, "history_s": []},
    {"kind": "monitor", "on": "\ud800"},
    {"kind": "stop", "job": {}},
    {"kind": "stop", "job": "x" * 100_000},
    {"kind": "rate", "rate_hz": {}},
    {"kind": "rate", "rate_hz": math.nan},
    {"kind": {}},
    [],
    7,
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: ascii(bad)[:50])
def test_a_bad_message_of_one_page_silences_none(conversation: Conversation, bad: Any) -> None:
    sender, other = conversation.page("p"), conversation.page("q")
    conversation.look()
    conversation.talk.command("p", bad)
    conversation.subject.state["plan"] = 1
    conversation.look(after_s=1)
    assert [comm.sent[-1]["kind"] for comm in (other,)] == ["patch"]
    assert "patch" in sender.kinds()
    assert conversation.talk.pages == 2
    answers = [message for message in sender.sent if message["kind"] in ("said", "monitor")]
    if isinstance(bad, dict) and bad["kind"] in ("stop", "monitor"):
        assert "not understood" in answers[0]["text"]
        assert conversation.subject.stopped == []
    else:
        assert answers == []


def test_a_bad_rate_leaves_the_rate_as_it_was(conversation: Conversation) -> None:
    conversation.page(rate_hz=2)
    conversation.talk.command("p", {"kind": "rate", "rate_hz": math.nan})
    assert conversation.talk._pages["p"].rate_hz == 2


@pytest.mark.parametrize("page", [None, 5, {}, "x" * 1000])
def test_a_page_that_does_not_say_which_it_is_is_told_and_hung_up_on(conversation: Conversation, page: Any) -> None:
    comm = Comm()
    conversation.talk.opened(comm, {"protocol": PROTOCOL, "page": page})
    assert (comm.kinds(), comm.open, conversation.talk.pages) == (["bye"], False, 0)


def test_a_huge_protocol_is_named_shortly_to_a_page_that_may_be_gone(conversation: Conversation) -> None:
    comm = conversation.page(protocol="9" * 100_000)
    assert len(comm.sent[0]["text"]) < 500
    gone = Comm()
    gone.broken = True
    conversation.talk.opened(gone, {"protocol": 99, "page": "p"})
    assert not gone.open


def test_a_page_that_falls_out_is_hung_up_on_and_its_plots_end(conversation: Conversation) -> None:
    first = conversation.page("first")
    conversation.look()
    conversation.talk.command("first", {"kind": "monitor", "on": True, "have": []})
    conversation.look()
    for number in range(MOST_PAGES):
        conversation.page(f"page {number}")
    assert (first.open, conversation.subject.monitor.closed) == (False, True)


def test_a_page_that_breaks_lets_go_of_its_plots(conversation: Conversation) -> None:
    comm = conversation.page()
    conversation.look()
    conversation.talk.command("p", {"kind": "monitor", "on": True, "have": []})
    conversation.look()
    comm.broken = True
    conversation.subject.state["plan"] = 1
    conversation.look(after_s=1)
    assert conversation.subject.monitor.closed


def test_a_thousand_wishes_for_plots_are_answered_once(conversation: Conversation) -> None:
    comm = conversation.page()
    conversation.look()
    for _ in range(1000):
        conversation.talk.command("p", {"kind": "monitor", "on": True, "have": ["3.9"]})
    conversation.look()
    assert comm.kinds().count("monitor") == 1


def test_readings_that_are_no_json_are_sent_as_absent(conversation: Conversation) -> None:
    comm = conversation.page()
    conversation.subject.state["plan"] = {"jct_s": math.nan, "text": "a\ud800", "gap": math.inf}
    conversation.look()
    assert comm.sent[-1]["sections"]["plan"] == {"jct_s": None, "text": r"a\ud800", "gap": None}
    conversation.look(after_s=1)
    assert comm.kinds() == ["hello", "state"], "what is absent has not changed"


def test_a_document_that_fails_says_why_and_the_rest_goes_on(conversation: Conversation) -> None:
    comm = conversation.page()
    conversation.look()

    def fails() -> dict[str, Any]:
        raise ZeroDivisionError("no plots")

    conversation.subject.monitor.document = fails  # type: ignore[method-assign]
    conversation.talk.command("p", {"kind": "monitor", "on": True})
    conversation.look()
    assert (comm.sent[-1]["what"], comm.sent[-1]["text"]) == ("none", "no plots")
    assert conversation.subject.monitor.closed


def test_a_stop_that_fails_in_an_unforeseen_way_is_told(conversation: Conversation) -> None:
    comm = conversation.page()
    conversation.look()

    def fails(job: str | None) -> None:
        raise KeyError(job)

    conversation.subject.stop = fails  # type: ignore[method-assign]
    conversation.talk.command("p", {"kind": "stop", "job": "profile"})
    assert (comm.sent[-1]["kind"], comm.sent[-1]["text"]) == ("said", "KeyError: 'profile'")


def test_what_fails_for_one_page_is_told_to_it_once_and_the_others_go_on(
    conversation: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    comm, other = conversation.page("p"), conversation.page("q")
    conversation.look()
    tell = conversation.talk._tell

    def fails(page: Any, *rest: Any) -> float:
        if page.name == "p":
            raise SystemExit("somebody's doing")
        return tell(page, *rest)

    monkeypatch.setattr(conversation.talk, "_tell", fails)
    for step in range(3):
        conversation.subject.state["plan"] = step
        conversation.look(after_s=1)
    assert comm.kinds() == ["hello", "state", "said"]
    assert "SystemExit: somebody's doing" in comm.sent[-1]["text"]
    assert other.kinds()[2:] == ["patch"] * 3


@pytest.fixture
def running() -> Iterator[tuple[Talk, Subject]]:
    """A talk with its thread."""
    subject = Subject()
    talk = Talk(subject)
    yield talk, subject
    talk.close("the test is over")


def test_no_message_ends_the_thread(running: tuple[Talk, Subject]) -> None:
    talk, subject = running
    comm = Comm()
    talk.opened(comm, {"protocol": PROTOCOL, "page": "p"})
    until(lambda: len(comm.sent) == 2)
    thread = talk._thread
    for bad in BAD:
        talk.command("p", bad)
    subject.state["plan"] = 1
    talk.stirred()
    until(lambda: "patch" in comm.kinds())
    assert thread is talk._thread


def test_what_stirs_is_told_at_once_and_nobody_is_heard_without_pages(
    running: tuple[Talk, Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "LOOK_S", 1000.0)  # it is told because it stirs, not because it is time to look
    talk, subject = running
    comm = Comm()
    talk.opened(comm, {"protocol": PROTOCOL, "page": "p", "rate_hz": 10})
    until(lambda: len(comm.sent) == 2)
    assert subject.stirred is not None
    for step in range(5):
        subject.state["plan"] = step
        subject.stirred()
        until(lambda step=step: comm.sent[-1].get("sections", {}).get("plan") == step)
    talk.command("p", {"kind": "bye"})
    until(lambda: subject.stirred is None)


def test_a_look_that_fails_does_not_end_the_thread(
    running: tuple[Talk, Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    talk, _ = running
    looked = threading.Event()
    look = talk.look

    def fails_once() -> float:
        monkeypatch.setattr(talk, "look", look)
        looked.set()
        raise SystemExit

    monkeypatch.setattr(talk, "look", fails_once)
    comm = Comm()
    talk.opened(comm, {"protocol": PROTOCOL, "page": "p"})
    assert looked.wait(60)
    until(lambda: comm.kinds() == ["hello", "state"])


def test_a_thread_that_ended_is_started_anew_by_the_next_word(running: tuple[Talk, Subject]) -> None:
    talk, _ = running
    ended = threading.Thread(target=lambda: None)
    ended.start()
    ended.join()
    talk._thread = ended
    comm = Comm()
    talk.opened(comm, {"protocol": PROTOCOL, "page": "p"})
    until(lambda: comm.kinds() == ["hello", "state"])
    assert talk._thread is not ended
