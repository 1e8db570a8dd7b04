"""What goes into a sub-model and comes out of it: tensors, or tuples, lists and dicts of them.

A *tree* is a tensor, a plain constant (None, bool, int, float, str) or a tuple, list or dict of trees. Flattening
parts it into its tensors and a hashable `Structure`, so that tensors can travel in shared memory while the
structure is sent once.

    structure  :=  ("tensor",)  |  ("const", value)
                |  ("tuple", children)  |  ("list", children)  |  ("dict", keys, children)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from esen_lab.errors import UsageError

if TYPE_CHECKING:
    import torch

Tree: TypeAlias = Any
Structure: TypeAlias = tuple[Any, ...]
_CONSTANTS = (type(None), bool, int, float, str)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """What one tensor looks like, without its values.

    Attributes:
        dtype: The name within torch, such as "float32".
        shape: Sizes, outermost first.
        channels_last: Whether a 4-d tensor is laid out with channels innermost; kernels choose by it.
    """

    dtype: str
    shape: tuple[int, ...]
    channels_last: bool = False

    def __str__(self) -> str:
        """Such as "float32[1, 3, 224, 224]"."""
        return f"{self.dtype}{list(self.shape)}" + (" channels_last" if self.channels_last else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeSpec:
    """What a tree looks like: its structure and its tensors' specs, in the order of flattening. Hashable."""

    structure: Structure
    tensors: tuple[TensorSpec, ...]

    def __str__(self) -> str:
        """Such as "{'ids': int64[1, 16], 'mask': bool[1, 16]}"."""
        return _describe(self.structure, iter([str(t) for t in self.tensors]))


def flatten(tree: Tree, what: str = "the input") -> tuple[list[torch.Tensor], Structure]:
    """Part `tree` into its tensors, left to right, and its structure.

    Named tuples count as tuples, mappings (a Hugging Face `ModelOutput` included) as dicts.

    Raises:
        UsageError: A leaf is something else; the message names the path to it and its type.
    """
    leaves: list[torch.Tensor] = []
    structure = _flatten(tree, leaves, what)
    return leaves, structure


def _flatten(tree: Tree, leaves: list[torch.Tensor], path: str) -> Structure:
    import torch

    if isinstance(tree, torch.Tensor):
        leaves.append(tree)
        return ("tensor",)
    if isinstance(tree, _CONSTANTS):
        return ("const", tree)
    if isinstance(tree, Mapping):
        return (
            "dict",
            tuple(tree),
            tuple(_flatten(value, leaves, f"{path}[{key!r}]") for key, value in tree.items()),
        )
    if isinstance(tree, (tuple, list)):
        children = tuple(_flatten(child, leaves, f"{path}[{i}]") for i, child in enumerate(tree))
        return ("list" if isinstance(tree, list) else "tuple", children)
    raise UsageError(
        "Inputs and outputs are tensors, or tuples, lists and dicts of tensors and plain constants",
        given=f"{path} is of type {type(tree).__module__}.{type(tree).__qualname__}",
        hint="Pass or return only those (for a Hugging Face model: use_cache=False).",
    )


def unflatten(structure: Structure, leaves: Sequence[Any]) -> Tree:
    """Put `leaves` (tensors, or anything in their stead) back into `structure`: the inverse of `flatten`."""
    remaining = iter(leaves)
    return _unflatten(structure, remaining)


def _unflatten(structure: Structure, leaves: Iterator[Any]) -> Tree:
    kind = structure[0]
    if kind == "tensor":
        return next(leaves)
    if kind == "const":
        return structure[1]
    if kind == "dict":
        return {key: _unflatten(child, leaves) for key, child in zip(structure[1], structure[2], strict=True)}
    children = [_unflatten(child, leaves) for child in structure[1]]
    return children if kind == "list" else tuple(children)


def _describe(structure: Structure, tensors: Iterator[str]) -> str:
    kind = structure[0]
    if kind == "tensor":
        return next(tensors)
    if kind == "const":
        return repr(structure[1])
    if kind == "dict":
        pairs = zip(structure[1], structure[2], strict=True)
        return "{" + ", ".join(f"{key!r}: {_describe(child, tensors)}" for key, child in pairs) + "}"
    inner = ", ".join(_describe(child, tensors) for child in structure[1])
    return f"[{inner}]" if kind == "list" else f"({inner})"


def tensor_spec(tensor: torch.Tensor) -> TensorSpec:
    """The spec of one tensor."""
    import torch

    channels_last = (
        tensor.dim() == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)
    )
    return TensorSpec(
        dtype=str(tensor.dtype).removeprefix("torch."), shape=tuple(tensor.shape), channels_last=channels_last
    )


def tree_spec(tree: Tree, what: str = "the input") -> TreeSpec:
    """The spec of a whole tree; raises as `flatten` does."""
    leaves, structure = flatten(tree, what)
    return TreeSpec(structure=structure, tensors=tuple(tensor_spec(leaf) for leaf in leaves))


def map_tensors(function: Callable[[torch.Tensor], Any], tree: Tree) -> Tree:
    """A tree of the same structure with `function` applied to each tensor."""
    leaves, structure = flatten(tree)
    return unflatten(structure, [function(leaf) for leaf in leaves])


def call_with(function: Callable[..., Any], tree: Tree) -> Any:
    """Call `function` the way modules are called: a dict by keyword, a tuple or list by position, else alone."""
    if isinstance(tree, Mapping):
        return function(**tree)
    if isinstance(tree, (tuple, list)):
        return function(*tree)
    return function(tree)


def select(tree: Tree, keys: Sequence[str] | None) -> Tree:
    """The part of an ensemble's input that one sub-model takes.

    Args:
        tree: The input of the whole ensemble.
        keys: The keyword arguments of the sub-model's example, or None when its example is not a dict.

    Returns:
        A dict with `keys` only, or `tree` as it is where there is nothing to choose.

    Raises:
        UsageError: A key that the sub-model takes is missing.
    """
    if keys is None or not isinstance(tree, Mapping):
        return tree
    missing = [key for key in keys if key not in tree]
    if missing:
        raise UsageError(
            f"The input holds every argument that the sub-model's example has: {', '.join(keys)}",
            given=f"an input without {', '.join(missing)}",
        )
    return {key: tree[key] for key in keys}
