"""Combine rules: from each sub-model's output to the ensemble's answer.

    M        sub-models, in the order of the ensemble
    [..., C] a leaf of the output: any leading dimensions, classes last

Trees are combined leaf by leaf. Of dict outputs (Hugging Face style), those keys are combined that every sub-model has
and whose leaves can be combined; the others are left out, and when none is left the error says why for each.

A result never shares memory with an output: outputs live in shared memory that the next run overwrites.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

from esen_lab.ensemble.closure import Closure, run_closure
from esen_lab.ensemble.importable import import_path
from esen_lab.ensemble.small_mean import SmallMean, small_mean
from esen_lab.ensemble.source import capture_object
from esen_lab.errors import EsenError, StoreError, UsageError
from esen_lab.trees import Tree, flatten, tensor_spec, unflatten

if TYPE_CHECKING:
    import torch

Weights: TypeAlias = Mapping[str, float] | Sequence[float]
_Leaves: TypeAlias = "dict[str, torch.Tensor]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Combine:
    """One combine rule. Made by `make_combine`, or from its saved form by `Combine.from_dict`.

    Attributes:
        name: The rule's name, or the function's.
        weights: For "weighted": normalised weights with the sub-models' names, or "" in place of the names when they
            were given in the order of the ensemble; else empty.
        function: A user's own rule: called with a dict of sub-model name -> output, in the order of the ensemble.
        path: Where that function can be imported from ("package.module:function"), or "".
        closure: Its source, when it was defined in the notebook and its source could be kept.
        problem: Why its source could not be kept, or "".
    """

    name: str
    weights: tuple[tuple[str, float], ...] = ()
    function: Callable[[dict[str, Tree]], Tree] | None = None
    path: str = ""
    closure: Closure | None = None
    problem: str = ""

    def describe(self) -> str:
        """Short text for tables: "mean", "weighted (a 0.70, b 0.30)", "pkg.rules:best"."""
        if self.weights:
            return f"{self.name} ({', '.join(f'{name} {weight:.2f}'.strip() for name, weight in self.weights)})"
        return self.path or (f"{self.name}() of the notebook" if self.function else self.name)

    def __call__(self, outputs: Mapping[str, Tree]) -> Tree:
        """Combine `outputs` (sub-model name -> output, in the order of the ensemble) into one tree of new tensors.

        Raises:
            UsageError: The outputs do not fit the rule or each other; or a user's own rule raised (its error is the
                cause).
        """
        import torch

        if not outputs:
            raise UsageError("There is something to combine", given="no output", hint="Register a sub-model first.")
        with torch.no_grad():
            if self.function is not None:
                return _call_own(self.name, self.function, outputs)
            if self.weights:
                return _combine(dict(outputs), _Weighted(_weights_for(self.weights, list(outputs))), "the output")
            return _combine(dict(outputs), _RULES[self.name], "the output")

    def ahead(self, outputs: Mapping[str, Tree]) -> SmallMean | None:
        """The rule prepared for outputs that will lie where these lie, equal to the bit; None: there is no gain."""
        return small_mean(list(outputs.values())) if self.name == "mean" and self.function is None else None

    def for_members(self, names: Sequence[str], of_names: Sequence[str]) -> Combine:
        """The same rule for some members of an ensemble: weights are those of the members, normalised again.

        Args:
            names: The members that stay, in the order of the ensemble.
            of_names: All members of the ensemble.

        Raises:
            UsageError: The weights are not those of this ensemble, or the members that stay have no weight at all.
        """
        if not self.weights or list(names) == list(of_names):
            return self
        weights = _weights_for(self.weights, list(of_names))
        return replace(self, weights=_normalised({name: weights[name] for name in names}))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the saved form.

        Raises:
            UsageError: It is a function of the notebook whose source could not be kept; the message says why.
        """
        if self.function is None:
            return {"rule": self.name, **({"weights": [list(pair) for pair in self.weights]} if self.weights else {})}
        if self.path:
            return {"rule": "import", "path": self.path}
        if self.closure is None:
            raise UsageError(
                f"A combine rule is saved as source, and that of {self.name!r} cannot be kept",
                given=self.problem,
                hint="Define it with def in one cell, or in a module, and set it again.",
            )
        return {"rule": "source", "name": self.name, "closure": self.closure.to_dict()}

    @classmethod
    def from_dict(cls, data: Any) -> Combine:
        """The inverse of `to_dict`. Source is executed, imports are imported: only for files that are trusted.

        Raises:
            StoreError: It is not a saved rule, or its function cannot be had here.
        """
        if not isinstance(data, Mapping) or not isinstance(data.get("rule"), str):
            raise StoreError("A saved combine rule is a JSON object with a rule", given=data)
        rule = data["rule"]
        try:
            if rule == "import":
                return make_combine(str(data["path"]))
            if rule == "source":
                closure = Closure.from_dict(data["closure"])
                name = str(data["name"])
                function = run_closure(closure, f"<combine rule {name}>")[name]
                return cls(name=name, function=function, closure=closure)
            if rule == "weighted":
                return cls(name=rule, weights=tuple((str(name), float(weight)) for name, weight in data["weights"]))
            return make_combine(rule)
        except (EsenError, KeyError, TypeError, ValueError) as problem:
            raise StoreError(f"The saved combine rule cannot be used: {problem}", given=f"rule {rule!r}") from problem


def make_combine(rule: str | Callable[[dict[str, Tree]], Tree] | Combine, *, weights: Weights | None = None) -> Combine:
    """A combine rule by name, by import path, or a function.

    Args:
        rule: One of

            - "mean": the mean over sub-models;
            - "softmax-mean": softmax over the last dimension, then the mean; returns probabilities;
            - "weighted": the mean weighted by `weights`;
            - "majority": each sub-model votes for its argmax over the last dimension; returns class indices, int64 of
              shape [...]. A tie goes to the tied class with the largest summed softmax probability;
            - "stack": a new first dimension of size M;
            - "package.module:function", or a function: called with a dict of sub-model name -> output in the order of
              the ensemble, returns the answer. What it returns is copied where it shares memory with its arguments.
        weights: For "weighted" only: numbers by sub-model name, or in the order of the ensemble. At least 0, finite,
            not all 0; they are divided by their sum.

    Raises:
        UsageError: An unknown rule, weights that do not fit, or a path that cannot be imported.
    """
    if isinstance(rule, Combine) and weights is None:
        return rule
    if callable(rule) and not isinstance(rule, Combine):
        made = _own_rule(rule)
    elif isinstance(rule, str) and ":" in rule:
        made = Combine(name=rule, function=_import_rule(rule), path=rule)
    elif isinstance(rule, str) and (rule in _RULES or rule == "weighted"):
        made = Combine(name=rule, weights=_normalised(weights) if rule == "weighted" else ())
    else:
        raise UsageError(
            f"A combine rule is {', '.join(sorted((*_RULES, 'weighted')))}, a function, or 'pkg.module:function'",
            given=rule,
        )
    if weights is not None and made.name != "weighted":
        raise UsageError("Weights belong to the rule 'weighted'", given=f"weights for {made.describe()}")
    return made


def _own_rule(rule: Callable[[dict[str, Tree]], Tree]) -> Combine:
    name = getattr(rule, "__name__", type(rule).__name__)
    path = import_path(rule)
    if path:
        return Combine(name=name, function=rule, path=path)
    try:
        kept = capture_object(rule)
    except UsageError as problem:
        return Combine(name=name, function=rule, problem=str(problem))
    return Combine(name=kept.name, function=rule, closure=kept.closure)


def _import_rule(path: str) -> Callable[[dict[str, Tree]], Tree]:
    module, _, attribute = path.partition(":")
    try:
        found: Any = import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as problem:
        raise UsageError(
            "A combine rule 'package.module:function' can be imported", given=f"{path}: {problem}"
        ) from problem
    if not callable(found):
        raise UsageError("A combine rule is a function", given=f"{path} is of type {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def _normalised(weights: Weights | None) -> tuple[tuple[str, float], ...]:
    if weights is None:
        raise UsageError("The rule 'weighted' needs weights", given="none", hint="Give weights={'name': number, ...}.")
    pairs = list(weights.items()) if isinstance(weights, Mapping) else [("", weight) for weight in weights]
    for name, weight in pairs:
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not math.isfinite(weight) or weight < 0:
            raise UsageError(
                "A weight is a finite number of at least 0", given=f"{name}: {weight!r}" if name else weight
            )
    total = math.fsum(weight for _, weight in pairs)
    if total <= 0:
        raise UsageError("Weights sum to more than 0", given=f"{[weight for _, weight in pairs]}")
    return tuple((str(name), weight / total) for name, weight in pairs)


def _weights_for(weights: tuple[tuple[str, float], ...], names: list[str]) -> dict[str, float]:
    given = [name for name, _ in weights]
    if not any(given):
        if len(weights) != len(names):
            raise UsageError(
                f"There is one weight for each of the {len(names)} sub-models: {', '.join(names)}",
                given=f"{len(weights)} weights",
            )
        return dict(zip(names, (weight for _, weight in weights), strict=True))
    if set(given) != set(names):
        differ = [
            *(f"none for {n}" for n in names if n not in given),
            *(f"one for {n}" for n in given if n not in names),
        ]
        raise UsageError(
            f"There is one weight for each sub-model: {', '.join(names)}",
            given=", ".join(differ),
            hint="Set the combine rule again.",
        )
    return dict(weights)


def _call_own(name: str, function: Callable[[dict[str, Tree]], Tree], outputs: Mapping[str, Tree]) -> Tree:
    try:
        result = function(dict(outputs))
    except Exception as problem:
        raise UsageError(
            f"The combine rule {name!r} raised",
            given=f"{type(problem).__name__}: {problem}",
            hint="It is called with a dict of sub-model name -> output.",
        ) from problem
    taken = {leaf.untyped_storage().data_ptr() for output in outputs.values() for leaf in flatten(output)[0]}
    leaves, structure = flatten(result, f"the result of the combine rule {name!r}")
    owned = [leaf.clone() if leaf.untyped_storage().data_ptr() in taken else leaf for leaf in leaves]
    return unflatten(structure, owned)


def _combine(outputs: dict[str, Tree], rule: Callable[[_Leaves, str], torch.Tensor], where: str) -> Tree:
    import torch

    trees = list(outputs.values())
    if all(isinstance(tree, torch.Tensor) for tree in trees):
        return rule(outputs, where)
    if all(isinstance(tree, Mapping) for tree in trees):
        return _combine_dicts(outputs, rule, where)
    if all(isinstance(tree, (tuple, list)) for tree in trees) and len({len(tree) for tree in trees}) == 1:
        children = [
            _combine({name: tree[i] for name, tree in outputs.items()}, rule, f"{where}[{i}]")
            for i in range(len(trees[0]))
        ]
        return children if isinstance(trees[0], list) else tuple(children)
    if not any(isinstance(tree, (torch.Tensor, Mapping, tuple, list)) for tree in trees) and all(
        type(tree) is type(trees[0]) and tree == trees[0] for tree in trees
    ):
        return trees[0]
    kinds = ", ".join(f"{name} {_kind(tree)}" for name, tree in outputs.items())
    raise UsageError("Outputs that are combined have one structure", given=f"{where}: {kinds}", hint=_OWN)


def _combine_dicts(outputs: dict[str, Tree], rule: Callable[[_Leaves, str], torch.Tensor], where: str) -> Tree:
    first = next(iter(outputs.values()))
    shared = [key for key in first if all(key in output for output in outputs.values())]
    result: dict[Any, Tree] = {}
    problems = []
    for key in shared:
        try:
            result[key] = _combine({name: output[key] for name, output in outputs.items()}, rule, f"{where}[{key!r}]")
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


def _kind(tree: Tree) -> str:
    import torch

    if isinstance(tree, torch.Tensor):
        return str(tensor_spec(tree))
    return f"{type(tree).__name__} of {len(tree)}" if isinstance(tree, (Mapping, tuple, list)) else repr(tree)


_OWN = "Use outputs that fit, or a combine function of your own."


def _check(leaves: _Leaves, where: str, *, floating: bool = True, last: bool = False) -> torch.dtype:
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
        given = ", ".join(f"{name} {tensor_spec(tensor)}" for name, tensor in leaves.items())
        raise UsageError(rule, given=f"{where}: {given}", hint=_OWN)
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype to add up in: half precision loses too much."""
    import torch

    return dtype if dtype in (torch.float32, torch.float64) else torch.float32


def _mean(leaves: _Leaves, where: str) -> torch.Tensor:
    dtype = _check(leaves, where)
    total = _sum(list(leaves.values()), _wide(dtype))
    return total.div_(len(leaves)).to(dtype)


def _sum(tensors: list[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    total = tensors[0].to(dtype, copy=True)
    for tensor in tensors[1:]:
        total.add_(tensor)
    return total


@dataclass(frozen=True, slots=True)
class _Weighted:
    weights: Mapping[str, float]

    def __call__(self, leaves: _Leaves, where: str) -> torch.Tensor:
        dtype = _check(leaves, where)
        total: torch.Tensor | None = None
        for name, tensor in leaves.items():
            if total is None:
                total = tensor.to(_wide(dtype), copy=True).mul_(self.weights[name])
            else:
                total.add_(tensor.to(_wide(dtype)), alpha=self.weights[name])
        assert total is not None
        return total.to(dtype)


def _softmax_mean(leaves: _Leaves, where: str) -> torch.Tensor:
    dtype = _check(leaves, where, last=True)
    return _sum(_probabilities(leaves, dtype), _wide(dtype)).div_(len(leaves)).to(dtype)


def _probabilities(leaves: _Leaves, dtype: torch.dtype) -> list[torch.Tensor]:
    return [tensor.softmax(dim=-1, dtype=_wide(dtype)) for tensor in leaves.values()]


def _majority(leaves: _Leaves, where: str) -> torch.Tensor:
    import torch

    dtype = _check(leaves, where, last=True)
    first = next(iter(leaves.values()))
    votes = torch.zeros(first.shape, dtype=torch.int64, device=first.device)  # [..., C]
    for tensor in leaves.values():
        choice = tensor.argmax(dim=-1, keepdim=True)
        votes.scatter_add_(-1, choice, torch.ones_like(choice))
    mass = _sum(_probabilities(leaves, dtype), _wide(dtype))
    tied = votes == votes.amax(dim=-1, keepdim=True)
    return mass.masked_fill(~tied, -1.0).argmax(dim=-1)


def _stack(leaves: _Leaves, where: str) -> torch.Tensor:
    import torch

    dtype = _check(leaves, where, floating=False)
    return torch.stack([tensor.to(dtype) for tensor in leaves.values()])


_RULES: dict[str, Callable[[_Leaves, str], torch.Tensor]] = {
    "mean": _mean,
    "softmax-mean": _softmax_mean,
    "majority": _majority,
    "stack": _stack,
}
