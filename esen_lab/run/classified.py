"""What answers come to as classes: how many rows are of the same class as the reference's, or of the right one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from esen_lab.common.trees import Tree
from esen_lab.ensemble.confidence import likeliest

if TYPE_CHECKING:
    import torch


def classes_of(output: Tree) -> torch.Tensor | None:
    """The likeliest class of each row: of scores (rows, two classes or more), or of classes (rows,).

    Whole numbers of two dimensions are no scores, and one score of a row is no choice: None, as for all else.
    """
    import torch

    if not isinstance(output, torch.Tensor) or output.is_complex() or output.layout is not torch.strided:
        return None
    if output.dim() == 1 and not output.is_floating_point():
        return output
    if output.dim() != 2 or output.shape[-1] < 2 or not output.is_floating_point():
        return None
    return likeliest(output)


def same_class(output: Tree, reference: Tree) -> float | None:
    """The fraction of rows that both put into the same class, 0 to 1; None where they are no classes, or no rows."""
    mine, wanted = classes_of(output), classes_of(reference)
    if mine is None or wanted is None or mine.shape != wanted.shape or not len(mine):
        return None
    return float((mine == wanted).float().mean())


def right_class(output: Tree, labels: Sequence[int] | None) -> float | None:
    """The fraction of rows that are put into the right class, 0 to 1; None where nobody says which, or no classes are.

    Args:
        output: An answer.
        labels: The right class of each row.
    """
    import torch

    mine = classes_of(output)
    if labels is None or mine is None or len(labels) != len(mine) or not len(mine):
        return None
    return float((mine == torch.tensor(list(labels), device=mine.device)).float().mean())
