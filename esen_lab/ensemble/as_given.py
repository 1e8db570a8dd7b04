"""What an input says besides the numbers that lanes are given: its class, gradients, strides, attributes, identity.

Lanes are given plain tensors. A network that asks for more would answer otherwise there, and is refused: when its
example says more, and at the first run whose input does.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from esen_lab.common.answers import OTHER_ORDER, difference
from esen_lab.common.tensors import is_laid_out, laid_out, taken_in
from esen_lab.common.trees import Tree, call_with, flatten, map_tensors, tree_spec, unflatten
from esen_lab.ensemble.as_it_was import reached_by, session_kept
from esen_lab.ensemble.chance import PROOF_SEED, generators_kept, seed_for, seed_generators
from esen_lab.ensemble.fingerprint import value_digest
from esen_lab.ensemble.origin import RAISED, is_tensor
from esen_lab.ensemble.proof import user_code
from esen_lab.ensemble.submodel import SubModel
from esen_lab.errors import EsenError, ModelError, UsageError

if TYPE_CHECKING:
    from typing import Any

    import torch
    from torch import nn


ASKED = ("network", "function")
"""The kinds of sub-models that can ask for more than numbers."""
_MOST_SEEN = 1_000
_PLAIN_CONTAINERS = (dict, list, tuple)


class SeenKinds:
    """Which kinds of inputs an ensemble was seen to answer to as to plain tensors; others are looked at once.

    May be used by one thread at a time.

    Args:
        around: Puts back what calls of networks in this process set for all of it.
    """

    def __init__(self, around: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext) -> None:
        self._around = around
        self._submodels: tuple[SubModel, ...] = ()
        self._seen: set[Hashable] = set()

    def check(self, submodels: tuple[SubModel, ...], x: Tree, *, due: bool = False) -> tuple[str, ...]:
        """Refuse an input of a kind that was not seen yet and to which a network answers otherwise.

        Args:
            submodels: The ensemble's.
            x: As it was given, or what cannot go in, which is left to whoever takes it in.
            due: Whether the answer may be due before networks have answered twice here: nobody is asked then.

        Returns:
            What a report says where nobody was asked.

        Raises:
            UsageError: See `check_as_given`.
        """
        odd = odd_in(x)
        if not odd:
            return ()
        if submodels is not self._submodels:
            self._submodels, self._seen = submodels, set()
        new = {key: kind for key, kind in odd.items() if key not in self._seen}
        if not new:
            return ()
        if due:
            return (
                f"The input is {min(new.values())}, and lanes are given plain tensors: whether a member answers "
                "otherwise to these is looked at in a call without a deadline, and was not yet.",
            )
        with generators_kept(), self._around():
            for submodel in submodels:
                if submodel.kind in ASKED:
                    _check_one(submodel, x)
        if len(self._seen) > _MOST_SEEN:
            self._seen.clear()
        self._seen |= new.keys()
        return ()


def _check_one(submodel: SubModel, x: Tree) -> None:
    try:
        check_as_given(submodel.name, submodel.build, x, "input")
    except UsageError as problem:
        rule = f"Sub-model {submodel.name!r}: {problem.rule}"
        raise UsageError(rule, given=problem.given, hint=problem.hint) from None


def odd_in(x: Tree) -> dict[Hashable, str]:
    """What tensors of an input are besides their numbers, for people; empty of plain ones, and of what cannot go in.

    Each by a key that is another one in another place, of another class, with other values of its attributes, or with
    its strides in another order. Containers inside an input are looked at, too.
    """
    if is_tensor(x):
        leaves = [x]
    elif isinstance(x, (tuple, list, dict)):
        leaves = [*(x.values() if isinstance(x, dict) else x)]
    else:
        return {}  # an array is its numbers
    if all(map(_is_plain, leaves)) and len(set(map(id, leaves))) == len(leaves):
        return {}  # the usual case, at each run
    try:
        leaves, _ = flatten(x, "the input", take=_as_tensor)
    except EsenError:
        return {}
    odd: dict[Hashable, str] = {kind: f"holding a {kind.__name__}" for kind in _other_containers(x)}
    odd |= {(place, *_told_apart(leaf)): kind for place, leaf in enumerate(leaves) if (kind := _kind_of(leaf))}
    places = {id(leaf): place for place, leaf in reversed(list(enumerate(leaves)))}
    if len(places) < len(leaves):
        odd[tuple(places[id(leaf)] for leaf in leaves)] = "the same tensor more than once"
    return odd


def _other_containers(x: Tree) -> Iterator[type]:
    """The classes of containers inside an input that lanes are given as plain dicts, lists or tuples."""
    for part in x.values() if isinstance(x, Mapping) else x if isinstance(x, (tuple, list)) else ():
        if isinstance(part, (Mapping, tuple, list)):
            if type(part) not in _PLAIN_CONTAINERS and not hasattr(part, "_fields"):
                yield type(part)
            yield from _other_containers(part)


def _told_apart(leaf: torch.Tensor) -> Iterator[Hashable]:
    yield from (type(leaf), leaf.requires_grad, leaf.is_leaf)
    strides = leaf.stride()
    order = sorted(range(len(strides)), key=strides.__getitem__)
    # Of strides themselves there are too many: which is the smallest, and whether that is 1, or 0.
    yield () if is_laid_out(leaf) else (*order, *(min(stride, 2) for stride in strides))
    yield value_digest(vars(leaf)) if vars(leaf) else ""


def check_as_given(name: str, build: Callable[[], nn.Module], given: Tree, what: str = "example") -> None:
    """Refuse a network that answers otherwise to an input as it was given than to the plain tensors in it.

    Only an input that requires gradients, is of a subclass or a Parameter, has attributes of its own, is there twice,
    or is neither contiguous nor laid out with channels innermost, is looked at.

    Raises:
        UsageError: It does. One that raises is left to whoever runs it with plain tensors.
    """
    odd = odd_in(given)
    if not odd:
        return
    leaves, structure = flatten(given, f"the {what}", take=_as_tensor)
    alike = {id(leaf): leaf for leaf in leaves}
    try:
        twins = {number: _twin_like(leaf) for number, leaf in alike.items()}
        if any(True for _ in _other_containers(given)):
            as_it_is = copy.deepcopy(given, {**twins})
        else:
            as_it_is = unflatten(structure, [twins[id(leaf)] for leaf in leaves])
        trees = [as_it_is, unflatten(structure, [_plain_twin(leaf) for leaf in leaves])]
        answers = [_answer_of(name, build(), tree, what) for tree in trees]
    except RAISED:  # also what a container of the user's raises where it is copied
        return
    found = difference(answers[0], answers[1], OTHER_ORDER)
    if not found.agrees:
        raise UsageError(
            "A sub-model answers alike to its input and to the plain tensors in it, which lanes are given",
            given=f"another output where the {what} is {min(odd.values())} ({found})",
            hint="Have forward ask for neither requires_grad, nor the class, the strides, attributes or the identity "
            "of its input, or give x.detach().contiguous() in plain dicts, lists and tuples.",
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
        once = own
        for dim, (size, stride) in enumerate(zip(own.shape, own.stride(), strict=True)):
            once = once.narrow(dim, 0, 1) if size > 1 and not stride else once
        with contextlib.suppress(RuntimeError):  # elements that share memory in another way
            plain = torch.empty_strided(once.shape, once.stride(), dtype=own.dtype, device="cpu").copy_(once)
            plain = plain.expand(own.shape)
    if type(leaf) is nn.Parameter:
        twin: torch.Tensor = nn.Parameter(plain, requires_grad=leaf.requires_grad)
    else:
        twin = plain.as_subclass(type(leaf)).requires_grad_(leaf.requires_grad)
        if not leaf.is_leaf:
            with torch.enable_grad():
                twin = twin.view_as(twin)  # which has a history too
    vars(twin).update(vars(leaf))
    return twin


def _answer_of(name: str, module: nn.Module, x: Tree, what: str) -> Tree:
    seed_generators(seed_for(PROOF_SEED, name))
    with session_kept(reached_by(module)):
        output = user_code(name, f"on its {what} as it was given", lambda: call_with(module, x))
        tree_spec(output, f"the output of {name!r}")
        return map_tensors(_plain_twin, output)
