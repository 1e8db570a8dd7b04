"""The combine rule of an ensemble: makes one answer of the outputs of its sub-models.

A result never shares memory with an output: outputs live in shared memory that the next run overwrites.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from esen_lab.common.tensors import check_tensor
from esen_lab.common.trees import Tree, flatten, map_tensors, paths, unflatten
from esen_lab.common.words import unknown
from esen_lab.ensemble.combine_rules import RULES, Rule, Weighted, Weights, combine_trees, mean, normalised, weights_for
from esen_lab.ensemble.origin import import_path, imported
from esen_lab.ensemble.small_mean import SmallMean, small_mean
from esen_lab.ensemble.source import capture_object
from esen_lab.ensemble.source.closure import SOURCE, Closure, run_closure
from esen_lab.errors import StoreError, UsageError


class NotCombined(UsageError):  # noqa: N818  what came of it
    """What members have answered cannot be combined: whoever has asked for a run is not the one to change it."""


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
            NotCombined: The outputs do not fit the rule or each other; or a user's own rule raised (its error is the
                cause).
        """
        try:
            return self._combined(outputs)
        except UsageError as problem:
            told = NotCombined(problem.rule, given=problem.given, hint=problem.hint)
            raise told from (problem.__cause__ or problem)

    def _combined(self, outputs: Mapping[str, Tree]) -> Tree:
        import torch

        if not outputs:
            raise UsageError("There is something to combine", given="no output", hint="Register a sub-model first.")
        with torch.no_grad():
            if self.function is not None:
                return _call_own(self.name, self.function, outputs)
            rule: Rule = RULES.get(self.name, mean)
            if self.weights:
                rule = Weighted(weights_for(self.weights, list(outputs)))
            return combine_trees(dict(outputs), rule, "the output")

    def check_weights(self, names: Sequence[str]) -> None:
        """Refuse weights that are not those of `names`, all members of the ensemble in its order.

        Raises:
            UsageError: They are for another number of members, or for others; the message says which.
        """
        if self.weights and names:
            weights_for(self.weights, list(names))

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Whatever calls of a user's own rule inside change of what it keeps is afterwards what it was."""
        if self.function is None:
            yield
            return
        from esen_lab.ensemble.as_it_was import AsItWas
        from esen_lab.ensemble.kinds.function import Function

        before = AsItWas(Function(self.function, arrays=False))
        try:
            yield
        finally:
            before.put_back()

    def unasked(self) -> Combine:
        """A rule for runs whose combined answer nobody reads: where it is the user's own, that is not called.

        It may keep what it is given, and may be made for one batch, which an example is not.
        """
        return self if self.function is None else _UNASKED

    def named(self, names: Sequence[str]) -> Combine:
        """The same rule, with weights that were given in the order of these members by their names.

        They then stay those of their members when one is taken out and comes back at the end.
        """
        if not self.weights or any(name for name, _ in self.weights) or len(self.weights) != len(names):
            return self
        return replace(self, weights=tuple(weights_for(self.weights, list(names)).items()))

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
        weights = weights_for(self.weights, list(of_names))
        return replace(self, weights=normalised({name: weights[name] for name in names}))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the saved form: of a function of the notebook with what it reads as that is now.

        Raises:
            UsageError: It is a function of the notebook whose source cannot be kept; the message says why.
        """
        if self.function is None:
            return {"rule": self.name, **({"weights": [list(pair) for pair in self.weights]} if self.weights else {})}
        if self.path:
            return {"rule": "import", "path": self.path}
        name, closure, problem = self.name, self.closure, self.problem
        if not _is_of_source(self.function):  # what it reads may have changed since it was chosen
            name, closure, problem = _captured(self.function)
        if closure is None:
            raise UsageError(
                f"A combine rule is saved as source, and that of {self.name!r} cannot be kept",
                given=problem,
                hint="Define it with def in one cell, or in a module, and set it again.",
            )
        return {"rule": "source", "name": name, "closure": closure.to_dict()}

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
        except Exception as problem:  # its source is somebody's, and may raise whatever it likes
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
              the ensemble, returns the answer. It gets copies, and may keep them: a copy takes one or two microseconds
              for each output, and for outputs of many MB as long as copying their memory. No other rule needs any.
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
    elif isinstance(rule, str) and (rule in RULES or rule == "weighted"):
        made = Combine(name=rule, weights=normalised(weights) if rule == "weighted" else ())
    else:
        known = sorted((*RULES, "weighted"))
        raise unknown(
            f"A combine rule is {', '.join(known)}, a function, or 'pkg.module:function'", rule, known, given=rule
        )
    if weights is not None and made.name != "weighted":
        raise UsageError("Weights belong to the rule 'weighted'", given=f"weights for {made.describe()}")
    return made


def _scores_of_nothing(outputs: Mapping[str, Tree]) -> Tree:
    """Scores of one class for each row: every row is sure."""
    import torch

    leaves = flatten(next(iter(outputs.values())))[0]
    return torch.zeros(len(leaves[0]) if leaves and leaves[0].dim() else 1, 1, device="cpu")


_UNASKED = Combine(name="a rule of the user's own, not called", function=_scores_of_nothing)


def _own_rule(rule: Callable[[dict[str, Tree]], Tree]) -> Combine:
    name = getattr(rule, "__name__", type(rule).__name__)
    path = import_path(rule)
    if path:
        return Combine(name=name, function=rule, path=path)
    found, closure, problem = _captured(rule)
    return Combine(name=found or name, function=rule, closure=closure, problem=problem)


def _captured(rule: Callable[[dict[str, Tree]], Tree]) -> tuple[str, Closure | None, str]:
    """The name of a function in the text that defines it, and that text; or why there is none."""
    try:
        kept = capture_object(rule)
    except UsageError as problem:
        return "", None, str(problem)
    return kept.name, kept.closure, ""


def _is_of_source(function: Callable[[dict[str, Tree]], Tree]) -> bool:
    """Whether a function was read from a saved form, whose text is all there is of it."""
    return str(getattr(function, "__module__", "")).startswith(SOURCE)


def _import_rule(path: str) -> Callable[[dict[str, Tree]], Tree]:
    try:
        found = imported(path)
    except (ImportError, AttributeError, ValueError) as problem:
        raise UsageError(
            "A combine rule 'package.module:function' can be imported", given=f"{path}: {problem}"
        ) from problem
    if not callable(found):
        raise UsageError("A combine rule is a function", given=f"{path} is of type {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def _call_own(name: str, function: Callable[[dict[str, Tree]], Tree], outputs: Mapping[str, Tree]) -> Tree:
    # Outputs are overwritten by the next run, and a function of the user's may keep what it is given.
    given = {name: map_tensors(lambda leaf: leaf.clone(), output) for name, output in outputs.items()}
    try:
        result = function(given)
    except Exception as problem:
        raise UsageError(
            f"The combine rule {name!r} raised",
            given=f"{type(problem).__name__}: {problem}",
            hint="It is called with a dict of sub-model name -> output.",
        ) from problem
    what = f"the result of the combine rule {name!r}"
    leaves, structure = flatten(result, what)
    for leaf, path in zip(leaves, paths(structure, what), strict=True):
        check_tensor(leaf, path)
    # Made inside inference_mode, a result could never be changed outside of it: the caller gets an ordinary tensor.
    return unflatten(structure, [leaf.clone() if leaf.is_inference() else leaf for leaf in leaves])
