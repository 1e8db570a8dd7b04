"""The plans that people make without a search, by their definitions."""

from __future__ import annotations

from esen_lab.planner import allocate

SCALES = [8.0 / s for s in range(1, 9)]
FLAT = [2.0] * 8


def test_sequential_is_one_lane_with_everything() -> None:
    found = allocate({"a": SCALES, "b": FLAT}, 8, "sequential")
    assert found.lanes == ((8, ("a", "b")),)
    assert found.jct_s == 3.0


def test_equal_shares_are_equal_and_what_is_left_over_stays_free() -> None:
    found = allocate({"a": FLAT, "b": SCALES, "c": FLAT}, 8, "equal")
    assert found.lanes == ((2, ("a",)), (2, ("b",)), (2, ("c",)))
    assert found.plan.notes == ("2 of 8 units stay free",)
    assert allocate({"a": FLAT, "b": FLAT, "c": FLAT}, 8, "equal").plan.notes == (
        "2 of 8 units stay free: no lane would be faster",
    )


def test_more_sub_models_than_units_are_dealt_onto_lanes_of_one_unit() -> None:
    tables = {"a": [5.0, 4.0], "b": [3.0, 2.0], "c": [2.0, 2.0]}
    found = allocate(tables, 2, "equal")
    assert found.lanes == ((1, ("a",)), (1, ("b", "c")))
