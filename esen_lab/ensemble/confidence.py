"""How sure an ensemble is of each row of a batch: one function for planning on validation data and for running.

p   a row of the combined answer as probabilities: as it is where it already is a distribution, else its softmax
A row is sure at a threshold t where max p >= t. A row that holds NaN never is.

Every row is looked at alone, so what is said of it does not depend on the rest of its batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from esen_lab.common.surroundings import step
from esen_lab.common.trees import Tree
from esen_lab.errors import UsageError

if TYPE_CHECKING:
    import torch

_SUM_WITHIN = 1e-3  # of 1, for a row to be a distribution: half precision is off by this much


def scores_of(combined: Tree, rows: int, rule: str) -> torch.Tensor:
    """The combined answer as scores of shape (rows, classes).

    Args:
        combined: What the combine rule gave.
        rows: How many rows the batch has.
        rule: The combine rule, for the message.

    Raises:
        UsageError: It is something else: a cascade has nothing to decide by.
    """
    import torch

    if isinstance(combined, torch.Tensor) and combined.dim() == 2 and len(combined) == rows:
        return combined
    given = f"{tuple(combined.shape)}" if isinstance(combined, torch.Tensor) else type(combined).__name__
    raise UsageError(
        "A cascade asks how sure the combined answer is, so its combine rule gives scores (samples, classes)",
        given=f"{rule} gives {given} for {rows} samples",
        hint=f"Set mean, softmax-mean or weighted with {step('lab.combine(...)', '%esen combine')}.",
    )


def probabilities_of(scores: torch.Tensor) -> torch.Tensor:
    """Scores of shape (rows, classes) as probabilities of the same shape: see above."""
    import torch

    if not scores.is_floating_point():
        scores = scores.float()
    if not scores.numel():
        return scores
    given = ((scores >= 0).all(dim=-1) & ((scores.sum(dim=-1) - 1).abs() <= _SUM_WITHIN)).unsqueeze(-1)
    if bool(given.all()):
        return scores
    return torch.where(given, scores, scores.softmax(dim=-1))


def likeliest(scores: torch.Tensor) -> torch.Tensor:
    """The class of each row, shape (...), of scores of shape (..., classes) and any real dtype."""
    # Neither float8 nor bool have an order of their own in torch.
    return (scores if scores.itemsize > 1 else scores.float()).argmax(dim=-1)


def sure_rows(scores: torch.Tensor, threshold: float) -> torch.Tensor:
    """Which rows are done: a bool for each.

    Args:
        scores: The combined answer, shape (rows, classes).
        threshold: The probability of the likeliest class from which on a row is done.
    """
    import torch

    if not scores.shape[-1]:
        return torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    return probabilities_of(scores).amax(dim=-1) >= threshold
