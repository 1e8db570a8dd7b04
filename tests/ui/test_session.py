from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from fake_front import FakeFront
from fake_lab import FakeLab

from esen_lab.ui.session import Session, ShownWidget, _Panel
from esen_lab.ui.views import View
from esen_lab.ui.widgets.live_displays import Slow


def test_the_lab_is_made_at_the_first_need_and_named_lab(session: Session, front: FakeFront) -> None:
    assert session.known_lab() is None
    assert "lab" not in front.names
    made = session.lab()
    assert front.names["lab"] is made
    assert session.lab() is made


def test_the_users_own_lab_is_used(session: Session, front: FakeFront) -> None:
    own = front.names["lab"] = FakeLab()
    assert session.lab() is own


def test_a_lab_that_the_user_makes_later_takes_over(session: Session, front: FakeFront) -> None:
    first = session.lab()
    second = front.names["lab"] = FakeLab()
    assert session.lab() is second
    session.close()
    assert first.closed.is_set()
    assert second.closed.is_set()


def test_a_variable_that_is_no_lab_is_never_clobbered(session: Session, front: FakeFront) -> None:
    front.names["lab"] = "my notes"
    made = session.lab()
    assert front.names["lab"] == "my notes"
    assert front.names["esen"] is made
    assert "'lab' is a variable of yours" in front.text
    assert session.lab() is made
    assert len(front.shown) == 1


def test_with_both_names_taken_there_is_a_lab_all_the_same(session: Session, front: FakeFront) -> None:
    front.names.update(lab=1, esen=2)
    made = session.lab()
    assert session.lab() is made
    assert (front.names["lab"], front.names["esen"]) == (1, 2)


def test_closing_ends_the_lab_and_leaves_the_variable(session: Session, front: FakeFront) -> None:
    made = session.lab()
    session.close()
    session.close()
    assert made.closed.is_set()
    assert front.names["lab"] is made


def test_slow_work_shows_how_far_it_is_and_then_its_result_in_that_place(
    session: Session, front: FakeFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Slow, "PATIENCE_S", 0.0)

    def work(tell: Callable[[int, int, str], None]) -> str:
        tell(1, 4, "the second quarter")
        assert "the second quarter" in front.lives[0].text
        return "a record"

    assert session.attend("Working", work, lambda record: View(title=f"Done: {record}")) == "a record"
    assert front.marked == ["a record"]
    assert front.lives[0].text == "Done: a record"
    assert front.shown == []


def test_work_that_ends_without_a_result_does_not_look_alive(
    session: Session, front: FakeFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Slow, "PATIENCE_S", 0.0)

    def work(tell: Callable[[int, int, str], None]) -> None:
        tell(1, 4, "the second quarter")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session.attend("Working", work, lambda record: View())
    assert front.lives[0].text == "Working: stopped"
    assert front.lives[0].last
    assert front.marked == []


def test_a_lab_whose_name_the_user_takes_goes_on_under_another(session: Session, front: FakeFront) -> None:
    made = session.lab()
    front.namespace["lab"] = 3  # such as "for lab in loader"
    assert session.known_lab() is made
    assert session.lab() is made
    assert front.namespace["esen"] is made
    assert front.namespace["lab"] == 3
    del front.namespace["esen"]
    assert session.lab() is made
    assert session.open_labs == (made,)


def test_a_lab_that_loses_its_last_name_says_so_once(session: Session, front: FakeFront) -> None:
    made = session.lab()
    front.namespace.update(lab=3, esen=4)
    assert session.lab() is session.lab() is made
    assert front.text.count("the workbench's lab is without a name here") == 1


def test_closing_waits_for_a_still_form_that_is_drawn_and_not_for_ever(session: Session, lab: FakeLab) -> None:
    drawing, never = threading.Event(), threading.Event()

    def draw(state: Any) -> View:
        if not drawing.is_set():
            drawing.set()
            never.wait(0.3)  # long enough for the closing to wait for it
        return View(title="drawn")

    shown = ShownWidget(still=session.front.live(View()), take_away=lambda: None)
    panel = _Panel((), [shown], lab.tune(), draw)
    assert panel._still is not None
    panel._still._interval_s = 0.0
    session._panels.append(panel)
    panel._still.changed()
    assert drawing.wait(60)
    close = threading.Thread(target=session.close, daemon=True)
    close.start()
    close.join(60)
    assert not close.is_alive(), "what is drawn asked for the lab, and the closing held it"
