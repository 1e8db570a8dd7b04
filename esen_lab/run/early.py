"""Whether a run may stop before all members have answered: since nothing can change any more, or it is sure enough.

    n   members that will answer where nobody stops        k   those that have
    v   votes of a row by class                            p   the mean probability of a row by class

A vote of a row is decided when v(first) - v(second) > n - k: the others cannot bring the second up, nor to a tie, which
would be settled by probabilities. What a majority answers then is what it would answer with all members.

A row is confident when p(first) is at least the threshold. That is no proof: the others change p, and may change the
class. They cannot where k p(first) - k p(second) > n - k, since each adds at most 1 to a class and at least 0: such
rows are counted as certain. Under a weighted mean each counts with its weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from esen_lab.common.surroundings import step
from esen_lab.common.trees import Tree
from esen_lab.ensemble import Combine
from esen_lab.ensemble.combine_rules import weights_for
from esen_lab.ensemble.confidence import likeliest
from esen_lab.errors import UsageError
from esen_lab.run.options import SOFTMAX

if TYPE_CHECKING:
    import torch

_SUMS_TO_ONE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Confidence:
    """How sure an answer of some members is.

    Attributes:
        least: The probability of the likeliest class in the least sure row.
        certain_rows: In how many rows the members that are missing cannot change the class.
        rows: How many there are.
    """

    least: float
    certain_rows: int
    rows: int


def decided(outputs: Mapping[str, Tree], left: int) -> bool:
    """Whether a majority's vote is decided in every row, with so many members that have not voted.

    Raises:
        UsageError: The outputs are not one tensor of scores for each member, of one shape.
    """
    import torch

    scores = _scores(outputs)
    votes: torch.Tensor | None = None
    for tensor in scores:
        choice = likeliest(tensor).unsqueeze(-1)
        if votes is None:
            votes = torch.zeros(tensor.shape, dtype=torch.int64, device=tensor.device)
        votes.scatter_add_(-1, choice, torch.ones_like(choice))
    assert votes is not None
    return bool((_lead(votes) > left).all())


def confidence(
    outputs: Mapping[str, Tree], rule: Combine, names: Sequence[str], all_names: Sequence[str]
) -> Confidence:
    """How sure the answer is that these members make.

    Args:
        outputs: Of the members that have answered.
        rule: The ensemble's: "softmax-mean", or "mean" or "weighted" of probabilities.
        names: All members that will answer where nobody stops.
        all_names: All members of the ensemble, in its order: weights are given in that.

    Raises:
        UsageError: The outputs are no probabilities, and the rule makes none of them.
    """
    scores = dict(zip(outputs, _scores(outputs), strict=True))
    weight = weights_for(rule.weights, list(all_names)) if rule.weights else dict.fromkeys(all_names, 1.0)
    total: torch.Tensor | None = None
    for name, tensor in scores.items():
        wide = tensor.double()
        row = wide.softmax(dim=-1) if rule.name == "softmax-mean" else _probabilities(wide, name, rule)
        total = row * weight[name] if total is None else total.add_(row, alpha=weight[name])
    assert total is not None
    have = sum(weight[name] for name in scores)
    left = sum(weight[name] for name in names if name not in scores)
    if have <= 0:
        return Confidence(least=0.0, certain_rows=0, rows=total[..., 0].numel())
    certain = _lead(total) > left * (1 + 1e-9) + 1e-9
    return Confidence(
        least=float((total.amax(dim=-1) / have).min()) if total.numel() else 1.0,
        certain_rows=int(certain.sum()),
        rows=certain.numel(),
    )


def _lead(by_class: torch.Tensor) -> torch.Tensor:
    """How far the first class of each row is ahead of the second."""
    if by_class.shape[-1] < 2:
        return by_class[..., 0]
    first = by_class.topk(2, dim=-1).values
    return first[..., 0] - first[..., 1]


def _probabilities(row: torch.Tensor, name: str, rule: Combine) -> torch.Tensor:
    if row.numel() and (bool((row < -_SUMS_TO_ONE).any()) or not bool(((row.sum(-1) - 1).abs() <= _SUMS_TO_ONE).all())):
        raise UsageError(
            "An answer is confident where it is of probabilities: each row at least 0, and of sum 1",
            given=f"the output of {name!r} under the rule {rule.describe()}",
            hint=f"Of scores it is by {step(*SOFTMAX)}; or run without stop_early.",
        )
    return row


def _scores(outputs: Mapping[str, Tree]) -> list[torch.Tensor]:
    import torch

    tensors = list(outputs.values())
    if all(isinstance(one, torch.Tensor) and one.dim() and one.is_floating_point() for one in tensors) and (
        len({one.shape for one in tensors}) == 1
    ):
        return tensors
    raise UsageError(
        "A run stops early on scores by class: one floating-point tensor for each member, of one shape",
        given=", ".join(f"{name} {type(one).__name__}" for name, one in outputs.items()),
        hint="Run without stop_early.",
    )
