"""The combine rules that have names: how the outputs of sub-models become one, leaf by leaf.

    M        sub-models, in the order of the ensemble
    [..., C] a leaf of the output: any leading dimensions, classes last

Of dict outputs (Hugging Face style), those keys are combined that every sub-model has and whose leaves can be combined;
the others are left out, and when none is left the error says why for each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from esen_lab.common.surroundings import step
from esen_lab.common.trees import Tree, flatten, like_tuple, look
from esen_lab.common.words import unknown
from esen_lab.ensemble.confidence import likeliest
from esen_lab.errors import UsageError, first_line

if TYPE_CHECKING:
    import torch

Weights: TypeAlias = Mapping[str, float] | Sequence[float]
Leaves: TypeAlias = "dict[str, torch.Tensor]"
Rule: TypeAlias = "Callable[[Leaves, str], torch.Tensor]"


def combine_trees(outputs: dict[str, Tree], rule: Rule, where: str) -> Tree:
    """The outputs of sub-models as one tree, leaf by leaf.

    Args:
        outputs: Sub-model name -> its output.
        rule: Makes one leaf of those of all sub-models.
        where: What the outputs are called in messages.

    Raises:
        UsageError: They do not fit the rule or each other.
    """
    import torch

    trees = list(outputs.values())
    if all(isinstance(tree, torch.Tensor) for tree in trees):
        try:
            return rule(outputs, where)
        except (RuntimeError, TypeError, ValueError) as problem:  # of torch: dtypes that it does not add or order
            raise _unfit("The rule can combine the outputs", outputs, where, problem) from problem
    if all(isinstance(tree, Mapping) for tree in trees):
        return _combine_dicts(outputs, rule, where)
    if all(isinstance(tree, (tuple, list)) for tree in trees) and len({len(tree) for tree in trees}) == 1:
        children = [
            combine_trees({name: tree[i] for name, tree in outputs.items()}, rule, f"{where}[{i}]")
            for i in range(len(trees[0]))
        ]
        return like_tuple(trees[0], children)
    if not any(isinstance(tree, (torch.Tensor, Mapping, tuple, list)) for tree in trees) and all(
        _same_constant(tree, trees[0]) for tree in trees
    ):
        return trees[0]
    kinds = ", ".join(f"{name} {_kind(tree)}" for name, tree in outputs.items())
    raise UsageError("Outputs that are combined have one structure", given=f"{where}: {kinds}", hint=_OWN)


def _combine_dicts(outputs: dict[str, Tree], rule: Rule, where: str) -> Tree:
    first = next(iter(outputs.values()))
    shared = [key for key in first if all(key in output for output in outputs.values())]
    result: dict[Any, Tree] = {}
    problems = []
    for key in shared:
        try:
            result[key] = combine_trees(
                {name: output[key] for name, output in outputs.items()}, rule, f"{where}[{key!r}]"
            )
        except UsageError as problem:
            problems.append(problem.given or problem.rule)
    if not any(flatten(value)[0] for value in result.values()):
        keys = "; ".join(f"{name} {list(output)}" for name, output in outputs.items())
        raise UsageError(
            "Dict outputs have at least one key that can be combined",
            given="; ".join(problems) or f"{where}: {keys}",
            hint=_OWN,
        )
    return result


def _same_constant(one: Any, other: Any) -> bool:
    if type(one) is float and math.isnan(one):
        return type(other) is float and math.isnan(other)
    return type(one) is type(other) and bool(one == other)


def _kind(tree: Tree) -> str:
    import torch

    if isinstance(tree, torch.Tensor):
        return look(tree)
    return f"{type(tree).__name__} of {len(tree)}" if isinstance(tree, (Mapping, tuple, list)) else repr(tree)


_OWN = "Use outputs that fit, or a combine function of your own."


def _check(leaves: Leaves, where: str, *, floating: bool = True, last: bool = False) -> torch.dtype:
    """The common dtype of `leaves`; raises `UsageError` where they do not fit each other or the rule."""
    import torch

    tensors = list(leaves.values())
    rule = ""
    if any(tensor.shape != tensors[0].shape for tensor in tensors):
        rule = "Outputs that are combined have one shape"
    elif floating and not all(tensor.is_floating_point() for tensor in tensors):
        rule = "Only floating-point outputs have a mean or a vote"
    elif last and tensors[0].dim() == 0:
        rule = "This rule works along the last dimension"
    if rule:
        raise _unfit(rule, leaves, where)
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        if tensor.dtype != dtype:
            dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def _unfit(rule: str, leaves: Leaves, where: str, problem: Exception | None = None) -> UsageError:
    given = ", ".join(f"{name} {look(tensor)}" for name, tensor in leaves.items())
    told = "" if problem is None else f" ({type(problem).__name__}: {first_line(problem)})"
    return UsageError(rule, given=f"{where}: {given}{told}", hint=_OWN)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype to add up in: half precision loses too much."""
    import torch

    return dtype if dtype in (torch.float32, torch.float64) else torch.float32


def mean(leaves: Leaves, where: str) -> torch.Tensor:
    """The mean over sub-models."""
    dtype = _check(leaves, where)
    total = _sum(list(leaves.values()), _wide(dtype))
    return total.div_(len(leaves)).to(dtype)


def _sum(tensors: list[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    total = tensors[0].to(dtype, copy=True)
    for tensor in tensors[1:]:
        # torch adds numbers of 8 bits to nothing.
        total.add_(tensor if tensor.itemsize > 1 else tensor.to(dtype))
    return total


@dataclass(frozen=True, slots=True)
class Weighted:
    """The mean weighted by `weights`, by sub-model name; they sum to 1."""

    weights: Mapping[str, float]

    def __call__(self, leaves: Leaves, where: str) -> torch.Tensor:
        """The weighted mean of one leaf."""
        dtype = _check(leaves, where)
        total: torch.Tensor | None = None
        for name, tensor in leaves.items():
            if total is None:
                total = tensor.to(_wide(dtype), copy=True).mul_(self.weights[name])
            else:
                total.add_(tensor.to(_wide(dtype)), alpha=self.weights[name])
        assert total is not None
        return total.to(dtype)


def _softmax_mean(leaves: Leaves, where: str) -> torch.Tensor:
    dtype = _check(leaves, where, last=True)
    return _sum(_probabilities(leaves, dtype), _wide(dtype)).div_(len(leaves)).to(dtype)


def _probabilities(leaves: Leaves, dtype: torch.dtype) -> list[torch.Tensor]:
    wide = _wide(dtype)
    return [
        (tensor if tensor.itemsize > 1 else tensor.to(wide)).softmax(dim=-1, dtype=wide) for tensor in leaves.values()
    ]


def _majority(leaves: Leaves, where: str) -> torch.Tensor:
    import torch

    dtype = _check(leaves, where, last=True)
    first = next(iter(leaves.values()))
    votes = torch.zeros(first.shape, dtype=torch.int64, device=first.device)  # [..., C]
    for tensor in leaves.values():
        choice = likeliest(tensor).unsqueeze(-1)
        votes.scatter_add_(-1, choice, torch.ones_like(choice))
    mass = _sum(_probabilities(leaves, dtype), _wide(dtype))
    tied = votes == votes.amax(dim=-1, keepdim=True)
    return mass.masked_fill(~tied, -1.0).argmax(dim=-1)


def _stack(leaves: Leaves, where: str) -> torch.Tensor:
    import torch

    dtype = _check(leaves, where, floating=False)
    return torch.stack([tensor.to(dtype) for tensor in leaves.values()])


RULES: dict[str, Rule] = {
    "mean": mean,
    "softmax-mean": _softmax_mean,
    "majority": _majority,
    "stack": _stack,
}


# --- weights ----------------------------------------------------------------------------------------------------------

_AGAIN = ("lab.combine('weighted', weights=...)", "%esen combine weighted --weights ...")


def normalised(weights: Weights | None) -> tuple[tuple[str, float], ...]:
    """Weights divided by their sum, with the sub-models' names, or "" for each that has none.

    Raises:
        UsageError: One is negative, infinite or no number, or all are 0.
    """
    if weights is None:
        raise UsageError("The rule 'weighted' needs weights", given="none", hint="Give weights={'name': number, ...}.")
    pairs = _pairs(weights)
    for name, weight in pairs:
        if not _is_weight(weight):
            raise UsageError(
                "A weight is a finite number of at least 0", given=f"{name}: {weight!r}" if name else f"{weight!r}"
            )
    largest = max((float(weight) for _, weight in pairs), default=0.0)
    if largest <= 0:
        raise UsageError("Weights sum to more than 0", given=f"{[weight for _, weight in pairs]}")
    # Scaled first only where the sum would be infinite: else the last bits would change.
    scale = largest if math.isinf(largest * len(pairs)) else 1.0
    scaled = [(name, weight / scale) for name, weight in pairs]
    total = math.fsum(weight for _, weight in scaled)
    return tuple((str(name), weight / total) for name, weight in scaled)


def _pairs(weights: Any) -> list[tuple[str, Any]]:
    """Names, or "" for each, and weights as they were given."""
    if hasattr(weights, "tolist"):  # an array or a tensor
        weights = weights.tolist()
    if isinstance(weights, Mapping):
        unnamed = [name for name in weights if not isinstance(name, str) or not name]
        if not unnamed:
            return [(name, _plain(weight)) for name, weight in weights.items()]
        raise UsageError("Weights are given by the sub-models' names", given=f"one for {unnamed[0]!r}")
    if isinstance(weights, Sequence) and not isinstance(weights, (str, bytes)):
        return [("", _plain(weight)) for weight in weights]
    raise UsageError(
        "Weights are numbers by sub-model name, or a list of them in the order of the ensemble",
        given=f"{type(weights).__name__} {weights!r}",
        hint="Such as weights={'a': 2, 'b': 1} or weights=[2, 1].",
    )


def _plain(weight: Any) -> Any:
    """A number of NumPy or torch, such as an accuracy, as Python's own."""
    return weight.item() if getattr(weight, "shape", None) == () and hasattr(weight, "item") else weight


def _is_weight(weight: Any) -> bool:
    if isinstance(weight, bool) or not isinstance(weight, (int, float)):
        return False
    try:
        return math.isfinite(weight) and weight >= 0
    except OverflowError:  # an int that no float can hold
        return False


def weights_for(weights: tuple[tuple[str, float], ...], names: list[str]) -> dict[str, float]:
    """The weight of each of `names`, all sub-models in the order of the ensemble.

    Raises:
        UsageError: The weights are for others, or for another number of them.
    """
    given = [name for name, _ in weights]
    if not any(given):
        if len(weights) != len(names):
            raise UsageError(
                f"There is one weight for each of the {len(names)} sub-models: {', '.join(names)}",
                given=f"{len(weights)} weight" + ("" if len(weights) == 1 else "s"),
                hint=f"Set the combine rule again: {step(*_AGAIN)}.",
            )
        return dict(zip(names, (weight for _, weight in weights), strict=True))
    if set(given) != set(names):
        differ = [
            *(f"none for {n}" for n in names if n not in given),
            *(f"one for {n}" for n in given if n not in names),
        ]
        odd = next((name for name in given if name not in names), None)
        raise unknown(
            f"There is one weight for each sub-model: {', '.join(names)}",
            odd,
            names,
            given=", ".join(differ),
            hint="Set the combine rule again.",
        )
    return dict(weights)
