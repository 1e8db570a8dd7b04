"""Every input of an ensemble is checked here: examples of `register`, batches of `run`, arrays of exported scripts.

What comes out are ordinary dense tensors in trees of tuples (named ones too), lists and dicts; what cannot go in is
refused here by one `UsageError`, before a lane hears of it. `tensors.py` says what becomes of each kind of tensor and
array.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from esen_lab.common.tensors import laid_out, sharing, taken_in
from esen_lab.common.trees import Structure, Tree, flatten, map_tensors, paths, unflatten
from esen_lab.errors import UsageError

if TYPE_CHECKING:
    import torch


def take_in(x: Tree, what: str = "the input") -> tuple[list[torch.Tensor], Structure]:
    """Part an input into its tensors, left to right, and its structure.

    Tensors share their memory with `x` where they can, and stay on their device.

    Args:
        x: A tensor, a NumPy array, or tuples, lists and dicts of them and of plain constants.
        what: What it is called in messages.

    Raises:
        UsageError: A part of it cannot go in, or there is no tensor in it; the message names the path to that part.
    """
    leaves, structure = flatten(x, what, take=taken_in)
    if not leaves:
        raise UsageError(
            f"{what[:1].upper()}{what[1:]} holds at least one tensor",
            given=type(x).__name__,
            hint="Give what the sub-models are called with"
            + (": a file is read first, such as by numpy.load." if isinstance(x, str) else "."),
        )
    return leaves, structure


def as_input(x: Tree, what: str = "the input") -> Tree:
    """The same as a tree; raises as `take_in` does."""
    leaves, structure = take_in(x, what)
    return unflatten(structure, leaves)


def check_apart(leaves: Sequence[torch.Tensor], structure: Structure, writer: str, what: str = "the input") -> None:
    """Refuse an input whose tensors share memory, for a sub-model that writes into it: lanes read copies apart.

    Args:
        leaves: What `take_in` gave.
        structure: Likewise.
        writer: The sub-model that changes its input in place.
        what: What the input is called in messages.

    Raises:
        UsageError: Two of them do; the message names them.
    """
    pair = sharing(leaves) if len(leaves) > 1 else None
    if pair is not None:
        first, second = (list(paths(structure, what))[number] for number in pair)
        raise UsageError(
            "Tensors of an input have memory of their own where a sub-model changes its input in place",
            given=f"{first} and {second} share memory, and {writer!r} writes into its input",
            hint="Give a copy of one of them: x.clone().",
        )


def own_example(example: Tree) -> Tree:
    """A copy of an example on the CPU, laid out as lanes are given it, shared with nobody; raises as `take_in` does.

    Raises:
        UsageError: Also where it is a dict whose keys are no names of arguments.
    """
    with ordinary_tensors():
        own = map_tensors(lambda tensor: laid_out(tensor.cpu()), as_input(example, "the example"))
    wrong = [key for key in own if not isinstance(key, str)] if isinstance(own, dict) else []
    if wrong:
        raise UsageError(
            "An example that is a dict has the names of arguments as keys",
            given=f"the key {wrong[0]!r}",
            hint="Give a dict that is one argument inside a tuple: (x,).",
        )
    return own


def ordinary_tensors() -> AbstractContextManager[object]:
    """Inside, tensors are made as outside of `torch.inference_mode`: whoever gets them may change them anywhere."""
    import torch

    return torch.inference_mode(mode=False)
