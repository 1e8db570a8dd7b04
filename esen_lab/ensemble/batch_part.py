"""A part of a batch: which rows it has, a module that runs them alone, and the answers of all parts as one.

r   rows: the size of dimension 0 of every tensor of the input
n   parts, k = 1..n;   part k has the rows ceil(r (k - 1) / n) to ceil(r k / n) - 1, so the first is never the smallest
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from esen_lab.common.surroundings import step
from esen_lab.common.trees import Tree, flatten, map_tensors, unflatten
from esen_lab.errors import UsageError


class BatchPart(nn.Module):
    """A module that takes a whole batch and runs one part of its rows."""

    def __init__(self, whole: nn.Module, part: int, parts: int) -> None:
        super().__init__()
        self.whole = whole
        self.part = part
        self.parts = parts
        self.training = False

    def train(self, mode: bool = True) -> BatchPart:  # noqa: ARG002  nn.Module's signature
        """It stays in the mode it was built in, as what it holds does."""
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Tree:
        """What the module answers for the rows of this part.

        Raises:
            UsageError: The tensors do not all have as many rows, or the answer has not as many.
        """
        rows = rows_of((args, kwargs))
        start, stop = bounds(rows, self.part, self.parts)
        if start < stop or rows == 0:
            return _checked(self.whole(*_rows(args, start, stop), **_rows(kwargs, start, stop)), stop - start)
        # Fewer rows than parts: many networks fail without any, so it runs one, which no answer comes from.
        one = min(start, rows - 1)
        answer = _checked(self.whole(*_rows(args, one, one + 1), **_rows(kwargs, one, one + 1)), 1)
        return map_tensors(lambda leaf: leaf[:0], answer)


def bounds(rows: int, part: int, parts: int) -> tuple[int, int]:
    """The first row of a part, and the one after its last."""
    return -(-rows * (part - 1) // parts), -(-rows * part // parts)


def rows_of(tree: Tree) -> int:
    """How many rows the tensors of a tree have.

    Raises:
        UsageError: They do not all have the same, or there is none.
    """
    sizes = {leaf.shape[0] if leaf.dim() else -1 for leaf in flatten(tree)[0]}
    if len(sizes) != 1 or sizes == {-1}:
        raise UsageError(
            "A batch that is split over lanes has its rows along dimension 0 of every tensor",
            given=", ".join("none" if size < 0 else f"{size} rows" for size in sorted(sizes)) or "no tensor",
            hint=f"Search with {step('parts=False', '--no-parts')}.",
        )
    return int(next(iter(sizes)))


def joined(answers: Sequence[Tree]) -> Tree:
    """The answers of all parts, in order, as that of the whole batch."""
    flat = [flatten(answer) for answer in answers]
    leaves = [torch.cat(tensors) for tensors in zip(*(leaves for leaves, _ in flat), strict=True)]
    return unflatten(flat[0][1], leaves)


def _rows(tree: Any, start: int, stop: int) -> Any:
    return map_tensors(lambda leaf: leaf[start:stop], tree)


def _checked(answer: Tree, rows: int) -> Tree:
    if rows_of(answer) != rows:
        raise UsageError(
            "An answer that is joined from parts has a row per row of the batch",
            given=f"{rows_of(answer)} rows for {rows}",
            hint=f"Search with {step('parts=False', '--no-parts')}.",
        )
    return answer
