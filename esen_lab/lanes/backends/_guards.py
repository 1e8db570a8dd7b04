"""What is left to eager at each call: whole numbers beyond those for which an engine is known to answer as PyTorch.

An engine reads a row that is not there, or computes in 32 bits, without a word. So whole numbers on their way in are
looked at: each tensor's smallest and largest, and the indices and divisors that the graph computes of an input
(`_indices.py`). Floats are not looked at here, so that a network that takes nothing else pays nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from esen_lab.common.trees import Tree

if TYPE_CHECKING:
    from torch import nn

    from esen_lab.lanes.backends._protocol import Call

Range: TypeAlias = tuple[int, int]
"""Smallest and largest."""
NOT_ZERO: Range = (1, 0)
"""Any number but 0."""

IN_32_BITS: Range = (-(2**31), 2**31 - 1)


def is_finite(leaves: Sequence[torch.Tensor]) -> bool:
    """Whether floating-point tensors hold neither NaN nor infinities, nor sums that are none any more."""
    return all(
        bool((leaf.sum() if leaf.dtype in (torch.float32, torch.float64) else leaf.float().sum()).isfinite())
        for leaf in leaves
        if leaf.is_floating_point()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Numbers that a graph computes of its inputs, and that must be indices or divisors.

    Attributes:
        compute: The numbers, of the tensors of an input.
        within: Where they must lie, or `NOT_ZERO`.
        leaf: The tensor of the input that the numbers are, where nothing is computed; None otherwise.
    """

    compute: Callable[[Sequence[torch.Tensor]], torch.Tensor]
    within: Range
    leaf: int | None = None

    def passes(self, leaves: Sequence[torch.Tensor]) -> bool:
        """Whether the numbers of an input are what they must be."""
        numbers = self.compute(leaves)
        return bool(numbers.all()) if self.within == NOT_ZERO else _lies(numbers, *self.within)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guards:
    """What an input must be to be executed by the engine.

    Attributes:
        ranges: For tensors of the input, by number, where their values must lie.
        checks: What else is computed of them.
    """

    ranges: Mapping[int, Range]
    checks: Sequence[Check] = ()

    def pass_on(self, leaves: Sequence[torch.Tensor]) -> bool:
        """Whether the engine may have an input."""
        for index, (least, most) in self.ranges.items():
            if not _lies(leaves[index], least, most):
                return False
        return all(check.passes(leaves) for check in self.checks)


def _lies(numbers: torch.Tensor, least: int, most: int) -> bool:
    if not numbers.numel():
        return True
    found = numbers.aminmax()
    return bool(least <= found.min.item() and found.max.item() <= most)


class Guarded:
    """A call that leaves to the module what guards do not pass on."""

    def __init__(self, call: Call, guards: Guards, module: nn.Module) -> None:
        self._call = call
        self._guards = guards
        self._module = module
        self._begin: Callable[[Sequence[torch.Tensor]], Callable[[], Tree] | None] | None
        self._begin = getattr(call, "begin", None)

    def __call__(self, leaves: Sequence[torch.Tensor], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tree:
        """The answer, which raises what the module raises."""
        if self._guards.pass_on(leaves):
            return self._call(leaves, args, kwargs)
        return self._module(*args, **kwargs)

    def begin(self, leaves: Sequence[torch.Tensor]) -> Callable[[], Tree] | None:
        """See `Bound.begin`; None too where the engine may not have this input."""
        if self._begin is None or not self._guards.pass_on(leaves):
            return None
        return self._begin(leaves)


def guarded(call: Call, guards: Guards, module: nn.Module) -> Call:
    """A call within guards; the call itself where there are none."""
    return Guarded(call, guards, module) if guards.ranges or guards.checks else call
