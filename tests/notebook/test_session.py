from __future__ import annotations

from fake_front import FakeFront
from fake_lab import FakeLab

from esen_lab.notebook.session import Session


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
