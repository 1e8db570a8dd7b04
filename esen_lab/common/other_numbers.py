"""Inputs like an example with other numbers: they show whether a row's answer depends on other rows of its batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from esen_lab.common.tensors import flipped

if TYPE_CHECKING:
    import torch


def other_numbers(leaf: torch.Tensor) -> torch.Tensor:
    """An input with other numbers that a member takes as well.

    Also whole numbers (tokens, classes, pixels) are others, and not only in another order: a member that takes the
    largest of its batch, or the sum, would not be told by that. They go half the way down to the smallest: what they
    stand for stays in range. Where all are the same, they are the next one, nearer to 0; of a mask only the end is off.
    """
    import torch

    other = other_order(leaf)
    if leaf.is_floating_point() or not leaf.numel():
        return other
    wide = other.to(torch.int64)
    least, most = int(wide.min()), int(wide.max())
    if leaf.dtype is torch.bool or least == most == 1:
        wide[..., -1] = 1 - wide[..., -1]
    elif least == most:
        wide += -1 if least > 0 else 1
    else:
        wide = least + (wide - least) // 2
    return wide.to(leaf.dtype)


def other_order(leaf: torch.Tensor) -> torch.Tensor:
    """The same, of which whole numbers are only put in another order, within each row where that has an order."""
    import torch

    if leaf.is_floating_point():
        return (leaf.flip(0).to(torch.float64) * 0.5 + 0.25).to(leaf.dtype)
    return flipped(leaf, list(range(leaf.dim())))


def with_others(tensor: torch.Tensor, *, numbers: Callable[[torch.Tensor], torch.Tensor], first: bool) -> torch.Tensor:
    """The same batch with other numbers in one half of its rows.

    Args:
        tensor: Rows along dimension 0.
        numbers: Makes them: `other_numbers` or `other_order`.
        first: In the first half, which is the larger one of odd rows; else in the second.
    """
    half = -(-len(tensor) // 2)
    part = slice(None, half) if first else slice(half, None)
    other = tensor.clone()
    other[part] = numbers(tensor[part])
    return other
