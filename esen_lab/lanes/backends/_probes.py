"""Inputs like an example, but elsewhere: what shows where an engine computes otherwise than PyTorch.

Floats are probed far from the example and on the other side of zero, where logarithms and roots have no value. Whole
numbers are probed in ranges that grow from the example's own to all of their kind: an engine that computes 64 bits in
32 agrees up to some range, which is then the one that it may have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from esen_lab.lanes.backends._guards import Range

LARGE = 1000.0
HUGE = 1e12  # beyond what 32 bits hold, and small enough to be squared
_ENDS = (2**10, 2**15, 2**24, 2**31 - 1)  # where ranges of whole numbers end that are tried one after another
_SMALL_BITS = 16  # with so few, a kind of numbers is probed as a whole

Leaves = list[torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """An input.

    Attributes:
        words: What it is, after "for ".
        leaves: Its tensors.
        is_mask: Whether nothing but truths is another than in the example.
    """

    words: str
    leaves: Leaves
    is_mask: bool = False


def float_probes(leaves: Sequence[torch.Tensor], *, huge: bool = False) -> Iterator[Probe]:
    """Inputs with other floats and other truths, most telling first.

    Args:
        leaves: The example's tensors.
        huge: Whether floats become whole numbers or halves of 16 bits on the way, which huge ones are beyond.
    """
    chance = torch.Generator().manual_seed(0)

    telling = [_telling(leaf, chance) for leaf in leaves]

    def sign(leaf: torch.Tensor) -> torch.Tensor:
        return (torch.randint(0, 2, leaf.shape, generator=chance) * 2 - 1).to(leaf)

    def order(leaf: torch.Tensor) -> torch.Tensor:
        return leaf.flatten()[torch.randperm(leaf.numel(), generator=chance)].reshape(leaf.shape)

    def halves(leaf: torch.Tensor) -> torch.Tensor:
        """Ties, what is rounded, and where functions jump."""
        return (torch.randint(0, 5, leaf.shape, generator=chance) / 2).to(leaf) * sign(leaf)

    mixed = any(map(_has_both_signs, telling))
    changes: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "inputs below 0" if mixed else "inputs of the other sign": lambda leaf: (
            -leaf.abs() if _has_both_signs(leaf) else -leaf
        ),
        "large inputs of both signs (1000 times the example)": lambda leaf: leaf * sign(leaf) * LARGE,
        "inputs above 0" if mixed else "inputs of both signs": lambda leaf: (
            leaf.abs() if _has_both_signs(leaf) else leaf * sign(leaf)
        ),
        "zeros": torch.zeros_like,
        "halves and zeros of both signs": halves,
        "larger inputs (8 times the example)": lambda leaf: leaf * 8,
        "the example's values in another order": order,
    }
    if huge:
        changes["huge inputs (1e12 times the example)"] = lambda leaf: leaf * HUGE
    if any(leaf.is_floating_point() for leaf in leaves):
        for words, change in changes.items():
            yield Probe(words=words, leaves=[change(leaf) if leaf.is_floating_point() else leaf for leaf in telling])
    if any(leaf.dtype is torch.bool for leaf in leaves):
        yield from _truths(leaves, order)


def _telling(leaf: torch.Tensor, chance: torch.Generator) -> torch.Tensor:
    """The example's floats; where all of them are 0, as any probe made of them would be, some around it instead."""
    if not leaf.is_floating_point() or bool(leaf.any()):
        return leaf
    return torch.randn(leaf.shape, generator=chance).to(leaf)


def _has_both_signs(leaf: torch.Tensor) -> bool:
    return leaf.is_floating_point() and bool((leaf < 0).any()) and bool((leaf > 0).any())


def _truths(leaves: Sequence[torch.Tensor], order: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[Probe]:
    changes: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "truths in another order": order,
        "nothing but False": torch.zeros_like,
        "nothing but True": torch.ones_like,
    }
    for words, change in changes.items():
        made = [change(leaf) if leaf.dtype is torch.bool else leaf for leaf in leaves]
        yield Probe(words=words, leaves=made, is_mask=True)


def is_whole(leaf: torch.Tensor) -> bool:
    """Whether a tensor holds whole numbers."""
    return not (leaf.is_floating_point() or leaf.is_complex() or leaf.dtype is torch.bool)


def own_range(leaf: torch.Tensor) -> Range:
    """The smallest and the largest of an example's whole numbers."""
    found = leaf.aminmax() if leaf.numel() else None
    return (0, 0) if found is None else (int(found.min), int(found.max))


def all_of(dtype: torch.dtype) -> Range:
    """The range of a kind of whole numbers that is probed as a whole.

    Of 32 bits and more without the smallest: a processor stops a program that divides it by -1.
    """
    info = torch.iinfo(dtype)
    return (info.min + (info.bits > _SMALL_BITS and info.min < 0), min(info.max, 2**63 - 1))


def wider(ranges: Mapping[int, Range], whole: Mapping[int, Range]) -> tuple[list[dict[int, Range]], ...]:
    """Ranges that grow from an example's own: the largest numbers first, then the smallest.

    Args:
        ranges: The example's own, by the number of its tensor.
        whole: The widest.

    Returns:
        Two lists, the narrowest first: ranges from 0 or less up, and then how far down they may go.
    """
    up = [{index: (min(low, 0), max(high, end)) for index, (low, high) in ranges.items()} for end in _ENDS]
    down = [{index: (min(low, -end), high) for index, (low, high) in ranges.items()} for end in _ENDS]
    every_up = {index: (min(low, 0), whole[index][1]) for index, (low, _) in ranges.items()}
    every_down = {index: (whole[index][0], high) for index, (_, high) in ranges.items()}
    return [*up, every_up], [*down, every_down]


def whole_probes(leaves: Sequence[torch.Tensor], ranges: Mapping[int, Range]) -> Iterator[Leaves]:
    """Inputs with whole numbers in given ranges, most telling first; all else is the example's."""
    chance = torch.Generator().manual_seed(0)
    makes: tuple[Callable[[torch.Tensor, Range], torch.Tensor], ...] = (
        lambda leaf, within: _spread(leaf.shape, within, chance),
        lambda leaf, within: _either(leaf.shape, within, chance),
        lambda leaf, within: torch.full(leaf.shape, within[1]),
        lambda leaf, within: torch.full(leaf.shape, within[0]),
        lambda leaf, within: _small(leaf.shape, within, chance),
        lambda leaf, within: torch.full(leaf.shape, _nearest(0, within)),
    )
    for make in makes:
        yield [make(leaf, ranges[i]).to(leaf) if i in ranges else leaf for i, leaf in enumerate(leaves)]


def _spread(shape: torch.Size, within: Range, chance: torch.Generator) -> torch.Tensor:
    """Numbers of every size: about as many of each length in digits, of both signs where there are both."""
    low, high = within
    if high - low < 2**16:
        return torch.randint(low, high + 1, shape, generator=chance)
    size = torch.rand(shape, generator=chance, dtype=torch.float64)
    up = (size * torch.tensor(float(max(high, 1))).log2()).exp2().clamp(max=2.0**62).to(torch.int64).clamp(max=high)
    down = (size * torch.tensor(float(max(-low, 1))).log2()).exp2().clamp(max=2.0**62).to(torch.int64).neg()
    negative = torch.randint(0, 2, shape, generator=chance).bool()
    return torch.where(negative, down, up).clamp(low, high)


def _small(shape: torch.Size, within: Range, chance: torch.Generator) -> torch.Tensor:
    """Numbers around 0, many of them equal: masks, flags, and ids that stand for nothing."""
    return torch.randint(_nearest(-2, within), _nearest(2, within) + 1, shape, generator=chance)


def _nearest(number: int, within: Range) -> int:
    return min(max(number, within[0]), within[1])


def _either(shape: torch.Size, within: Range, chance: torch.Generator) -> torch.Tensor:
    """The smallest and the largest, side by side."""
    low, high = (torch.tensor(end) for end in within)
    return torch.where(torch.randint(0, 2, shape, generator=chance).bool(), low, high)
