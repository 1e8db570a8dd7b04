"""Whether members make an ensemble: one input that all of them take, and outputs that the combine rule can combine.

A member is run here only where its part of the ensemble's input does not look like its own example; what its output on
that looks like is known otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from esen_lab.common.trees import TensorSpec, Tree, TreeSpec, call_with, map_tensors, select, tree_spec, unflatten
from esen_lab.ensemble.chance import generators_kept
from esen_lab.errors import EsenError, UsageError, first_line

if TYPE_CHECKING:
    from esen_lab.ensemble.ensemble import Ensemble
    from esen_lab.ensemble.submodel import SubModel


def check_together(ensemble: Ensemble) -> None:
    """Check that an ensemble can be run as one, before anything is measured or started for it.

    Raises:
        UsageError: A member cannot take the input of the others, or the rule cannot combine the outputs; the message
            names the members.
    """
    if not ensemble.submodels:
        return
    ensemble.combine.check_weights(ensemble.names)
    check_rule(ensemble, outputs_of_members(ensemble))


class FitsTogether:
    """`check_together` for an owner who asks often: an ensemble that passed is not looked at again."""

    def __init__(self) -> None:
        self._passed: Ensemble | None = None

    def check(self, ensemble: Ensemble) -> None:
        """Raises as `check_together` does."""
        if self._passed is None or not _same(self._passed, ensemble):
            check_together(ensemble)
            self._passed = ensemble


def _same(one: Ensemble, other: Ensemble) -> bool:
    return (
        one.combine == other.combine
        and len(one.submodels) == len(other.submodels)
        and all(mine is its for mine, its in zip(one.submodels, other.submodels, strict=True))
    )


def check_combine(ensemble: Ensemble) -> None:
    """Check a combine rule that has just been chosen, as far as the members are known.

    Raises:
        UsageError: Its weights are not those of the members, or it cannot combine their outputs.
    """
    ensemble.combine.check_weights(ensemble.names)
    try:
        outputs = outputs_of_members(ensemble) if ensemble.submodels else {}
    except UsageError:
        return  # the members do not fit each other: that is said where they are to run
    if outputs:
        check_rule(ensemble, outputs)


def check_member(ensemble: Ensemble, name: str) -> None:
    """Check that one member takes the input that the others take; raises as `check_together` does."""
    _check_kinds(ensemble)
    _output(ensemble, ensemble.get(name))


def outputs_of_members(ensemble: Ensemble) -> dict[str, TreeSpec]:
    """What each member answers to the ensemble's example looks like.

    Raises:
        UsageError: One cannot take it.
    """
    _check_kinds(ensemble)
    return {submodel.name: _output(ensemble, submodel) for submodel in ensemble.submodels}


def _check_kinds(ensemble: Ensemble) -> None:
    """A dict is passed by keyword: beside other inputs there is no telling which part of it a member takes."""
    first = ensemble.submodels[0]
    for other in ensemble.submodels[1:]:
        if (first.input_keys is None) != (other.input_keys is None):
            named, alone = (first, other) if first.input_keys is not None else (other, first)
            raise UsageError(
                "Sub-models of one ensemble all take a dict, by keyword, or none of them does",
                given=f"{named.name!r} takes {tree_spec(named.example)}, {alone.name!r} {tree_spec(alone.example)}",
                hint=f"Register {alone.name!r} with a dict as its example, or remove one of them first (unregister).",
            )


def _output(ensemble: Ensemble, submodel: SubModel) -> TreeSpec:
    whole = ensemble.example
    given = select(whole, submodel.input_keys)
    own, here = tree_spec(submodel.example), tree_spec(given)
    if own == here:
        return submodel.output_spec
    try:
        return tree_spec(_answer(submodel, given), f"the output of {submodel.name!r}")
    except Exception as problem:
        told = problem.rule if isinstance(problem, EsenError) else f"{type(problem).__name__}: {first_line(problem)}"
        first = next(s.name for s in ensemble.submodels if s is not submodel)
        raise UsageError(
            "Sub-models of one ensemble take the same input",
            given=f"{submodel.name!r}, made for {own}, fails on the {here} of {first!r} ({told})",
            hint=f"Give {submodel.name!r} an example that fits the others, or remove the others first (unregister).",
        ) from problem


def _answer(submodel: SubModel, given: Tree) -> Tree:
    with generators_kept(), submodel.traits.called():
        return call_with(submodel.build(), map_tensors(lambda tensor: tensor.clone(), given))


def check_rule(ensemble: Ensemble, outputs: Mapping[str, TreeSpec]) -> None:
    """Check that one of our own rules can combine outputs that look like this; a function of the user's is not called.

    Raises:
        UsageError: It cannot.
    """
    if ensemble.combine.function is not None:
        return
    try:
        ensemble.combine(_small(outputs))
    except UsageError:
        ensemble.combine(_with_one_value(outputs))  # fails too, and its message has the real shapes
        raise


def _small(outputs: Mapping[str, TreeSpec]) -> dict[str, Tree]:
    """Tensors of zeros for outputs, small wherever the real ones are large: equal sizes stay equal, others unlike.

    No meta tensors: torch implements much of their arithmetic in Python and imports it when it is first needed, and an
    interrupt in the middle of that leaves it broken for the rest of the process.
    """
    sizes: dict[int, set[int]] = {}  # by dimension, counted from the last
    for spec in outputs.values():
        for one in spec.tensors:
            for place, size in enumerate(reversed(one.shape)):
                sizes.setdefault(place, {0, 1}).add(size)
    ranks = {place: {size: rank for rank, size in enumerate(sorted(known))} for place, known in sizes.items()}

    def shape(one: TensorSpec) -> list[int]:
        return [ranks[len(one.shape) - 1 - index][size] for index, size in enumerate(one.shape)]

    return _zeros(outputs, lambda one: (shape(one), shape(one)))


def _with_one_value(outputs: Mapping[str, TreeSpec]) -> dict[str, Tree]:
    return _zeros(outputs, lambda one: ((), one.shape))


def _zeros(
    outputs: Mapping[str, TreeSpec], shapes: Callable[[TensorSpec], tuple[Sequence[int], Sequence[int]]]
) -> dict[str, Tree]:
    """Tensors of zeros for outputs, each of the first shape that `shapes` gives, expanded to the second."""
    import torch

    def made(one: TensorSpec) -> torch.Tensor:
        held, shown = shapes(one)
        return torch.zeros(tuple(held), dtype=getattr(torch, one.dtype), device="cpu").expand(tuple(shown))

    return {name: unflatten(spec.structure, [made(one) for one in spec.tensors]) for name, spec in outputs.items()}
