"""How much the members of an ensemble disagree: `Uncertain`, computed where their outputs lie.

    M   members        y_m   the output of one, or its probabilities p_m

    mean            1/M sum_m y_m
    variance        1/M sum_m (y_m - mean)^2            of the members, not an estimate for others: divided by M
    entropy         H(mean p) = - sum_c mean_c ln mean_c             in nats, of the whole ensemble
    information     H(mean p) - 1/M sum_m H(p_m)       what knowing the member would tell: 0 where all agree

Entropy less information is what members are unsure of themselves (aleatoric); information is where they disagree
(epistemic). Members are read one after another, in shared memory: beside the results there is room for one output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from esen_lab.common.trees import Tree, flatten, look, unflatten
from esen_lab.ensemble import Combine
from esen_lab.ensemble.combine_rules import weights_for
from esen_lab.errors import UsageError

if TYPE_CHECKING:
    import torch

_SUMS_TO_ONE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Uncertain:
    """An answer, and how far its members are apart. All tensors are the caller's own.

    Attributes:
        answer: The combined output, as a run without `uncertainty` gives it.
        mean: The mean of the members, of the structure of an output; of their probabilities where `probabilities`.
        variance: Of the members around it, element by element. Weighted where the rule is.
        entropy: Of the mean probabilities, in nats: shape [...] for outputs [..., C]. None: these are no probabilities.
        mutual_information: The part of it that is disagreement of members, in nats, at least 0; likewise.
        probabilities: Whether mean and variance are of probabilities: where the rule takes the softmax of scores
            (softmax-mean, majority), or where outputs are probabilities themselves.
        members: Of whom this is.
    """

    answer: Tree
    mean: Tree
    variance: Tree
    entropy: Tree | None
    mutual_information: Tree | None
    probabilities: bool
    members: tuple[str, ...]


def uncertain(answer: Tree, outputs: Mapping[str, Tree], rule: Combine, all_names: Sequence[str]) -> Uncertain:
    """The answer of some members, with how far they are apart.

    Args:
        answer: What the rule made of them.
        outputs: Of these members, in the order of the ensemble; they are read in place.
        rule: The ensemble's; its weights count.
        all_names: All members of the ensemble, in its order.

    Raises:
        UsageError: The outputs differ in structure or shape, or hold whole numbers.
    """
    names = tuple(outputs)
    flat = [flatten(tree, f"the output of {name!r}") for name, tree in outputs.items()]
    structure = flat[0][1]
    columns = list(zip(*(leaves for leaves, _ in flat), strict=False))
    if any(own != structure for _, own in flat) or any(not _alike(column) for column in columns):
        given = "; ".join(
            f"{name} {', '.join(map(look, leaves))}" for name, (leaves, _) in zip(names, flat, strict=True)
        )
        raise UsageError(
            "Members that are compared answer with floating-point tensors of one structure and shape",
            given=given,
            hint="Run without uncertainty.",
        )
    known = weights_for(rule.weights, list(all_names)) if rule.weights else dict.fromkeys(all_names, 1.0)
    total = sum(known[name] for name in names)
    weights = [known[name] / total if total > 0 else 1 / len(names) for name in names]
    softmax = rule.function is None and rule.name in ("softmax-mean", "majority")
    of_probabilities = softmax or all(map(_are_probabilities, columns))
    found = [_apart(column, weights, softmax=softmax, entropies=of_probabilities) for column in columns]
    return Uncertain(
        answer=answer,
        mean=unflatten(structure, [one[0] for one in found]),
        variance=unflatten(structure, [one[1] for one in found]),
        entropy=unflatten(structure, [one[2] for one in found]) if of_probabilities else None,
        mutual_information=unflatten(structure, [one[3] for one in found]) if of_probabilities else None,
        probabilities=of_probabilities,
        members=names,
    )


def _apart(
    column: Sequence[torch.Tensor], weights: Sequence[float], *, softmax: bool, entropies: bool
) -> tuple[torch.Tensor, ...]:
    """Mean, variance, and where asked for entropy and mutual information, of one leaf."""
    import torch

    wide = torch.float64 if column[0].dtype == torch.float64 else torch.float32

    def values(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(wide).softmax(dim=-1) if softmax else tensor.to(wide)  # torch takes none of 8 bits

    with torch.no_grad():
        mean = torch.zeros(column[0].shape, dtype=wide, device=column[0].device)
        own: torch.Tensor | None = None
        for tensor, weight in zip(column, weights, strict=True):
            value = values(tensor)
            mean.add_(value, alpha=weight)
            if entropies:
                inside = _entropy(value).mul_(weight)
                own = inside if own is None else own.add_(inside)
        variance = torch.zeros_like(mean)
        for tensor, weight in zip(column, weights, strict=True):
            variance.add_((values(tensor) - mean).square_(), alpha=weight)
        if own is None:
            return mean, variance
        entropy = _entropy(mean)
        return mean, variance, entropy, (entropy - own).clamp_(min=0.0)  # below 0 by rounding alone


def _entropy(probabilities: torch.Tensor) -> torch.Tensor:
    import torch

    found: torch.Tensor = torch.special.entr(probabilities.clamp(min=0.0)).sum(dim=-1)
    return found


def _alike(column: Sequence[torch.Tensor]) -> bool:
    first = column[0]
    return all(leaf.shape == first.shape and leaf.is_floating_point() for leaf in column)


def _are_probabilities(column: Sequence[torch.Tensor]) -> bool:
    import torch

    first = column[0]
    if not first.dim() or first.shape[-1] < 2 or not first.numel():
        return False
    # In numbers that torch compares: it has no order of those of 8 bits.
    return all(
        bool((leaf >= -_SUMS_TO_ONE).all()) and bool(((leaf.sum(-1) - 1).abs() <= _SUMS_TO_ONE).all())
        for leaf in (one if one.dtype == torch.float64 else one.float() for one in column)
    )
