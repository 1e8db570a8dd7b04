"""Whether requests may be joined into one batch, found out by running it; and how they are.

A member may look at other rows of its batch (normalisation by the batch's own mean, a softmax over the wrong
dimension), keep state, or take one batch size only. So before anything is served, two inputs of different numbers are
run alone and as one batch, and joining is allowed only where the answers are the same up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from esen_lab.common.answers import OTHER_ORDER, difference
from esen_lab.common.trees import Tree, flatten, map_tensors, unflatten
from esen_lab.errors import EsenError, first_line

if TYPE_CHECKING:
    import torch

_NO_ROWS = "the inputs have no rows along their first dimension that all of them share"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What a trial found.

    Attributes:
        answer: Of the example.
        why_alone: Why requests must not be joined, one sentence; "" where they may.
    """

    answer: Tree
    why_alone: str


def try_joining(
    run: Callable[[Tree], Tree],
    example: Tree,
    *,
    begins_anew: bool,
    tolerances: Mapping[str, float] = OTHER_ORDER,
) -> Tried:
    """Run the example, and find out whether requests may be joined.

    Args:
        run: Runs the ensemble once.
        example: An input.
        begins_anew: Whether a member keeps state or draws random numbers.
        tolerances: What another batch size may change, for each floating dtype.

    Raises:
        EsenError: The example itself cannot be run.
    """
    answer = own(run(example))
    if begins_anew:
        return Tried(answer=answer, why_alone="a member keeps state between calls, or draws random numbers")
    leaves, structure = flatten(example)
    rows = rows_of(leaves)
    if rows is None:
        return Tried(answer=answer, why_alone=_NO_ROWS)
    if rows_of(flatten(answer)[0]) != rows:
        return Tried(answer=answer, why_alone="the answer has not one row for each row of the input")
    other = map_tensors(_other_numbers, example)
    try:
        alone = own(run(other))
        both = own(run(unflatten(structure, joined([leaves, flatten(other)[0]]))))
    except EsenError as problem:
        return Tried(answer=answer, why_alone=f"the members do not take twice the rows ({first_line(problem)})")
    if rows_of(flatten(both)[0]) != 2 * rows:
        return Tried(answer=answer, why_alone="the answer has not one row for each row of the input")
    together, shape = flatten(both)
    halves = [unflatten(shape, half) for half in parted(together, [rows, rows])]
    for half, wanted in zip(halves, (answer, alone), strict=True):
        found = difference(half, wanted, tolerances)
        if not found.agrees:
            return Tried(answer=answer, why_alone=f"a row's answer depends on the other rows of its batch ({found})")
    return Tried(answer=answer, why_alone="")


def rows_of(leaves: Sequence[torch.Tensor]) -> int | None:
    """How many rows tensors have along dimension 0, at least one; None where they do not all have the same."""
    sizes = {leaf.shape[0] if leaf.dim() else 0 for leaf in leaves}
    return sizes.pop() if len(sizes) == 1 and sizes != {0} else None


def joined(inputs: Sequence[Sequence[torch.Tensor]], more: int = 0) -> list[torch.Tensor]:
    """The tensors of several inputs as those of one, row after row.

    Args:
        inputs: At least one.
        more: With so many more rows: the first one again and again, which every member takes.
    """
    import torch

    if len(inputs) == 1 and not more:
        return list(inputs[0])
    filled = [[leaf[:1].expand(more, *leaf.shape[1:]) for leaf in inputs[0]]] if more else []
    return [torch.cat(tensors) for tensors in zip(*inputs, *filled, strict=True)]


def parted(leaves: Sequence[torch.Tensor], rows: Sequence[int], *, filled: bool = False) -> list[list[torch.Tensor]]:
    """The answer of a joined batch, for each of its requests: views of it. Rows beyond theirs are nobody's."""
    if len(rows) == 1 and not filled:
        return [list(leaves)]
    return [[leaf[part] for leaf in leaves] for part in _parts(rows)]


def own(tree: Tree) -> Tree:
    """A copy on the CPU that no later run overwrites."""
    return map_tensors(lambda leaf: leaf.detach().cpu().clone(), tree)


def _parts(rows: Sequence[int]) -> list[slice]:
    ends = [sum(rows[: index + 1]) for index in range(len(rows))]
    return [slice(end - size, end) for end, size in zip(ends, rows, strict=True)]


def _other_numbers(leaf: torch.Tensor) -> torch.Tensor:
    """An input with other numbers that a member takes as well.

    Floating numbers are changed; whole ones (tokens, classes) are only put in another order, within each row where that
    has an order: what they stand for must stay in range.
    """
    import torch

    if leaf.is_floating_point():
        return (leaf.flip(0).to(torch.float64) * 0.5 + 0.25).to(leaf.dtype)
    return leaf.flip(list(range(leaf.dim())))
