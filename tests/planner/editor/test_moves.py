from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esen_lab.errors import UsageError
from esen_lab.planner.editor import moves
from esen_lab.planner.editor.draft import Draft, DraftLane, Tables

UNITS = 8
TABLES: Tables = {
    "a": [8.0, 4.0, 3.0, 2.0, 2.0, 2.0, 2.0, 2.0],
    "b": [4.0, 2.0, 1.5, 1.0, 1.0, 1.0, 1.0, 1.0],
    "c": [2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
}


def draft(*lanes: tuple[int, str], pinned: str = "", oversubscribe: bool = False) -> Draft:
    made = tuple(
        DraftLane(units=units, members=tuple(members), pinned=bool(set(members) & set(pinned)))
        for units, members in lanes
    )
    return Draft(lanes=made, units=UNITS, oversubscribe=oversubscribe)


def told(made: Draft) -> list[tuple[int, str]]:
    return [(lane.units, "".join(lane.members)) for lane in made.lanes]


def test_free_units_are_used_before_anybody_gives() -> None:
    assert told(moves.set_shares(draft((2, "a"), (2, "b"), (2, "c")), TABLES, {"a": 4})) == [
        (4, "a"),
        (2, "b"),
        (2, "c"),
    ]


def test_shares_and_numbers_of_lanes_may_be_those_of_numpy() -> None:
    made = moves.set_shares(draft((2, "a"), (2, "b")), TABLES, {np.int64(1): np.int64(4)})  # type: ignore[dict-item]
    assert told(made) == [(4, "a"), (2, "b")]
    assert type(made.lanes[0].units) is int


def test_who_is_fastest_after_giving_gives() -> None:
    made = moves.set_shares(draft((4, "a"), (2, "b"), (2, "c")), TABLES, {"a": 5})
    assert told(made) == [(5, "a"), (2, "b"), (1, "c")]


def test_what_becomes_free_goes_to_the_slowest_whom_it_helps() -> None:
    assert told(moves.set_shares(draft((2, "a"), (4, "b"), (2, "c")), TABLES, {"b": 2})) == [
        (4, "a"),
        (2, "b"),
        (2, "c"),
    ]


def test_what_would_help_nobody_stays_free() -> None:
    made = moves.set_shares(draft((4, "a"), (2, "b"), (2, "c")), TABLES, {"c": 1})
    assert told(made) == [(4, "a"), (3, "b"), (1, "c")]
    made = moves.set_shares(made, TABLES, {"a": 1}, pin=["b", "c"])
    assert told(moves.set_shares(made, TABLES, {"a": 1})) == told(made)


def test_pinned_lanes_neither_give_nor_take() -> None:
    before = draft((4, "a"), (2, "b"), (2, "c"), pinned="c")
    assert told(moves.set_shares(before, TABLES, {"a": 5})) == [(5, "a"), (1, "b"), (2, "c")]
    with pytest.raises(UsageError, match="2 pinned, at least 1 for the other lanes"):
        moves.set_shares(before, TABLES, {"a": 6})


def test_all_shares_of_one_move_are_kept() -> None:
    made = moves.set_shares(draft((4, "a"), (2, "b"), (2, "c")), TABLES, {"a": 2, "b": 5}, pin=["b"])
    assert told(made) == [(2, "a"), (5, "b"), (1, "c")]
    assert [lane.pinned for lane in made.lanes] == [False, True, False]


def test_a_lane_is_named_by_its_number_too() -> None:
    assert told(moves.set_shares(draft((4, "a"), (4, "b")), TABLES, {"2": 1}))[1] == (1, "b")
    assert told(moves.set_shares(draft((4, "a"), (4, "b")), TABLES, {1: 5}))[0] == (5, "a")


def test_where_oversubscription_is_allowed_nobody_else_is_touched() -> None:
    made = moves.set_shares(draft((4, "a"), (4, "b"), oversubscribe=True), TABLES, {"a": 8})
    assert told(made) == [(8, "a"), (4, "b")]
    assert made.total_units == 12
    assert told(moves.allow_oversubscription(made, TABLES, False)) == [(4, "a"), (4, "b")]


def test_a_sub_model_moves_to_another_lane_and_an_empty_lane_goes() -> None:
    made = moves.move_member(draft((4, "ab"), (4, "c")), TABLES, "b", "c")
    assert told(made) == [(4, "a"), (4, "cb")]
    assert told(moves.move_member(made, TABLES, "a", 2)) == [(8, "cba")]


def test_an_empty_lanes_units_do_not_change_a_pinned_share() -> None:
    made = moves.move_member(draft((2, "a"), (3, "b"), (3, "c"), pinned="b"), TABLES, "a", "b")
    assert told(made)[0] == (3, "ba")
    assert made.total_units <= UNITS


def test_a_split_divides_the_share_as_well_as_can_be() -> None:
    assert told(moves.split(draft((6, "ac"), (2, "b")), TABLES, ["c"])) == [(4, "a"), (2, "c"), (2, "b")]


def test_a_lane_of_one_unit_is_split_by_taking_one_from_the_others() -> None:
    assert told(moves.split(draft((1, "ac"), (7, "b")), TABLES, ["c"])) == [(1, "a"), (1, "c"), (6, "b")]


def test_a_merge_takes_all_units_and_keeps_the_order_named() -> None:
    made = moves.merge(draft((3, "a"), (3, "b"), (2, "c"), pinned="c"), TABLES, ["c", "a"])
    assert told(made) == [(3, "b"), (5, "ca")]
    assert made.lanes[1].pinned


@pytest.mark.parametrize(
    ("move", "message"),
    [
        (lambda d: moves.set_shares(d, TABLES, {"x": 1}), "Sub-models: a, c, b; lanes: 1 to 2"),
        (lambda d: moves.set_shares(d, TABLES, {"a": 9}), "between 1 and 8"),
        (lambda d: moves.set_shares(d, TABLES, {"a": 1.5}), "whole number"),
        (lambda d: moves.set_shares(d, TABLES, {"a": 1, "c": 2}), "A lane has one share"),
        (lambda d: moves.set_shares(d, TABLES, {3: 1}), "A lane has a number: 1 to 2"),
        (lambda d: moves.move_member(d, TABLES, "x", "a"), "named as in the lanes"),
        (lambda d: moves.split(d, TABLES, ["a", "b"]), "sub-models of one lane"),
        (lambda d: moves.split(d, TABLES, ["a", "c"]), "leaves something"),
        (lambda d: moves.merge(d, TABLES, ["a", "c"]), r"two or more lanes\. Given: a, c, all of one lane"),
    ],
)
def test_what_cannot_be_is_refused(move: Callable[[Draft], Draft], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        move(draft((4, "ac"), (4, "b")))


KINDS = st.sampled_from(["share", "move", "split", "merge", "pin", "unpin", "over", "under"])
STEPS = st.lists(
    st.tuples(KINDS, st.sampled_from("abc"), st.sampled_from(["a", "b", "c", None]), st.integers(1, 8)), max_size=25
)


@settings(max_examples=150)
@given(STEPS)
def test_no_row_of_moves_loses_a_sub_model_or_leaves_the_device(steps: list[tuple[str, str, str | None, int]]) -> None:
    now = draft((8, "abc"))
    for kind, name, other, units in steps:
        before = {name: lane.units for lane in now.lanes if lane.pinned for name in lane.members}
        try:
            match kind:
                case "share":
                    now = moves.set_shares(now, TABLES, {name: units})
                case "pin":
                    now = moves.set_shares(now, TABLES, {}, pin=[name])
                case "unpin":
                    now = moves.set_shares(now, TABLES, {}, unpin=[name])
                case "move":
                    now = moves.move_member(now, TABLES, name, other)
                case "split":
                    now = moves.split(now, TABLES, [name])
                case "merge":
                    now = moves.merge(now, TABLES, [name, other or "a"])
                case _:
                    now = moves.allow_oversubscription(now, TABLES, kind == "over")
        except UsageError:
            pass
        assert sorted(now.names) == ["a", "b", "c"]
        assert all(1 <= lane.units <= UNITS and lane.members for lane in now.lanes)
        assert now.oversubscribe or now.total_units <= UNITS
        if kind in ("over", "under"):
            after = {name: lane.units for lane in now.lanes for name in lane.members}
            assert all(after[member] == share for member, share in before.items())
