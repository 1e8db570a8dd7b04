"""The still form of what moves: redrawn after changes, not with every one of them."""

from __future__ import annotations

import threading

from fake_front import FakeLive

from esen_lab.ui.views import View
from esen_lab.ui.widgets.still import Still


def drawn(live: FakeLive) -> list[str]:
    return [view.title for view in live.views[1:]]


def test_many_changes_are_one_drawing_of_the_newest_state() -> None:
    live, state = FakeLive(View()), ["old"]
    ready = threading.Event()

    def draw() -> View:
        ready.set()
        return View(title=state[0])

    still = Still(live, draw, interval_s=0.01)
    with still._lock:  # the drawing waits until all changes are in
        for number in range(100):
            state[0] = f"change {number}"
            still.changed()
    assert ready.wait(60)
    with still._lock:
        assert drawn(live) == ["change 99"]
    still.close()
    assert drawn(live) == ["change 99", "change 99"]
    assert live.last


def test_closing_draws_the_end_once_and_hears_no_more() -> None:
    live = FakeLive(View())
    still = Still(live, lambda: View(title="now"), interval_s=60)
    still.changed()
    still.close(View(title="final"))
    still.close()
    still.changed()
    assert drawn(live) == ["final"]
    assert "esen-still" not in [thread.name for thread in threading.enumerate()]


def test_a_form_that_cannot_be_drawn_leaves_the_one_before() -> None:
    def draw() -> View:
        raise RuntimeError("the lab is closed")

    live = FakeLive(View(title="before"))
    Still(live, draw).close()
    assert drawn(live) == []
