"""`%esen watch`, without a browser."""

from __future__ import annotations

import threading

import pytest
from fake_front import FakeFront
from fake_lab import FakeLab, FakeMeter

from esen_lab.devices.telemetry import Channel, Sample, Sampler
from esen_lab.errors import UsageError
from esen_lab.ui.html import to_text
from esen_lab.ui.magics.lines import run_line
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

        def read(self) -> dict[str, float]:
            self.looks += 1
            if self.looks < 2:
                return {"cpu": "a percentage needs a moment between two looks"}  # type: ignore[dict-item]
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
    assert esen_threads() == ["esen-publisher"]
    session.close()
    assert esen_threads() == []


def test_the_end_leaves_a_summary_in_place(session: Session, front: FakeFront) -> None:
    run_line(session, "watch")
    session.watching._sampler.take()
    run_line(session, "watch --stop")
    assert front.widgets[0].comm is None
    assert "Watched for" in front.lives[-1].text
    run_line(session, "watch --stop")
    assert "Nothing was being watched" in front.text


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
