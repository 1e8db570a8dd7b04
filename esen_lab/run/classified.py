"""What answers come to as classes: how many rows are of the same class as the reference's, or of the right one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from esen_lab.common.trees import Tree
from esen_lab.ensemble.confidence import likeliest
from esen_lab.errors import UsageError

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


def check_labels(labels: Iterable[int], classes: int) -> None:
    """Refuse a label that is no class: nobody could ever be right about it.

    Args:
        labels: Whole numbers.
        classes: How many classes answers tell apart; 1 or fewer where they have no score for each.

    Raises:
        UsageError: There is one.
    """
    strange = next((label for label in labels if not 0 <= label < classes), None)
    if classes > 1 and strange is not None:
        raise UsageError(
            f"A label is one of the {classes} classes that the members tell apart, 0 to {classes - 1}",
            given=int(strange),
        )


def classes_among(output: Tree) -> int:
    """How many classes an answer has a score for, in each row; 0 where it has none."""
    return output.shape[1] if classes_of(output) is not None and output.dim() == 2 else 0


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
