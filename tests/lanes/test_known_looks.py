"""What both sides of a lane keep of inputs that it was told of: always the same."""

from __future__ import annotations

import random

import torch

from esen_lab.common.trees import tree_spec
from esen_lab.lanes.arena import MOST_KEPT, Layout, lay_out
from esen_lab.lanes.known_looks import KnownLooks


def look(rows: int) -> Layout:
    return lay_out(tree_spec(torch.zeros(rows, 2)))


def test_a_look_is_known_by_its_number_with_the_outputs_that_came_of_it() -> None:
    looks: KnownLooks[str] = KnownLooks()
    looks.told(look(1), None, new_block=True)
    looks.told(look(2), "of one row", new_block=False)
    assert [looks.number_of(look(rows)) for rows in (1, 2, 3)] == [0, 1, None]
    assert looks.again(0, "of two rows") == (look(1), "of one row")
    assert looks.again(1, "of one row, moved") == (look(2), "of two rows")
    assert looks.again(0, None) == (look(1), "of one row, moved")


def test_other_memory_forgets_what_lay_in_the_one_before() -> None:
    looks: KnownLooks[str] = KnownLooks()
    looks.told(look(1), None, new_block=True)
    looks.told(look(2), "of one row", new_block=False)
    looks.forget_outputs()
    assert looks.again(0, None) == (look(1), None), "outputs lie elsewhere"
    looks.told(look(3), "of one row", new_block=True)
    assert [looks.number_of(look(rows)) for rows in (1, 2, 3)] == [None, None, 0]


def test_both_sides_have_the_same_numbers_however_many_looks_come() -> None:
    here: KnownLooks[int] = KnownLooks()
    there: KnownLooks[int] = KnownLooks()
    draw = random.Random(3)
    here.told(look(0), None, new_block=True)
    there.told(look(0), None, new_block=True)
    for number in range(5 * MOST_KEPT):
        rows = draw.randrange(2 * MOST_KEPT)
        known = here.number_of(look(rows))
        if known is None:
            here.told(look(rows), number, new_block=False)
            there.told(look(rows), number, new_block=False)
        else:
            assert here.again(known, number) == there.again(known, number)
            assert there.again(known, number)[0] == look(rows)
