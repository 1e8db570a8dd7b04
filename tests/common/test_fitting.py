from __future__ import annotations

import pytest

from esen_lab.common.fitting import table_lines, wrapped

ROWS = [
    ["strategy", "JCT median", "outputs"],
    ["sequential", "176 ms", "bit-equal to the reference"],
    [
        "async OpenVINO",
        "76.0 ms",
        "differ by at most 3e-7 of the largest, as rounding allows in all batches",
    ],
]
RIGHT = [False, True, False]


def test_without_a_limit_a_table_is_as_wide_as_it_is() -> None:
    lines = table_lines(ROWS, RIGHT, None, ruled=True)
    assert len(lines) == 4
    assert max(map(len, lines)) > 80


@pytest.mark.parametrize("columns", [100, 80, 60, 40])
def test_a_table_keeps_to_the_terminals_width_and_loses_no_word(columns: int) -> None:
    lines = table_lines(ROWS, RIGHT, columns, ruled=True)
    assert max(map(len, lines)) <= columns
    said = " ".join(lines).split()
    assert all(word in said for row in ROWS[1:] for cell in row for word in cell.split())


def test_numbers_are_not_wrapped_and_stand_to_the_right() -> None:
    lines = table_lines(ROWS, RIGHT, 50, ruled=True)
    at = lines[0].index("JCT median") + len("JCT median")
    assert [line[at - 7 : at] for line in lines if " ms" in line] == [" 176 ms", "76.0 ms"]


def test_headings_of_numbers_wrap_before_a_table_becomes_lists() -> None:
    rows = [["strategy", "/ openvino-sequential", "/ sequential"], ["sequential", "1.00×", "0.58×"]]
    assert table_lines(rows, [False, True, True], 36, ruled=True) == [
        "strategy    / openvino-           /",
        "             sequential  sequential",
        "----------  -----------  ----------",
        "sequential        1.00×       0.58×",
    ]


def test_a_column_without_words_has_room() -> None:
    rows = [["lane", "", "sub-models"], ["1", "", "a_name_that_is_long"], ["2", "", "another_long_name"]]
    assert max(map(len, table_lines(rows, [False] * 3, 24, ruled=True))) <= 24


def test_where_columns_cannot_stand_side_by_side_each_row_becomes_a_list() -> None:
    rows = [["name", *[f"ratio {k}" for k in range(12)]], ["wide", *[f"{k}.00×" for k in range(12)]]]
    lines = table_lines(rows, [False, *[True] * 12], 60, ruled=True)
    assert lines[:3] == ["wide", "    ratio 0: 0.00×", "    ratio 1: 1.00×"]


def test_a_text_wraps_between_words() -> None:
    assert wrapped("one two three four five six", 20) == ["one two three four", "five six"]
    assert wrapped("one two", None) == ["one two"]
