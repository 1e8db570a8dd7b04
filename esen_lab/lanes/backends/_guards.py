"""What is left to eager at each call: whole numbers beyond those for which an engine is known to answer as PyTorch.

An engine reads a row that is not there, or computes in 32 bits, without a word. So whole numbers on their way in are
looked at: each tensor's smallest and largest, and the indices and divisors that the graph computes of an input
(`_indices.py`). Floats are not looked at here, so that a network that takes nothing else pays nothing. Where a mask was
seen to make NaN of an engine's answer and not of PyTorch's, answers are looked at as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from esen_lab.common.trees import Structure, Tree, flatten, unflatten

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
        answers: Whether an answer of the engine with NaN or infinities is left to eager, too.
    """

    ranges: Mapping[int, Range]
    checks: Sequence[Check] = ()
    answers: bool = False

    def pass_on(self, leaves: Sequence[torch.Tensor]) -> bool:
        """Whether the engine may have an input."""
        for index, (least, most) in self.ranges.items():
            if not _lies(leaves[index], least, most):
                return False
        return all(check.passes(leaves) for check in self.checks)

    def take(self, answer: Tree) -> bool:
        """Whether the engine's answer may be given."""
        return not self.answers or is_finite(flatten(answer)[0])


def _lies(numbers: torch.Tensor, least: int, most: int) -> bool:
    if not numbers.numel():
        return True
    found = numbers.aminmax()
    return bool(least <= found.min.item() and found.max.item() <= most)


class Guarded:
    """A call that leaves to the module what guards do not pass on, or do not take."""

    def __init__(self, call: Call, guards: Guards, module: nn.Module, structure: Structure) -> None:
        self._call = call
        self._guards = guards
        self._module = module
        self._structure = structure
        self._begin: Callable[[Sequence[torch.Tensor]], Callable[[], Tree] | None] | None
        self._begin = getattr(call, "begin", None)

    def __call__(self, leaves: Sequence[torch.Tensor], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tree:
        """The answer, which raises what the module raises."""
        if self._guards.pass_on(leaves) and self._guards.take(answer := self._call(leaves, args, kwargs)):
            return answer
        return self._module(*args, **kwargs)

    def begin(self, leaves: Sequence[torch.Tensor]) -> Callable[[], Tree] | None:
        """See `Bound.begin`; None too where the engine may not have this input."""
        if self._begin is None or not self._guards.pass_on(leaves):
            return None
        wait = self._begin(leaves)
        return None if wait is None else partial(self._waited, wait, leaves)

    def _waited(self, wait: Callable[[], Tree], leaves: Sequence[torch.Tensor]) -> Tree:
        answer = wait()
        if self._guards.take(answer):
            return answer
        args, kwargs = unflatten(self._structure, leaves)
        return self._module(*args, **kwargs)


def guarded(call: Call, guards: Guards, module: nn.Module, structure: Structure) -> Call:
    """A call within guards, of inputs of a structure; the call itself where there are none."""
    is_any = guards.ranges or guards.checks or guards.answers
    return Guarded(call, guards, module, structure) if is_any else call
