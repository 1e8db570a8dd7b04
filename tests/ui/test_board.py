"""The board's kernel side: orders of pages become moves of the editor, and its states what pages show."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fake_lab import LEAST_CONTRAST, FakeLab

pytest.importorskip("anywidget")

import esen_lab
from esen_lab.cost_model import fit_points
from esen_lab.planner.editor import PlanEditor
from esen_lab.ui.colours import PALETTE, contrast
from esen_lab.ui.widgets.board import Board
from esen_lab.ui.widgets.board_view import models_data


@pytest.fixture
def board(editor: PlanEditor) -> Iterator[Board]:
    made = Board(editor)
    yield made
    made.close()


def order(board: Board, number: int, **what: Any) -> None:
    board.commands.receive({"page": "one", "number": number, **what})
    board._acts.settle(10)


def units(board: Board) -> list[int]:
    return [lane["units"] for lane in board.view["lanes"]]


def test_orders_move_the_editor_and_every_view_follows(board: Board, editor: PlanEditor) -> None:
    other = Board(editor)
    order(board, 1, kind="share", shares={"wide": 3, "deep": 1}, gesture="a")
    assert units(board) == units(other) == [3, 1]
    order(board, 2, kind="move", name="slim", to="deep")
    assert other.view["lanes"][1]["members"] == ["deep", "slim"]
    order(board, 3, kind="pin", lane="deep", on=True)
    assert other.view["lanes"][1]["pinned"]
    other.close()


def test_a_page_is_told_up_to_which_order_it_was_heard_also_where_nothing_changed(board: Board) -> None:
    order(board, 1, kind="share", shares={"wide": 2, "deep": 2}, gesture="a")
    assert board.view["heard"] == {"one": 1}
    order(board, 2, kind="cancel")
    assert board.view["heard"] == {"one": 2}


def test_an_order_that_comes_twice_is_done_once(board: Board, editor: PlanEditor) -> None:
    order(board, 1, kind="undo")
    order(board, 1, kind="undo")
    assert len(editor.state.lanes) == 1
    assert board.view["refused"] == {}


def test_one_gesture_is_one_step_of_undo(board: Board, editor: PlanEditor) -> None:
    for number, mine in enumerate((3, 1, 2, 3), 1):
        order(board, number, kind="share", shares={"wide": mine, "deep": 4 - mine}, gesture="drag")
    editor.undo()
    assert units(board) == [2, 2]


@pytest.mark.parametrize(
    "what",
    [
        {"kind": "move", "name": "nobody", "to": None},
        {"kind": "share", "shares": {"wide": 9}},
        {"kind": "share", "shares": None},
        {"kind": "share", "shares": {"wide": "3"}},
        {"kind": "recall", "past": "1"},
        {"kind": "redo"},
        {"kind": "dance"},
    ],
)
def test_what_cannot_be_is_refused_to_the_page_that_asked(board: Board, what: dict[str, Any]) -> None:
    before = board.view["lanes"]
    order(board, 7, **what)
    assert (board.view["refused"]["page"], board.view["refused"]["number"]) == ("one", 7)
    assert board.view["refused"]["text"]
    assert board.view["lanes"] == before


@pytest.mark.parametrize("odd", [{}, {"kind": "undo"}, {"number": "1"}, {"page": None, "number": None, "kind": []}])
def test_what_is_no_order_is_dropped(board: Board, odd: dict[str, Any]) -> None:
    before = board.view
    board.commands.receive(odd)
    assert board.view == before


def test_apply_and_measure_go_on_beside_and_show_what_came_of_them(board: Board) -> None:
    order(board, 1, kind="apply")
    assert board.view["in_force"]
    order(board, 2, kind="measure")
    assert "5.00 ms" in board.view["measured"]


def test_a_closed_board_follows_no_more(editor: PlanEditor) -> None:
    made = Board(editor)
    made.close()
    made.close()
    before = made.view
    editor.share({"wide": 3})
    assert made.view == before


def test_a_board_is_had_from_a_lab_or_from_an_editor(editor: PlanEditor) -> None:
    lab = FakeLab()
    for of in (lab, editor):
        made = esen_lab.board(of)  # type: ignore[arg-type]
        assert made.models["units"] == 4
        made.close()


def test_what_a_step_says_can_be_read_on_every_colour() -> None:
    models = {f"member_{number}": fit_points(f"member_{number}", {1: 0.004, 2: 0.003}, 2) for number in range(8)}
    told = models_data(models, 2, "core")["models"]
    assert len({model["colour"] for model in told}) == len(PALETTE)
    assert [model["name"] for model in told if contrast(model["ink"], model["colour"]) < LEAST_CONTRAST] == []
