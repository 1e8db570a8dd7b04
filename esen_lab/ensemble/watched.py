"""What there is to look at in a live network: containers, tensors, arrays and objects, with what each of them holds.

`watch.py` compares it with what is there later.
"""

from __future__ import annotations

import collections
import enum
import itertools
import pickle
import types
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from esen_lab.ensemble.origin import is_installed, is_module, is_tensor
from esen_lab.ensemble.reach import NOT_ATTRIBUTES

if TYPE_CHECKING:
    import torch

TABLES = ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks")
"""The tables of a module that count; its other ones are torch's own book-keeping."""
DEEPEST = 8
"""How far containers in containers are looked into."""
_MOST_ITEMS = 20_000
_MOST_HOLDERS = 20_000
_LARGEST_OPAQUE = 1 << 16
_SEQUENCES = (list, collections.deque)
_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes, range, slice, type(...)})
_NAMED = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, enum.Enum)
_BARE_SIZE = type("_Bare", (), {}).__basicsize__


class Holder(NamedTuple):
    """Something that holds others and can be changed in place, what it held, and what it is called."""

    now: Any
    was: Any
    name: str


class Slots:
    """The values in an object's slots, as a row; one that is not set is None."""

    def __init__(self, value: Any) -> None:
        self._value = value
        self._names = slots_of(type(value))

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[Any]:
        return (getattr(self._value, name, None) for name in self._names)


class Watched:
    """What is looked at, collected from the attributes of parts and from what their code reads.

    Attributes:
        holders: Containers, and the attributes of objects.
        tensors: By identity.
        arrays: Of NumPy, where they are one row of plain numbers.
        opaque: (object, name): compared by what they would be pickled as.

    Args:
        whole: Whether objects of other kinds are looked into however large they are.
    """

    def __init__(self, *, whole: bool) -> None:
        self.holders: list[Holder] = []
        self.tensors: dict[int, torch.Tensor] = {}
        self.arrays: list[Any] = []
        self.opaque: list[tuple[Any, str]] = []
        self._whole = whole
        self._items = 0
        self._seen: set[int] = set()

    def part(self, own: dict[str, Any]) -> None:
        """One part's attributes."""
        for key, value in own.items():
            if key in TABLES:
                self.holders.append(Holder(value, dict(value), key))
                if key in ("_parameters", "_buffers"):
                    for tensor in value.values():
                        self.tensor(tensor)
                elif key != "_modules":
                    for hook in value.values():
                        self.add(hook, key, 1)
            elif key not in NOT_ATTRIBUTES:
                self.add(value, key, DEEPEST)

    def tensor(self, value: Any) -> None:
        """One tensor, or None."""
        if value is not None:
            self.tensors.setdefault(id(value), value)

    def add(self, value: Any, name: str, depth: int) -> None:
        """One value, and what it holds."""
        kind = type(value)
        if kind in _PLAIN or id(value) in self._seen or isinstance(value, _NAMED):
            return
        self._seen.add(id(value))
        if is_tensor(value):
            self.tensor(value)
        elif _is_readable_array(value):
            self.arrays.append(value)
        elif isinstance(value, (*_SEQUENCES, set, dict)):
            self._container(value, name, depth)
        elif isinstance(value, (tuple, frozenset)):
            for item in itertools.islice(value, _MOST_ITEMS):
                self.add(item, name, depth - 1)
        elif is_module(value):
            self._network(value, name)
        else:
            self._object(value, name, depth)

    def _container(self, value: Any, name: str, depth: int) -> None:
        self._items += len(value)
        if depth <= 0 or self._items > _MOST_ITEMS * 5 or len(self.holders) > _MOST_HOLDERS:
            self.opaque.append((value, name))
            return
        self.holders.append(Holder(value, _copied(value), name))
        for item in list(value.values() if isinstance(value, dict) else value):
            self.add(item, name, depth - 1)
        own = getattr(value, "__dict__", None)  # of a class of the user's
        if own:
            self.add(own, name, depth - 1)

    def _network(self, value: Any, name: str) -> None:
        """A network that is no part: kept in a list, or global."""
        for part in value.modules():
            if id(vars(part)) not in self._seen:
                self._seen.add(id(vars(part)))
                own = {key: held for key, held in vars(part).items() if key != "training"}
                self.holders.append(Holder(vars(part), dict(vars(part)), name))
                self.part(own)

    def _object(self, value: Any, name: str, depth: int) -> None:
        own = getattr(value, "__dict__", None)
        if isinstance(own, dict) and depth > 0:
            self.add(own, name, depth - 1)
        slots = Slots(value)
        if len(slots) and depth > 0 and not is_installed(type(value)):  # a package's own may be filled when asked
            self.holders.append(Holder(slots, list(slots), name))
            for item in slots:
                self.add(item, name, depth - 1)
        if type(value).__module__.startswith("torch._C") or (isinstance(own, dict) and _is_bare(type(value))):
            return
        data = pickled(value)
        if data is not None and (self._whole or len(data) <= _LARGEST_OPAQUE):
            self.opaque.append((value, name))


def slots_of(kind: type) -> list[str]:
    """The names of all slots of a class, those of private ones as they are reached from outside."""
    found = []
    for base in kind.__mro__:
        own = vars(base).get("__slots__", ())
        for name in [own] if isinstance(own, str) else own:
            private = name.startswith("__") and not name.endswith("__")
            found.append(f"_{base.__name__.lstrip('_')}{name}" if private else name)
    return [name for name in found if name not in ("__dict__", "__weakref__")]


def _is_bare(kind: type) -> bool:
    """Whether all that its objects hold is in their attributes."""
    reduce: Any = kind.__reduce_ex__
    # Slots, and what a class written in C holds (a stream its bytes), make an object larger than its attributes do.
    return reduce is object.__reduce_ex__ and kind.__basicsize__ <= _BARE_SIZE and not kind.__itemsize__


def _copied(value: Any) -> Any:
    """A container with the same items, to keep them alive: what is gone could leave its identity to another."""
    if isinstance(value, dict):
        return dict(value)
    return set(value) if isinstance(value, set) else list(value)


def _is_readable_array(value: Any) -> bool:
    kind = type(value)
    if kind.__module__ != "numpy" or kind.__name__ != "ndarray":
        return False
    return bool(value.flags.c_contiguous and not value.dtype.hasobject and value.size)


def pickled(value: Any) -> bytes | None:
    """An object of any kind as bytes, such as a generator with its state; None where that cannot be had."""
    get_state = getattr(value, "get_state", None)
    try:
        if get_state is not None and type(value).__module__.startswith("torch"):
            return bytes(get_state().numpy().tobytes())
        data = pickle.dumps(value)
    except Exception:
        return None
    return data
