"""The moves that led to a draft, and taking them back."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from esen_lab.errors import UsageError
from esen_lab.planner.editor.draft import Draft, DraftLane
from esen_lab.planner.editor.undo import MOST_MOVES, History


def draft(units: int) -> Draft:
    return Draft(lanes=(DraftLane(units=units, members=("a",)),), units=10**6)


def to(units: int) -> Callable[[Draft], Draft]:
    return lambda _: draft(units)


def test_moves_are_taken_back_and_made_again_in_order() -> None:
    history = History(draft(1))
    for units in (2, 3):
        history.move(to(units))
    history.undo()
    history.undo()
    assert (history.draft, history.can_undo, history.can_redo) == (draft(1), False, True)
    history.redo()
    history.redo()
    assert (history.draft, history.can_redo) == (draft(3), False)
    for step in (history.redo, lambda: [history.undo() for _ in range(3)]):
        with pytest.raises(UsageError, match="There is nothing to"):
            step()


def test_a_new_move_forgets_what_was_taken_back() -> None:
    history = History(draft(1))
    history.move(to(2))
    history.undo()
    history.move(to(3))
    assert not history.can_redo


def test_a_gesture_is_one_step_and_each_of_its_moves_starts_where_it_began() -> None:
    history = History(draft(1))
    seen: list[Draft] = []

    def drag(units: int) -> Callable[[Draft], Draft]:
        return lambda before: [seen.append(before), draft(units)][1]  # type: ignore[list-item, return-value]

    for units in (5, 9, 4):
        history.move(drag(units), gesture="slider")
    assert seen == [draft(1)] * 3
    history.end_gesture()
    history.move(drag(6), gesture="slider")
    assert seen[-1] == draft(4)
    history.undo()
    history.undo()
    assert (history.draft, history.can_undo) == (draft(1), False)


def test_a_gesture_that_ends_where_it_began_is_no_step() -> None:
    history = History(draft(1))
    history.move(to(2))
    for units in (5, 2):
        history.move(to(units), gesture="slider")
    history.undo()
    assert (history.draft, history.can_undo) == (draft(1), False)
    history.redo()
    for units in (5, 2, 7):
        history.move(to(units), gesture="slider")
    history.undo()
    assert history.draft == draft(2)


def test_what_cannot_be_changes_nothing_and_what_changes_nothing_is_no_step() -> None:
    history = History(draft(1))

    def refuse(_: Draft) -> Draft:
        raise UsageError("no")

    with pytest.raises(UsageError):
        history.move(refuse)
    history.move(to(1))
    assert (history.draft, history.can_undo) == (draft(1), False)


def test_so_many_moves_are_kept() -> None:
    history = History(draft(1))
    for units in range(2, MOST_MOVES + 12):
        history.move(to(units))
    for _ in range(MOST_MOVES):
        history.undo()
    assert not history.can_undo
    assert history.draft == draft(11)
