"""The sizes that a shrinking batch is run at."""

from __future__ import annotations

import pytest
import torch

from esen_lab.common.trees import tree_spec
from esen_lab.errors import UsageError
from esen_lab.run.stage_rows import first_rows, padded, rows_in, size_for, sizes_of


@pytest.mark.parametrize("rows", [1, 3, 8, 10, 64, 1000])
@pytest.mark.parametrize("sizes", [4, 8])
def test_there_are_few_sizes_and_each_holds_its_rows(rows: int, sizes: int) -> None:
    used = {size_for(one, rows, sizes) for one in range(1, rows + 1)}
    assert used == set(sizes_of(rows, sizes))
    assert len(used) <= sizes
    for one in range(1, rows + 1):
        assert one <= size_for(one, rows, sizes) <= min(rows, one + -(-rows // sizes))
    assert size_for(0, rows, sizes) == 0
    assert size_for(rows, rows, sizes) == rows


def test_a_batch_is_filled_up_with_rows_that_are_open_anyway() -> None:
    rows = torch.tensor([3, 7])
    assert padded(rows, 5).tolist() == [3, 7, 3, 3, 3]
    assert padded(rows, 2) is rows


def test_rows_are_those_of_every_tensor() -> None:
    assert rows_in(tree_spec((torch.zeros(5, 2), {"mask": torch.zeros(5)}))) == 5
    for odd in ((torch.zeros(5), torch.zeros(4)), torch.tensor(1.0)):
        with pytest.raises(UsageError, match="dimension 0"):
            rows_in(tree_spec(odd))
    with pytest.raises(UsageError, match="a row per row"):
        first_rows({"a": torch.zeros(3, 2)}, 2, 4)
