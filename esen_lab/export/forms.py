"""The saved form of each sub-model: text and weights only, proven to give the same bits as the sub-model itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from esen_lab.common.answers import difference
from esen_lab.common.surroundings import model_cell
from esen_lab.common.trees import Tree, call_with, flatten, map_tensors
from esen_lab.ensemble import (
    Ensemble,
    FileRecipe,
    LiveRecipe,
    ProgramRecipe,
    Rebuild,
    Recipe,
    SkeletonRecipe,
    SubModel,
    answer_here,
)
from esen_lab.ensemble.as_it_was import reached_by, session_kept
from esen_lab.ensemble.chance import PROOF_SEED, generators_kept, seed_for, seed_generators
from esen_lab.ensemble.fingerprint import same_bits
from esen_lab.ensemble.recipes import in_lane_mode
from esen_lab.errors import EsenError, UsageError

if TYPE_CHECKING:
    from torch import nn

_MOST_ANSWER_BYTES = 16 << 20


def saved_form(submodel: SubModel) -> Recipe:
    """A recipe for `submodel` that can be written down.

    A cell, an import path and a file are that already. A live module becomes a skeleton; where that cannot be, a
    `torch.export` program; and a function of the notebook that has no such form a pickle. Each only when it gives, on
    the example, the very bits that the sub-model gives.

    Raises:
        UsageError: Neither can be had; the message has both reasons.
    """
    if not isinstance(submodel.recipe, LiveRecipe):
        return submodel.recipe
    module = submodel.build()
    expected = _run(module, submodel)
    reasons = []
    attempts: list[Callable[[SubModel, LiveRecipe], Recipe]] = [_skeleton, _program]
    if submodel.kind == "function":
        attempts.append(_pickle)
    for attempt in attempts:
        try:
            recipe = attempt(submodel, submodel.recipe)
            found = _run(Rebuild(recipe=recipe, protect_input=submodel.protect_input)(), submodel)
        except EsenError as problem:
            reasons.append(f"{attempt.__doc__}: {problem.given or problem.rule}")
            continue
        except Exception as problem:  # the rebuilt module's own code
            reasons.append(f"{attempt.__doc__}: {type(problem).__name__}: {problem}")
            continue
        if same_bits(flatten(expected)[0], flatten(found)[0]):
            return recipe
        reasons.append(f"{attempt.__doc__}: its output differs")
    raise UsageError(
        f"The live module of sub-model {submodel.name!r} can be saved without pickle",
        given="; ".join(reasons),
        hint=f"Build it {model_cell(submodel.name)}.",
    )


def answer_of(submodel: SubModel, example: Tree) -> Tree | None:
    """What a sub-model answers here to the ensemble's example, called as the session calls it.

    None where it never answers the same, where that takes more than 16 MiB, or where it raises: its lane will say so.
    """
    if not submodel.traits.steady:
        return None
    try:
        answer = answer_here(submodel.name, submodel.build(), example, own=True)
    except EsenError:
        return None
    return answer if _is_small(answer) else None


def answer_of_rule(ensemble: Ensemble, answers: Mapping[str, Tree]) -> Tree | None:
    """What a combine rule of the user's makes of the members' answers here.

    None where it is one of ours, an answer is not known, it raises (the next run says so), or never answers the same.
    What it keeps between calls is afterwards what it was.
    """
    if ensemble.combine.function is None or set(answers) != set(ensemble.names):
        return None
    try:
        with ensemble.combine.kept():
            first, second = (combined_as_proof(ensemble, answers) for _ in range(2))
    except EsenError:
        return None
    return first if difference(second, first).error == 0 and _is_small(first) else None


def combined_as_proof(ensemble: Ensemble, answers: Mapping[str, Tree]) -> Tree:
    """One answer of all, with the random numbers of proofs."""
    with generators_kept():
        seed_generators(PROOF_SEED)
        return ensemble.combine(answers)


def _is_small(answer: Tree) -> bool:
    return sum(leaf.nbytes for leaf in flatten(answer)[0]) <= _MOST_ANSWER_BYTES


def _skeleton(submodel: SubModel, recipe: LiveRecipe) -> Recipe:  # noqa: ARG001  both attempts are called alike
    """as a tree of attributes"""  # noqa: D403, D415  read in the middle of a message
    from esen_lab.ensemble.skeleton import tensors_of
    from esen_lab.ensemble.weights import to_bytes

    if recipe.skeleton is None:
        raise UsageError(recipe.problem)
    return SkeletonRecipe(skeleton=recipe.skeleton, weights=to_bytes(tensors_of(recipe.build())))


def _program(submodel: SubModel, recipe: LiveRecipe) -> Recipe:
    """by torch.export"""  # noqa: D403, D415  read in the middle of a message
    from esen_lab.ensemble.program import save_program

    return ProgramRecipe(program=save_program(in_lane_mode(recipe.build()), submodel.example))


def _pickle(submodel: SubModel, recipe: LiveRecipe) -> Recipe:  # noqa: ARG001
    """as a pickle"""  # noqa: D403, D415  read in the middle of a message
    return FileRecipe(form="pickle", files={"pkl": recipe.snapshot})


def _run(module: nn.Module, submodel: SubModel) -> Tree:
    """Its answer on the example, called as lanes call it, with the random numbers of proofs."""
    with generators_kept(), session_kept(reached_by(module)), submodel.traits.called():
        seed_generators(seed_for(PROOF_SEED, submodel.name))
        return call_with(module, map_tensors(lambda t: t.clone(), submodel.example))
