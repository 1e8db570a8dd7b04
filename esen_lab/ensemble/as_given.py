"""What an input says besides the numbers that lanes are given: its class, gradients, strides, attributes, identity.

Lanes are given plain tensors. A network that asks for more would answer otherwise there, and is refused: when its
example says more, and at the first run whose input does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from esen_lab.common.answers import OTHER_ORDER, difference
from esen_lab.common.tensors import is_laid_out, laid_out, taken_in
from esen_lab.common.trees import Tree, call_with, flatten, map_tensors, tree_spec, unflatten
from esen_lab.ensemble.chance import PROOF_SEED, generators_kept, seed_for, seed_generators
from esen_lab.ensemble.origin import is_tensor
from esen_lab.ensemble.proof import user_code
from esen_lab.ensemble.submodel import SubModel
from esen_lab.errors import EsenError, ModelError, UsageError

if TYPE_CHECKING:
    from typing import Any

    import torch
    from torch import nn


class SeenKinds:
    """Which kinds of inputs an ensemble was seen to answer to as to plain tensors; others are looked at once.

    May be used by one thread at a time.
    """

    def __init__(self) -> None:
        self._submodels: tuple[SubModel, ...] = ()
        self._kinds: set[str] = set()

    def check(self, submodels: tuple[SubModel, ...], x: Tree) -> None:
        """Refuse an input of a kind that was not seen yet and to which a network answers otherwise.

        Args:
            submodels: The ensemble's.
            x: As it was given, or what cannot go in, which is left to whoever takes it in.

        Raises:
            UsageError: See `check_as_given`.
        """
        kinds = kinds_of(x)
        if not kinds:
            return
        if submodels is not self._submodels:
            self._submodels, self._kinds = submodels, set()
        if kinds <= self._kinds:
            return
        with generators_kept():
            for submodel in submodels:
                if submodel.kind == "network":
                    _check_one(submodel, x)
        self._kinds |= kinds


def _check_one(submodel: SubModel, x: Tree) -> None:
    try:
        check_as_given(submodel.name, submodel.build, x, "input")
    except UsageError as problem:
        rule = f"Sub-model {submodel.name!r}: {problem.rule}"
        raise UsageError(rule, given=problem.given, hint=problem.hint) from None


def kinds_of(x: Tree) -> set[str]:
    """What tensors of an input are besides their numbers, for people; empty of plain ones, and of what cannot go in."""
    if is_tensor(x):
        leaves = [x]
    elif isinstance(x, (tuple, list, dict)):
        leaves = [*(x.values() if isinstance(x, dict) else x)]
    else:
        return set()  # an array is its numbers
    if all(map(_is_plain, leaves)) and len(set(map(id, leaves))) == len(leaves):
        return set()  # the usual case, at each run
    try:
        leaves, _ = flatten(x, "the input", take=_as_tensor)
    except EsenError:
        return set()
    found = {kind for leaf in leaves if (kind := _kind_of(leaf))}
    if len({id(leaf) for leaf in leaves}) < len(leaves):
        found.add("the same tensor more than once")
    return found


def check_as_given(name: str, build: Callable[[], nn.Module], given: Tree, what: str = "example") -> None:
    """Refuse a network that answers otherwise to an input as it was given than to the plain tensors in it.

    Only an input that requires gradients, is of a subclass or a Parameter, has attributes of its own, is there twice,
    or is neither contiguous nor laid out with channels innermost, is looked at.

    Raises:
        UsageError: It does. One that raises is left to whoever runs it with plain tensors.
    """
    odd = kinds_of(given)
    if not odd:
        return
    leaves, structure = flatten(given, f"the {what}", take=_as_tensor)
    alike = {id(leaf): leaf for leaf in leaves}
    try:
        twins = {number: _twin_like(leaf) for number, leaf in alike.items()}
        copies = [twins[id(leaf)] for leaf in leaves], [_plain_twin(leaf) for leaf in leaves]
        trees = [unflatten(structure, own) for own in copies]
        answers = [_answer_of(name, build(), tree, what) for tree in trees]
    except EsenError:
        return
    found = difference(answers[0], answers[1], OTHER_ORDER)
    if not found.agrees:
        raise UsageError(
            "A sub-model answers alike to its input and to the plain tensors in it, which lanes are given",
            given=f"another output where the {what} is {min(odd)} ({found})",
            hint="Have forward ask for neither requires_grad, nor the class, the strides, attributes or the identity "
            "of its input, or give x.detach().contiguous().",
        )


def _is_plain(leaf: Any) -> bool:
    import torch

    return (
        type(leaf) is torch.Tensor
        and not leaf.requires_grad
        and leaf.layout is torch.strided
        and leaf.is_contiguous()
        and not leaf.__dict__
    )


def _kind_of(leaf: torch.Tensor) -> str:
    """What a tensor is besides the numbers that lanes are given, for people; "" for a plain one."""
    import torch

    if vars(leaf):
        return f"one with attributes of its own ({', '.join(vars(leaf))})"
    if type(leaf) is not torch.Tensor:
        return f"a {type(leaf).__name__}"
    if leaf.requires_grad:
        return "one that requires a gradient"
    return "" if is_laid_out(leaf) else "not contiguous"


def of_its_layout(problem: ModelError, given: Tree) -> ModelError:
    """The error of a network that raised on its example, which says where that had been laid out otherwise."""
    leaves, _ = flatten(given, "the example", take=_as_tensor)
    if not all(map(is_laid_out, leaves)):
        problem.add_note(
            "Lanes are given inputs that are contiguous, or have channels innermost. This example was not: "
            "x.contiguous() is what was run."
        )
    return problem


def _as_tensor(leaf: Any, path: str) -> torch.Tensor | None:
    plain = taken_in(leaf, path)  # raises where it cannot go in
    return leaf if is_tensor(leaf) else plain


def _plain_twin(leaf: torch.Tensor) -> torch.Tensor:
    import torch

    return laid_out(leaf.as_subclass(torch.Tensor).detach().cpu())


def _twin_like(leaf: torch.Tensor) -> torch.Tensor:
    """A copy of the same class and strides that requires a gradient where this one does."""
    import torch
    from torch import nn

    own = leaf.as_subclass(torch.Tensor).detach().cpu()
    plain = own.clone()
    if plain.stride() != own.stride() and not is_laid_out(own):  # of a slice, which a clone lays out anew
        with contextlib.suppress(RuntimeError):  # elements that share memory
            plain = torch.empty_strided(own.shape, own.stride(), dtype=own.dtype, device="cpu").copy_(own)
    if type(leaf) is nn.Parameter:
        twin: torch.Tensor = nn.Parameter(plain, requires_grad=leaf.requires_grad)
    else:
        twin = plain.as_subclass(type(leaf)).requires_grad_(leaf.requires_grad)
    vars(twin).update(vars(leaf))
    return twin


def _answer_of(name: str, module: nn.Module, x: Tree, what: str) -> Tree:
    seed_generators(seed_for(PROOF_SEED, name))
    output = user_code(name, f"on its {what} as it was given", lambda: call_with(module, x))
    tree_spec(output, f"the output of {name!r}")
    return map_tensors(_plain_twin, output)
