"""The ensemble: ordered, named sub-models and one combine rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from esen_lab.common.display import Shown
from esen_lab.common.trees import Tree, select, tree_spec
from esen_lab.common.units import format_table
from esen_lab.common.words import unknown
from esen_lab.ensemble.combine import Combine, make_combine
from esen_lab.ensemble.submodel import SubModel
from esen_lab.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensemble(Shown):
    """Sub-models in the order of registration, and how their outputs become one.

    Attributes:
        submodels: The members; each name once.
        combine: The combine rule.
    """

    submodels: tuple[SubModel, ...] = ()
    combine: Combine = field(default_factory=lambda: make_combine("mean"))
    _inputs: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check that every name is there once."""
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise UsageError("Each sub-model of an ensemble has its own name", given=f"{', '.join(twice)} twice")

    @property
    def names(self) -> tuple[str, ...]:
        """The members' names, in order."""
        return tuple(submodel.name for submodel in self.submodels)

    @property
    def fingerprints(self) -> dict[str, str]:
        """Each member's fingerprint, in order."""
        return {submodel.name: submodel.fingerprint for submodel in self.submodels}

    @property
    def example(self) -> Tree:
        """An input for all of them: the first one's example; where all take dicts, their keys together.

        Raises:
            UsageError: There is no sub-model.
        """
        examples = [submodel.example for submodel in self.submodels]
        if not examples:
            raise UsageError("An ensemble has at least one sub-model", given="none", hint="Register one first.")
        if all(isinstance(example, Mapping) for example in examples):
            return {key: value for example in reversed(examples) for key, value in example.items()}
        return examples[0]

    def as_run(self, submodel: SubModel) -> SubModel:
        """A member, or a group or a part of members, with what a run of the ensemble's example gives it as its example.

        What is measured of members is measured on that: one that was registered with another batch would take another
        time than in a run. `submodel` itself where its own example looks the same.
        """
        given = _part(self.example, submodel)
        if tree_spec(given) == tree_spec(submodel.example):
            return submodel
        return replace(submodel, example=given, answer=None)

    @property
    def inputs(self) -> Mapping[str, str]:
        """What a run of the ensemble's example gives each member looks like, such as "float32[16, 8]", in order."""
        if self.submodels and not self._inputs:
            whole = self.example
            self._inputs.update({one.name: str(tree_spec(_part(whole, one))) for one in self.submodels})
        return self._inputs

    def get(self, name: str) -> SubModel:
        """The member `name`.

        Raises:
            UsageError: There is none.
        """
        for submodel in self.submodels:
            if submodel.name == name:
                return submodel
        known = f"It has {', '.join(self.names)}." if self.submodels else "It has none yet: register one first."
        raise unknown("An ensemble knows its own sub-models", name, self.names, given=f"{name!r}", hint=known)

    def with_submodel(self, submodel: SubModel) -> Ensemble:
        """The same ensemble with `submodel` in the place of the one of its name, else at the end."""
        if submodel.name not in self.names:
            return replace(self, submodels=(*self.submodels, submodel))
        return replace(self, submodels=tuple(submodel if s.name == submodel.name else s for s in self.submodels))

    def without(self, name: str) -> Ensemble:
        """The same ensemble less one member; raises as `get` does."""
        gone = self.get(name)
        return replace(self, submodels=tuple(s for s in self.submodels if s is not gone))

    def only(self, names: Sequence[str]) -> Ensemble:
        """The same ensemble with these members alone, in its own order; weights are those of the members that stay.

        Raises:
            UsageError: A name is unknown, or none is given.
        """
        kept = {self.get(name).name for name in names}
        if not kept:
            raise UsageError("An ensemble has at least one sub-model", given="none")
        combine = self.combine.for_members([name for name in self.names if name in kept], self.names)
        return replace(self, submodels=tuple(s for s in self.submodels if s.name in kept), combine=combine)

    def with_combine(self, combine: Combine) -> Ensemble:
        """The same sub-models under another rule."""
        return replace(self, combine=combine)

    def __str__(self) -> str:
        """The sub-models and the combine rule, for a terminal."""
        rows = [(s.name, s.class_name, f"{s.parameters:,}", s.recipe.describe()) for s in self.submodels]
        table = format_table(("sub-model", "class", "parameters", "recipe"), rows)
        return f"{table}\ncombined by {self.combine.describe()}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for tables."""
        return {"submodels": [s.to_dict() for s in self.submodels], "combine": self.combine.describe()}


def _part(whole: Tree, submodel: SubModel) -> Tree:
    keys = submodel.input_keys
    if keys is not None and isinstance(whole, Mapping) and not whole.keys() >= set(keys):
        return submodel.example  # they make no ensemble, which is said where they are to run: `check_together`
    return select(whole, keys)
