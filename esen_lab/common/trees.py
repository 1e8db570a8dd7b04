"""What goes into a sub-model and comes out of it: tensors, or tuples, lists and dicts of them.

A *tree* is a tensor, a plain constant (None, bool, int, float, str) or a tuple, list or dict of trees. Flattening
parts it into its tensors and a hashable `Structure`, so that tensors can travel in shared memory while the
structure is sent once.

    structure  :=  ("tensor",)  |  ("const", value)  |  ("const", value, exact)
                |  ("tuple", children)  |  ("list", children)  |  ("dict", keys, children)
                |  ("named", children, "module:Class", fields)
    exact      :=  what tells apart the constants that Python calls equal: 1, 1.0 and True; 0.0 and -0.0

Named tuples stay what they are: their class is looked up by its name wherever one is made again, and where it is not
to be had (a class of the notebook, in another process) one of the same name and fields stands for it.

Which tensors can be part of a tree is for `tensors.py` to say.
"""

from __future__ import annotations

import collections
import functools
import itertools
import keyword
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from esen_lab.common.tensors import MEMORY_FORMATS, check_tensor, is_channels_last
from esen_lab.errors import UsageError

if TYPE_CHECKING:
    import torch

Tree: TypeAlias = Any
Structure: TypeAlias = tuple[Any, ...]
Take: TypeAlias = "Callable[[Any, str], torch.Tensor | None]"
"""Makes a tensor of a leaf at a path, or says None where it is none."""

MOST_LEVELS = 50
MOST_PARTS = 100_000
_LONGEST_PATH = 120  # characters of a path in a message
_STANDS_IN = "_esen_lab_stands_in"  # has a class that stands for one of the notebook, in another process
_WIDEST_INT = 64  # bits: longer ones are not written to every file and table


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """What one tensor looks like, without its values.

    Attributes:
        dtype: The name within torch, such as "float32".
        shape: Sizes, outermost first.
        channels_last: Whether a tensor of 4 or 5 dimensions is laid out with channels innermost; kernels choose by it.
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


def flatten(tree: Tree, what: str = "the input", take: Take | None = None) -> tuple[list[torch.Tensor], Structure]:
    """Part `tree` into its tensors, left to right, and its structure.

    Mappings (a Hugging Face `ModelOutput` included) as dicts.

    Args:
        tree: The tree.
        what: What it is called in messages; the path to a leaf begins with it.
        take: Makes tensors of other leaves, such as arrays; None: only tensors are taken, as they are.

    Raises:
        UsageError: A leaf or a key is something else, or the tree is too deep or too wide; the message names the path
            to it and its type.
    """
    import torch

    if type(tree) is torch.Tensor and take is None:  # what nearly every sub-model returns
        return [tree], ("tensor",)
    walk = _Walk(take)
    return walk.leaves, walk.structure_of(tree, what, 0)


class _Walk:
    """One flattening."""

    def __init__(self, take: Take | None) -> None:
        self.leaves: list[torch.Tensor] = []
        self._take = take
        self._parts = 0

    def structure_of(self, tree: Tree, path: str, level: int) -> Structure:
        import torch

        self._parts += 1
        # A list that holds itself has no end, and one that holds another many times may have too many parts.
        if level > MOST_LEVELS or self._parts > MOST_PARTS:
            raise UsageError(
                f"Inputs and outputs have at most {MOST_LEVELS} levels and {MOST_PARTS:,} parts",
                given=f"{_shortened(path)} is {'deeper, or holds itself' if level > MOST_LEVELS else 'beyond them'}",
                hint="Put the numbers of deep or long lists into a tensor.",
            )
        taken = self._take(tree, path) if self._take is not None else None
        if taken is None and issubclass(type(tree), torch.Tensor):  # not isinstance: a mock of a tensor passes for one
            taken = tree
        if taken is not None:
            self.leaves.append(taken)
            return ("tensor",)
        if issubclass(type(tree), Mapping):
            return self._of_mapping(tree, path, level)
        if isinstance(tree, (tuple, list)):
            children = tuple(self.structure_of(part, f"{path}[{i}]", level + 1) for i, part in enumerate(tree))
            if type(tree) is not tuple and (fields := _fields_of(type(tree))) is not None:
                place = f"{type(tree).__module__}:{type(tree).__qualname__}"
                if self._take is not None:
                    _check_class(type(tree), place, fields, path)
                return ("named", children, place, fields)
            return ("list" if isinstance(tree, list) else "tuple", children)
        return _constant(tree, path)

    def _of_mapping(self, tree: Mapping[Any, Tree], path: str, level: int) -> Structure:
        try:
            items = list(itertools.islice(tree.items(), MOST_PARTS + 1))  # it may have no end
        except Exception as problem:  # a class of the user's own
            raise UsageError(
                "A mapping among inputs and outputs gives its items",
                given=f"{_shortened(path)}, a {_type_name(tree)}, raised {type(problem).__name__}: {problem}",
                hint="Pass dict(...) of it.",
            ) from problem
        keys = tuple(_key(key, path) for key, _ in items)
        children = tuple(self.structure_of(part, f"{path}[{key!r}]", level + 1) for key, part in items)
        return ("dict", keys, children)


def _constant(value: Any, path: str) -> Structure:
    kind = type(value)
    if _is_numpy(kind, "generic"):  # a scalar: torch computes with it as with Python's
        value = value.item()
        kind = type(value)
    if value is None or kind is str or (kind is int and value.bit_length() <= _WIDEST_INT):
        return ("const", value)
    if kind is bool:
        return ("const", value, "bool")
    if kind is float:
        return ("const", math.nan if math.isnan(value) else value, value.hex())
    given = "an int of more than 64 bits" if kind is int else f"of type {_type_name(value)}"
    raise UsageError(
        "Inputs and outputs are tensors, or tuples, lists and dicts of tensors and plain constants",
        given=f"{_shortened(path)} is {given}",
        hint=_as_numbers(kind) or "Pass or return only those (for a Hugging Face model: use_cache=False).",
    )


def _as_numbers(kind: type) -> str:
    """How a table or an array of another library becomes one that is taken; "" for what is none."""
    if _is_numpy(kind, "ndarray"):
        return "Make a tensor of it: torch.from_numpy(y)."
    if hasattr(kind, "to_numpy"):
        return "Make an array of its numbers: x.to_numpy('float32')."
    if hasattr(kind, "toarray"):
        return "Make a dense array of it: x.toarray()."
    is_array = hasattr(kind, "__array__") or hasattr(kind, "__array_interface__")
    return "Make an array of it: numpy.asarray(x)." if is_array else ""


def _is_numpy(kind: type, name: str) -> bool:
    """Whether a class is one of NumPy's, without loading that."""
    return any(base.__module__ == "numpy" and base.__name__ == name for base in kind.__mro__)


def _key(key: Any, path: str) -> Any:
    """A key as it is kept: a str, an int, or a tuple of them."""
    if isinstance(key, str):
        return str.__str__(key)
    if type(key) is int and key.bit_length() <= _WIDEST_INT:
        return key
    if type(key) is tuple:
        return tuple(_key(part, path) for part in key)
    raise UsageError(
        "The keys of dicts among inputs and outputs are texts, whole numbers, or tuples of them",
        given=f"a key of type {_type_name(key)} in {_shortened(path)}",
        hint="Name its parts with texts.",
    )


def _type_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _shortened(path: str) -> str:
    return path if len(path) <= _LONGEST_PATH else f"{path[:_LONGEST_PATH]}..."


def paths(structure: Structure, what: str) -> Iterator[str]:
    """For each tensor of a structure, in the order of flattening, the path to it, such as "the input['image'][0]"."""
    kind = structure[0]
    if kind == "tensor":
        yield what
    elif kind == "dict":
        for key, child in zip(structure[1], structure[2], strict=True):
            yield from paths(child, f"{what}[{key!r}]")
    elif kind != "const":
        for i, child in enumerate(structure[1]):
            yield from paths(child, f"{what}[{i}]")


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
    if kind == "named":
        return _named(children, structure[2], structure[3])
    return children if kind == "list" else tuple(children)


def _fields_of(kind: type) -> tuple[str, ...] | None:
    """The names of a named tuple's parts, also of torch's own (`torch.return_types`); None for another class."""
    if not issubclass(kind, tuple):
        return None
    told: Any = getattr(kind, "__match_args__" if hasattr(kind, "n_sequence_fields") else "_fields", None)
    return told if type(told) is tuple and all(type(name) is str for name in told) else None


def _class_at(place: str, fields: tuple[str, ...]) -> type[tuple[Any, ...]] | None:
    """The named tuple's class at a place, such as "module:Class", if it is there and has these fields."""
    module, _, name = place.partition(":")
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) and _fields_of(found) == fields else None


def like_tuple(tree: Any, children: list[Any]) -> Any:
    """A list or tuple of these parts, of the kind that `tree` is: the same named tuple where that is one."""
    kind = type(tree)
    if isinstance(tree, list):
        return children
    fields = None if kind is tuple else _fields_of(kind)
    return tuple(children) if fields is None else _of_kind(kind, children)


def _of_kind(kind: Any, children: list[Any]) -> tuple[Any, ...]:
    """A named tuple. No code of the user's runs: what is made may come from a worker. Torch's own are made by C."""
    made: tuple[Any, ...] = kind(children) if hasattr(kind, "n_sequence_fields") else tuple.__new__(kind, children)
    return made


def _named(children: list[Any], place: str, fields: tuple[str, ...]) -> tuple[Any, ...]:
    kind = _class_at(place, fields) or _stand_in(place, fields)
    return _of_kind(kind, children)


@functools.cache
def _stand_in(place: str, fields: tuple[str, ...]) -> type[tuple[Any, ...]]:
    """A class of the same name, place and fields."""
    module, _, path = place.partition(":")
    name = path.rpartition(".")[2]
    usable = name.isidentifier() and not keyword.iskeyword(name)
    factory: Any = collections.namedtuple  # mypy wants the names as they are written
    made = factory(name if usable else "NamedTuple", fields, rename=True)
    made.__module__, made.__qualname__ = module, path
    setattr(made, _STANDS_IN, True)
    return made  # type: ignore[no-any-return]


def reduced_named(value: tuple[Any, ...]) -> Any:
    """How `pickle` makes a named tuple of the notebook again in a process that has other names; else NotImplemented."""
    kind = type(value)
    fields = _fields_of(kind) if kind.__module__ == "__main__" else None
    return NotImplemented if fields is None else (_named, (list(value), f"__main__:{kind.__qualname__}", fields))


def named_places(structure: Structure) -> set[str]:
    """The classes of the named tuples in a structure, as "module:Class"."""
    kind = structure[0]
    if kind in ("tensor", "const"):
        return set()
    found: set[str] = set().union(*map(named_places, structure[2 if kind == "dict" else 1]))
    return found | {structure[2]} if kind == "named" else found


def check_named(tree: Tree, what: str) -> None:
    """Refuse named tuples that would come back as another class, as `flatten` does where it takes something in.

    Raises:
        UsageError: As `flatten`; or a class is not where its name says, as one that a function has made.
    """
    flatten(tree, what, take=lambda leaf, path: None)  # noqa: ARG005  takes nothing more than tensors


def _check_class(kind: type, place: str, fields: tuple[str, ...], path: str) -> None:
    """Whether whoever gets a named tuple finds its class: they may ask for more of it than its parts."""
    lost = place.partition(":")[0] in sys.modules and _class_at(place, fields) is None
    if "<locals>" in place or (lost and not hasattr(kind, _STANDS_IN)):
        raise UsageError(
            "A named tuple among inputs and outputs is of a class that its module or notebook has by its name",
            given=f"{_shortened(path)} is a {place.replace(':', '.')}",
            hint="Define the class at the top of a cell or module, under the name that it is given, or pass a plain "
            "tuple: tuple(x).",
        )


def _describe(structure: Structure, tensors: Iterator[str]) -> str:
    kind = structure[0]
    if kind == "tensor":
        return next(tensors)
    if kind == "const":
        return repr(structure[1])
    if kind == "dict":
        pairs = zip(structure[1], structure[2], strict=True)
        return "{" + ", ".join(f"{key!r}: {_describe(child, tensors)}" for key, child in pairs) + "}"
    if kind == "named":
        pairs = zip(structure[3], structure[1], strict=True)
        inner = ", ".join(f"{field}={_describe(child, tensors)}" for field, child in pairs)
        return f"{structure[2].rpartition(':')[2]}({inner})"
    inner = ", ".join(_describe(child, tensors) for child in structure[1])
    return f"[{inner}]" if kind == "list" else f"({inner})"


def tensor_spec(tensor: torch.Tensor, what: str = "the tensor") -> TensorSpec:
    """The spec of one tensor.

    Raises:
        UsageError: It is not one that lanes can exchange (see `tensors.check_tensor`); the message calls it `what`.
    """
    check_tensor(tensor, what)
    return TensorSpec(
        dtype=str(tensor.dtype).removeprefix("torch."),
        shape=tuple(tensor.shape),
        channels_last=tensor.dim() in MEMORY_FORMATS and is_channels_last(tensor),
    )


def look(tensor: torch.Tensor) -> str:
    """Any tensor for people, also one on the meta device."""
    return str(TensorSpec(dtype=str(tensor.dtype).removeprefix("torch."), shape=tuple(tensor.shape)))


def spec_of_leaves(leaves: Sequence[torch.Tensor], structure: Structure, what: str) -> TreeSpec:
    """The spec of a flattened tree; raises as `tensor_spec` does, naming the path to the tensor."""
    specs = [tensor_spec(leaf, path) for leaf, path in zip(leaves, paths(structure, what), strict=True)]
    return TreeSpec(structure=structure, tensors=tuple(specs))


def tree_spec(tree: Tree, what: str = "the input") -> TreeSpec:
    """The spec of a whole tree; raises as `flatten` and `tensor_spec` do."""
    leaves, structure = flatten(tree, what)
    return spec_of_leaves(leaves, structure, what)


def specs_by_path(spec: TreeSpec, what: str) -> dict[str, TensorSpec]:
    """What each tensor looks like, by the path to it; the paths begin with `what`."""
    return dict(zip(paths(spec.structure, what), spec.tensors, strict=True))


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
