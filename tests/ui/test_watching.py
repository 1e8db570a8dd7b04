"""`%esen watch`, without a browser."""

from __future__ import annotations

import json
import sys
import threading

import pytest
from fake_front import FakeFront
from fake_lab import FakeLab, FakeMeter
from waiting import until

from esen_lab import Lab, watch
from esen_lab.devices.telemetry import Channel, Sample, Sampler
from esen_lab.errors import UsageError
from esen_lab.ui.html import to_text
from esen_lab.ui.magics.lines import run_line
from esen_lab.ui.panel.monitor import MOST_SILENT, LabMonitor
from esen_lab.ui.pictures.rows import ReadingTraces
from esen_lab.ui.session import Session
from esen_lab.ui.views import Table
from esen_lab.ui.widgets.watching import Watching, summary_of


@pytest.fixture
def front() -> FakeFront:
    return FakeFront()


@pytest.fixture
def session(front: FakeFront) -> Session:
    return Session(front, lambda: FakeLab)


def esen_threads() -> list[str]:
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("esen"))


def test_a_notebook_gets_plots_with_a_text_for_where_widgets_are_not_shown(session: Session, front: FakeFront) -> None:
    run_line(session, "watch --every 250ms --history 60")
    assert len(front.widgets) == 1
    assert "fake CPU now" in front.text
    assert "50 %" in front.text
    assert session.lab().calls == [("watch", {"interval_s": 0.25, "history_s": 60.0})]
    session.close()


def test_a_terminal_gets_one_table(session: Session, front: FakeFront) -> None:
    front.updates_in_place = False
    run_line(session, "watch")
    assert front.widgets == []
    assert "CPU" in front.text
    assert session.watching is None
    assert session.lab().calls[-1] == ("unwatch",)


def test_a_table_waits_for_what_needs_two_looks() -> None:
    class Percentages(FakeMeter):
        looks = 0

        def read(self) -> dict[str, float | str]:
            self.looks += 1
            if self.looks < 2:
                return {"cpu": "a percentage needs a moment between two looks"}
            return {"cpu": 37.0}

    lab = FakeLab()
    sampler = Sampler(Percentages(), interval_s=0.05)
    lab.watch = lambda **_: sampler
    sampler.watch()
    try:
        shown = to_text(Watching(lab, 0.05, 60.0).table(10.0))
    finally:
        sampler.close()
    assert "37 %" in shown
    assert "needs a moment" not in shown


def test_watching_again_closes_the_plots_before(session: Session, front: FakeFront) -> None:
    run_line(session, "watch")
    run_line(session, "watch")
    first, second = front.widgets
    assert first.comm is None
    assert second.comm is not None
    until(lambda: esen_threads() == ["esen-publisher"])
    session.close()
    until(lambda: esen_threads() == [])


def test_the_end_leaves_a_summary_in_place(session: Session, front: FakeFront) -> None:
    run_line(session, "watch")
    session.watching._sampler.take()
    run_line(session, "watch --stop")
    assert front.widgets[0].comm is None
    assert "Watched for" in front.lives[-1].text
    run_line(session, "watch --stop")
    assert "Nothing was being watched" in front.text


@pytest.mark.parametrize("package", ["anywidget", "bokeh"])
def test_without_the_packages_of_the_notebook_there_is_a_table_and_word_of_them(
    session: Session, front: FakeFront, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    for name in ("live", "live_charts", "feed", "commands"):
        monkeypatch.delitem(sys.modules, f"esen_lab.ui.widgets.{name}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    run_line(session, "watch")
    assert "50 %" in front.text
    assert "pip install 'esen_lab[notebook]'" in front.text
    assert front.widgets == []
    assert session.watching is None
    assert session.lab().calls[-1] == ("unwatch",)


def test_whoever_interrupts_a_watch_that_begins_leaves_nothing_open(
    session: Session, front: FakeFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(front, "show_widget", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_line(session, "watch")
    assert session.watching is None
    assert session.lab().calls[-1] == ("unwatch",)
    until(lambda: esen_threads() == [])


def test_plots_of_a_lab_that_was_closed_end_with_their_summary(front: FakeFront) -> None:
    with Lab(device="cpu") as lab:
        watching = Watching(lab, 0.05, 60.0)
        plots = watching.open_plots()
        watching.keep(front.show_widget(plots, watching.table(), "the device was being watched"))
        lab.close()
        until(lambda: front.taken_away)
        assert front.taken_away == [plots]
        assert front.lives[-1].last
        assert "Watched for" in front.lives[-1].text
        assert "begins again" in front.lives[-1].text
        other = lab.readings.watch(0.05, 60.0)
        watching.close()
        assert other.running, "a viewer that ended with the lab takes no other viewer's sampler away"
        lab.readings.unwatch(other)
        assert not other.running


def test_plots_without_magics_end_once_and_leave_other_viewers_alone() -> None:
    with Lab(device="cpu") as lab:
        one, other = watch(lab), watch(lab)
        one.close()
        one.close()
        assert lab.readings.watched is not None, "the other one is still shown"
        other.close()
        assert lab.readings.watched is None
        until(lambda: esen_threads() == [])


def test_plots_without_magics_say_that_the_lab_was_closed() -> None:
    with Lab(device="cpu") as lab:
        plots = watch(lab)
        lab.close()
        until(lambda: plots._feed.over)
        assert "The lab was closed" in json.loads(plots.get_state()["doc"])["over"]
        plots.close()


def test_another_rate_or_history_is_refused_with_both(session: Session) -> None:
    with Lab(device="cpu") as lab:
        first = lab.readings.watch(0.5, 1800.0)
        with pytest.raises(UsageError, match=r"every 0.5 s, 1800 s. Given: every 0.5 s, 60 s"):
            lab.readings.watch(0.5, 60.0)
        lab.readings.unwatch(first)
        with pytest.raises(UsageError, match="at most 2,000,000"):
            lab.readings.watch(0.05, 1e30)


def test_a_monitor_goes_on_with_another_device_and_says_when_the_lab_was_closed() -> None:
    with Lab(device="cpu") as lab:
        monitor = LabMonitor(lab, 0.05, 60.0)
        monitor.document()
        lab.use_device("cpu:all")
        found = monitor.fresh()
        assert found is not None
        assert found["kind"] == "doc"
        assert lab.readings.watched is not None
        lab.close()
        assert [monitor.fresh() for _ in range(MOST_SILENT - 1)] == [None] * (MOST_SILENT - 1), "it may be a change"
        with pytest.raises(UsageError, match="a lab that was not closed"):
            monitor.fresh()
        monitor.close()


def test_a_rate_that_is_none_is_refused(session: Session) -> None:
    with pytest.raises(UsageError, match="positive number of seconds"):
        run_line(session, "watch --every never")


def test_a_lane_that_started_anew_is_one_line_of_the_summary() -> None:
    channels = [Channel(key=key, label="lane 1, CPU", unit="%", group="lanes") for key in ("old", "new")]
    samples = [
        Sample(number=number, at_s=float(number), values={"old" if number < 5 else "new": 10.0 * number})
        for number in range(10)
    ]
    view = summary_of(channels, samples)
    traces, table = view.blocks
    assert isinstance(table, Table)
    assert table.rows == (("lane 1, CPU", "45 %", "0 %", "90 %"),)
    assert isinstance(traces, ReadingTraces)
    assert [len(plot.lines) for plot in traces.plots] == [1]
