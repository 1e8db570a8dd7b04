"""Inputs like an example with other numbers in some of their rows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from esen_lab.common.other_numbers import other_numbers, other_order, with_others

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
