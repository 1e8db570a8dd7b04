"""The rows of a batch that shrinks between stages: how many there are, which sizes stages are run at, which are taken.

n   rows of the whole batch        m   rows that are still open

A stage runs at one of few sizes, eighths of n: the next one above m, its batch filled up with a row that is open
anyway. Each other size costs each lane an order and new memory for its outputs; an engine of fixed shapes compiles
for each, so that where a stage has one, sizes are quarters of n.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from esen_lab.common.trees import Tree, TreeSpec, flatten, map_tensors
from esen_lab.errors import UsageError
from esen_lab.planner.plan import Lane

if TYPE_CHECKING:
    import torch

SIZES = 8
"""At most so many sizes of a batch, where a stage runs eagerly."""
SIZES_OF_ENGINES = 4


def sizes_for(lanes: Sequence[Lane]) -> int:
    """At how many sizes of a batch the lanes of one stage run."""
    return SIZES if all(lane.all_eager for lane in lanes) else SIZES_OF_ENGINES


def size_for(open_rows: int, rows: int, sizes: int = SIZES) -> int:
    """The size at which a stage runs `open_rows` of `rows` rows: the next of so many parts of all, rounded up."""
    if not open_rows:
        return 0
    parts = (open_rows - 1) * sizes // rows + 1  # the least whose size is not below
    return -(-rows * parts // sizes)


def sizes_of(rows: int, sizes: int = SIZES) -> tuple[int, ...]:
    """Every size at which a later stage may run a batch of so many rows, the largest first."""
    return tuple(sorted({-(-rows * part // sizes) for part in range(1, sizes + 1)} if rows else (), reverse=True))


def rows_in(spec: TreeSpec) -> int:
    """How many rows an input has.

    Raises:
        UsageError: Not as many along dimension 0 of every tensor: it has no batch axis that could shrink.
    """
    sizes = {tensor.shape[0] if tensor.shape else -1 for tensor in spec.tensors}
    if len(sizes) != 1 or sizes == {-1}:
        raise UsageError(
            "A plan in stages takes an input with its rows along dimension 0 of every tensor: rows leave on the way",
            given=str(spec),
            hint="Give every tensor that dimension, or take a plan without stages.",
        )
    return sizes.pop()


def padded(rows: torch.Tensor, size: int) -> torch.Tensor:
    """The numbers of open rows, filled up to a size with the first of them."""
    import torch

    return torch.cat([rows, rows[:1].expand(size - len(rows))]) if size > len(rows) else rows


def first_rows(outputs: Mapping[str, Tree], count: int, ran: int) -> dict[str, Tree]:
    """What sub-models answered for the first `count` of the rows that they ran, as views.

    Args:
        outputs: By sub-model.
        count: How many of the rows are real.
        ran: How many rows they ran.

    Raises:
        UsageError: An answer has not one row per row of the input.
    """
    for name, tree in outputs.items():
        for leaf in flatten(tree)[0]:
            if not leaf.dim() or leaf.shape[0] != ran:
                raise UsageError(
                    "A sub-model of a plan in stages answers with a row per row of its input",
                    given=f"{list(leaf.shape)} from {name!r} for {ran} rows",
                    hint="Take a plan without stages.",
                )
    if count == ran:
        return dict(outputs)
    return {name: map_tensors(lambda leaf: leaf[:count], tree) for name, tree in outputs.items()}


def taken(outputs: Mapping[str, Tree], rows: torch.Tensor) -> dict[str, Tree]:
    """Copies of these rows of what sub-models answered."""
    return {name: map_tensors(lambda leaf: leaf.index_select(0, rows), tree) for name, tree in outputs.items()}
