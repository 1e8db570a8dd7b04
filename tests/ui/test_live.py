"""Live plots, kernel side: what is sent, what a refreshed page gets, what is left at the end."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from fake_lab import FakeMeter

from esen_lab.devices.telemetry import Channel, MarkLog, Sampler
from esen_lab.ui.widgets.feed import REPEATED, THIN, WHOLE, _thinned
from esen_lab.ui.widgets.live import LivePlots, Publisher
from esen_lab.ui.widgets.reading_columns import PlotReadings


class Opened:
    def __init__(self) -> None:
        self.meter = FakeMeter()
        self.sampler = Sampler(self.meter, interval_s=0.05, history_s=100)
        self.marks = MarkLog()
        self.publisher = Publisher()
        self.sampler.take()
        self.plots = self.publisher.open(PlotReadings(self.sampler, self.marks))
        self.publisher._closing.set()  # the thread would publish at its own times: these tests say when
        self.sampler.take()
        thread = self.publisher._thread
        assert thread is not None
        thread.join(60)
        self.now_s = 1e9  # later than whatever the publisher has sent
        self.sent: list[dict[str, Any]] = []
        self.plots.send = lambda content, buffers=None: self.sent.append(content)

    def publish(self) -> None:
        self.now_s += 60
        self.plots.publish(self.now_s)

    def doc(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.plots.get_state()["doc"])
        return found


@pytest.fixture
def opened() -> Iterator[Opened]:
    made = Opened()
    yield made
    made.publisher.close()
    made.sampler.close()


def test_a_page_gets_everything_that_is_kept_whenever_it_asks(opened: Opened) -> None:
    for _ in range(20):
        opened.sampler.take()
    assert opened.doc()["number"] == opened.sampler.last.number  # type: ignore[union-attr]


def test_messages_are_numbered_and_repeat_the_last_few_samples(opened: Opened) -> None:
    opened.doc()
    for _ in range(20):
        opened.sampler.take()
    opened.publish()
    opened.sampler.take()
    opened.publish()
    first, second = opened.sent
    assert first["kind"] == second["kind"] == "rows"
    assert second["number"] == first["number"] + 1
    assert len(second["rows"]["t"]) == REPEATED + 1
    assert second["first"] == second["number"] - REPEATED


def test_a_lane_that_comes_makes_a_new_layout(opened: Opened) -> None:
    opened.doc()
    opened.meter.channels.append(Channel(key="lane7", label="lane 1", unit="%", group="lanes"))
    opened.sampler.take()
    opened.publish()
    assert opened.sent[-1]["kind"] == "doc"
    generation = opened.sent[-1]["doc"]["generation"]
    opened.sampler.take()
    opened.publish()
    assert opened.sent[-1]["kind"] == "rows"
    assert opened.sent[-1]["generation"] == generation
    assert "lane7" in opened.sent[-1]["rows"]


def test_marks_are_sent_once(opened: Opened) -> None:
    opened.doc()
    opened.marks.add("plan")
    for _ in range(2):
        opened.sampler.take()
        opened.publish()
    assert opened.sent[0]["marks"]["what"] == ["plan"]
    assert "marks" not in opened.sent[1]


def test_a_page_that_lost_too_much_gets_a_whole_document(opened: Opened) -> None:
    opened.plots.commands.receive({"kind": "resync"})
    assert opened.sent[-1]["kind"] == "doc"
    opened.plots.commands.receive("nonsense")
    assert len(opened.sent) == 1


def test_bokehjs_comes_from_the_package_and_is_not_in_the_shown_widget(opened: Opened) -> None:
    state = opened.plots.get_state()
    assert len(json.dumps(state)) < 60_000
    assert len(opened.plots.loader.source) > 500_000
    assert "cdn" not in state["doc"]


def test_one_thread_sends_for_all_plots_and_ends_with_them() -> None:
    sampler = Sampler(FakeMeter(), interval_s=0.05)
    publisher = Publisher()
    readings = PlotReadings(sampler, MarkLog())
    plots: list[LivePlots] = [publisher.open(readings), publisher.open(readings)]
    assert plots[0].loader is plots[1].loader
    assert [thread.name for thread in threading.enumerate()].count("esen-publisher") == 1
    sampler.watch()
    sampler.wait(after=2, timeout_s=60)
    publisher.close()
    publisher.close()
    sampler.close()
    assert "esen-publisher" not in [thread.name for thread in threading.enumerate()]
    assert all(each.comm is None for each in plots)


class Failing:
    """Readings that fail once and then wait: a test double."""

    def __init__(self) -> None:
        self.number = 0
        self.failed = threading.Event()
        self.asked_again = threading.Event()

    def wait(self, after: int, timeout_s: float) -> bool:
        if self.failed.is_set():
            self.asked_again.set()
            return False
        self.failed.set()
        raise OSError("no readings now")


def test_readings_that_fail_do_not_end_the_publisher(monkeypatch: pytest.MonkeyPatch) -> None:
    publisher = Publisher()
    readings: Any = Failing()
    monkeypatch.setattr(publisher._closing, "wait", lambda timeout=None: False)
    thread = threading.Thread(target=publisher._run, args=(readings,))
    thread.start()
    assert readings.asked_again.wait(60)
    publisher._closing.set()
    thread.join(60)
    assert not thread.is_alive()


def test_messages_come_as_fast_as_the_page_draws_and_no_faster(opened: Opened) -> None:
    opened.doc()

    def sent_in(seconds: float) -> int:
        before = len(opened.sent)
        for look in range(round(seconds / 0.05)):  # the highest rate
            opened.sampler.take()
            opened.plots.publish(opened.now_s + 0.05 * look)
        opened.now_s += seconds
        return len(opened.sent) - before

    assert sent_in(2.0) == 20
    opened.plots.commands.receive({"kind": "pace", "ms": 500})
    sent_in(1.0)
    assert sent_in(2.0) == 4
    assert opened.sent[-1]["first"] <= opened.sent[-2]["number"] + 1, "nothing is left out"
    for nonsense in (None, "fast", float("nan"), 10**9, -1):
        opened.plots.commands.receive({"kind": "pace", "ms": nonsense})
        sent_in(3.0)
        assert sent_in(6.0) >= 3


def test_a_long_history_at_a_high_rate_is_a_document_of_bounded_size() -> None:
    columns: dict[str, list[float | None]] = {"t": [50.0 * i for i in range(36_000)], "cpu": [None, 40.0] * 18_000}
    found = _thinned(columns)
    assert len(found["t"]) == len(found["cpu"]) <= WHOLE + THIN
    assert found["t"][-WHOLE:] == columns["t"][-WHOLE:]
    assert all(later > earlier for earlier, later in itertools.pairwise(found["t"]))  # type: ignore[operator]
    assert set(found["cpu"][:100]) == {40.0}
    assert _thinned({"t": [1.0], "cpu": [None]}) == {"t": [1.0], "cpu": [None]}


def test_pages_are_told_why_nothing_comes_any_more_also_later_ones(opened: Opened) -> None:
    assert opened.doc()["over"] == ""
    opened.plots.over("The lab was closed.")
    assert opened.sent[-1] == {"kind": "over", "said": "The lab was closed."}
    assert opened.doc()["over"] == "The lab was closed."
