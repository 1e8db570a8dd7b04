"""Whether requests may be joined into one batch, found out by running it; and how they are.

A member may look at other rows of its batch (normalisation by the batch's own mean, a softmax over the wrong
dimension), keep state, or take one batch size only. So before anything is served, two inputs of different numbers are
run alone and as one batch, and joining is allowed only where the answers are the same up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from esen_lab.common.answers import OTHER_ORDER, TOLERANCE, difference
from esen_lab.common.other_numbers import other_numbers, other_order
from esen_lab.common.trees import Tree, flatten, map_tensors, unflatten
from esen_lab.errors import EsenError, first_line
from esen_lab.serving.served import TRIAL, Served

if TYPE_CHECKING:
    import torch

_NO_ROWS = "the inputs have no rows along their first dimension that all of them share"
OTHER_ROWS = "the answer has not one row for each row of the input"
BEGINS_ANEW = "a member keeps state between calls, or draws random numbers"


class RowsDiffer(EsenError):  # noqa: N818  what was found, which has a way on
    """An answer has other rows than its joined batch: nobody can say whose they are."""


class Later(Exception):  # noqa: N818  no fault
    """There is something else to do first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What a trial found.

    Attributes:
        answer: Of the example.
        why_alone: Why requests must not be joined, one sentence; "" where they may.
    """

    answer: Tree
    why_alone: str


def try_joining(served: Served, example: Tree, later: Callable[[], bool] = lambda: False) -> Tried:
    """Run the example, and find out whether requests may be joined.

    Args:
        served: What is tried.
        example: An input.
        later: Whether there is something else to do first; asked before each run.

    Raises:
        Later: There is.
        EsenError: The example itself cannot be run.
    """

    def run(x: Tree) -> Tree:
        if later():
            raise Later
        return own(served.run(x, TRIAL)[0])

    answer = run(example)
    if served.begins_anew:  # after a run: then its lanes hold the members as they are now
        return Tried(answer=answer, why_alone=BEGINS_ANEW)
    # Engines choose other kernels for another size of a batch.
    tolerances = OTHER_ORDER if all(lane.all_eager for lane in served.plan.lanes) else TOLERANCE
    leaves, structure = flatten(example)
    rows = rows_of(leaves)
    if rows is None:
        return Tried(answer=answer, why_alone=_NO_ROWS)
    if rows_of(flatten(answer)[0]) != rows:
        return Tried(answer=answer, why_alone=OTHER_ROWS)
    try:
        other, alone = _run_another(run, example)
        both = run(unflatten(structure, joined([leaves, flatten(other)[0]])))
    except EsenError as problem:
        return Tried(answer=answer, why_alone=f"the members do not take twice the rows ({first_line(problem)})")
    together, shape = flatten(both)
    try:
        halves = [unflatten(shape, half) for half in parted(together, [rows, rows])]
    except RowsDiffer:
        return Tried(answer=answer, why_alone=OTHER_ROWS)
    for half, wanted in zip(halves, (answer, alone), strict=True):
        found = difference(half, wanted, tolerances)
        if not found.agrees:
            return Tried(answer=answer, why_alone=f"a row's answer depends on the other rows of its batch ({found})")
    return Tried(answer=answer, why_alone="")


def _run_another(run: Callable[[Tree], Tree], example: Tree) -> tuple[Tree, Tree]:
    """Another input than the example that the members take, and its answer.

    Raises:
        EsenError: They take none.
    """
    other = map_tensors(other_numbers, example)
    try:
        return other, run(other)
    except EsenError:
        other = map_tensors(other_order, example)  # whole numbers that mean something: none that was not there before
        return other, run(other)


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


def parted(leaves: Sequence[torch.Tensor], rows: Sequence[int], more: int = 0) -> list[list[torch.Tensor]]:
    """The answer of a joined batch, for each of its requests: views of it.

    Args:
        leaves: Of the answer.
        rows: Of each request.
        more: Rows that it was filled with besides: nobody's.

    Raises:
        RowsDiffer: The answer has other rows than the batch, as where a member leaves some out.
    """
    if len(rows) == 1 and not more:
        return [list(leaves)]
    sent = sum(rows) + more
    if rows_of(leaves) != sent:
        given = ", ".join(str(list(leaf.shape)) for leaf in leaves)
        raise RowsDiffer("The answer of a joined batch has its rows", given=f"{given} for {sent} rows")
    return [[leaf[part] for leaf in leaves] for part in _parts(rows)]


def own(tree: Tree) -> Tree:
    """A copy on the CPU that no later run overwrites."""
    return map_tensors(lambda leaf: leaf.detach().cpu().clone(), tree)


def _parts(rows: Sequence[int]) -> list[slice]:
    ends = [sum(rows[: index + 1]) for index in range(len(rows))]
    return [slice(end - size, end) for end, size in zip(ends, rows, strict=True)]
