"""The sizes that a shrinking batch is run at."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from esen_lab.common.other_numbers import other_numbers, other_order
from esen_lab.common.trees import tree_spec
from esen_lab.errors import UsageError
from esen_lab.run.stage_rows import first_rows, padded, rows_in, size_for, sizes_of, with_others


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


BATCHES = [
    torch.ones(5, 3),
    torch.ones(5, 3).to(torch.float8_e4m3fn),
    torch.arange(15).view(5, 3),
    torch.arange(5).to(torch.uint64),
]


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("numbers", [other_numbers, other_order])
def test_one_half_of_the_rows_is_another_and_the_other_stays(
    batch: torch.Tensor, numbers: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    for first, kept, changed in ((False, slice(3), slice(3, 5)), (True, slice(3, 5), slice(3))):
        other = with_others(batch, numbers=numbers, first=first).double()
        assert torch.equal(other[kept], batch.double()[kept])
        assert not torch.equal(other[changed], batch.double()[changed])
