"""What there is to look at in a live network: containers, tensors, arrays and objects, with what each of them holds.

`watch.py` compares it with what is there later.
"""

from __future__ import annotations

import collections
import contextvars
import enum
import functools
import itertools
import logging
import types
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from esen_lab.ensemble.origin import (
    RAISED,
    asked,
    held_in,
    is_a,
    is_installed,
    is_module,
    is_operator,
    is_tensor,
    kernels_of,
)
from esen_lab.ensemble.reach import NOT_ATTRIBUTES
from esen_lab.ensemble.spans import (
    LARGEST_OPAQUE,
    Piece,
    buffer_picture,
    buffer_pieces,
    in_band,
    is_array,
    is_buffer,
    pickled,
    pickled_pieces,
    pickled_sum,
)

if TYPE_CHECKING:
    import torch

TABLES = ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks")
"""The tables of a module that count; its other ones are torch's own book-keeping."""
_TOLD_TO_HOOKS = ("_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs", "_forward_hooks_always_called")
DEEPEST = 16
"""How far containers in containers are looked into."""
_DEEPEST_SETTING, _LARGEST_SETTING = 3, 100
_MOST_ITEMS = 20_000
_MOST_HOLDERS = 20_000
_SEQUENCES = (list, collections.deque)
PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes, range, slice, type(...)})
"""Classes whose objects cannot be changed, and hold nothing that can."""
_NAMED = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, enum.Enum)
_AROUND = (functools.partial, types.MethodType, types.MappingProxyType, contextvars.ContextVar, logging.Logger)
_DESCRIPTORS = (staticmethod, classmethod, property, functools.cached_property, types.MemberDescriptorType)
_BARE_SIZE = type("_Bare", (), {}).__basicsize__


class Holder(NamedTuple):
    """Something that holds others and can be changed in place, what it held, and what it is called."""

    now: Any
    was: Any
    name: str


class Opaque(NamedTuple):
    """An object that is compared by a picture of it, how the picture is made, and what it is called."""

    thing: Any
    picture: Callable[[Any], Any]
    name: str


class LiveRow:
    """What an object holds besides its attributes, as a row that is read anew at every look."""

    def __init__(self, read: Callable[[], Collection[Any]]) -> None:
        self._read = read

    def __len__(self) -> int:
        return len(self._read())

    def __iter__(self) -> Iterator[Any]:
        return iter(self._read())


class Watched:
    """What is looked at, collected from the attributes of parts and from what their code reads.

    Attributes:
        holders: Containers, the attributes of objects, and what else objects hold.
        tensors: By identity.
        arrays: Of NumPy, of plain numbers or times.
        objects: Those of classes of the user's, which may be given another class.
        opaque: What is compared by a picture.
        pieces: Of what is large in these.
        sums: The same of what is too large to be looked at but when all is.
        unseen: What the latter are called.
        left_out: What was, by `but`: held, or another thing could have its identity.

    Args:
        whole: Whether objects of other kinds are looked into however large they are.
        but: The identities of what is not looked at.
        gradients: Whether those of tensors are looked at.
    """

    def __init__(self, *, whole: bool, but: Collection[Any] = (), gradients: bool = False) -> None:
        self.holders: list[Holder] = []
        self.tensors: dict[int, torch.Tensor] = {}
        self.arrays: list[Any] = []
        self.objects: list[Any] = []
        self.opaque: list[Opaque] = []
        self.pieces: list[Piece] = []
        self.sums: list[Piece] = []
        self.unseen: list[str] = []
        self.left_out: list[Any] = []
        self._whole = whole
        self._but = but
        self._gradients = gradients
        self._items = 0
        self._seen: set[int] = set()

    def part(self, own: dict[str, Any]) -> None:
        """One part's attributes."""
        self._seen.add(id(own))
        for key, value in own.items():
            if key in TABLES:
                self.holders.append(Holder(value, dict(value), key))
                if key in ("_parameters", "_buffers"):
                    for tensor in value.values():
                        self.tensor(tensor)
                elif key != "_modules":
                    for hook in value.values():
                        self.add(hook, key, DEEPEST)
            elif key not in NOT_ATTRIBUTES:
                self.add(value, key, DEEPEST)
        if own.get("_forward_hooks") or own.get("_forward_pre_hooks"):
            tables = [own[key] for key in _TOLD_TO_HOOKS if key in own]
            self.holders += [Holder(table, dict(table), "the arguments of hooks") for table in tables]

    def user_class(self, cls: type) -> None:
        """What the attributes of a class hold."""
        if issubclass(cls, enum.Enum):  # Python keeps its members in tables there
            return
        for key, value in vars(cls).items():
            if not (key.startswith("__") and key.endswith("__")) and not is_a(value, _DESCRIPTORS):
                self.add(value, f"the class attribute {cls.__qualname__}.{key}", DEEPEST)

    def tensor(self, value: Any) -> None:
        """One tensor, or None."""
        if value is not None and id(value) not in self._but:
            if self._gradients and id(value) not in self.tensors and value.is_leaf:
                self._row(lambda: (value.grad,), "the gradient of a tensor", DEEPEST)
            self.tensors.setdefault(id(value), value)
            if vars(value):
                self.add(vars(value), "the attributes of a tensor", DEEPEST)

    def add(self, value: Any, name: str, depth: int) -> None:
        """One value, and what it holds."""
        if type(value) in PLAIN or id(value) in self._seen:
            return
        self._seen.add(id(value))
        if id(value) in self._but:
            self.left_out.append(value)
            return
        try:
            self._follow(value, name, depth)
        except RAISED:  # an object of the user's may raise wherever it is looked at
            return

    def _follow(self, value: Any, name: str, depth: int) -> None:
        if isinstance(value, _NAMED):
            return
        if is_tensor(value):
            self.tensor(value)
        elif is_array(value):
            self.arrays.append(value)
            self._attributes(value, name, depth)
        elif isinstance(value, (*_SEQUENCES, set, dict)):
            self._container(value, name, depth)
        elif isinstance(value, (tuple, frozenset)):
            for item in itertools.islice(value, _MOST_ITEMS):
                self.add(item, name, depth - 1)
            self._attributes(value, name, depth)
        elif is_module(value):
            self._network(value, name)
        elif is_buffer(value):
            self.opaque.append(Opaque(value, buffer_picture, name))
            self.pieces += buffer_pieces(value)
            self._attributes(value, name, depth)
        elif depth > 0 and isinstance(value, _AROUND):
            self._around(value, name, depth)
        else:
            self._object(value, name, depth)

    def _container(self, value: Any, name: str, depth: int) -> None:
        self._items += len(value)
        if depth <= 0 or self._items > _MOST_ITEMS * 5 or len(self.holders) > _MOST_HOLDERS:
            self._opaque(value, name)
            return
        items = list(value.values() if isinstance(value, dict) else value)
        list(value)  # what raises does so now, not at every look
        self.holders.append(Holder(value, _copied(value), name))
        for item in items:
            self.add(item, name, depth - 1)
        if isinstance(value, collections.defaultdict):
            self._row(lambda: (value.default_factory,), name, depth)
        self._attributes(value, name, depth)

    def _row(self, read: Callable[[], Collection[Any]], name: str, depth: int) -> None:
        row = LiveRow(read)
        self.holders.append(Holder(row, list(row), name))
        for item in row:
            self.add(item, name, depth - 1)

    def _around(self, value: Any, name: str, depth: int) -> None:
        """What is around a function or a table that others can change, or in a variable that each context sets."""
        if isinstance(value, logging.Logger):  # all loggers hold each other, and fill caches when they are asked
            self._row(lambda: (value.getEffectiveLevel(), value.disabled, value.manager.disable), name, depth)
            return
        if isinstance(value, types.MethodType):
            self.add(value.__self__, name, depth - 1)
        elif isinstance(value, functools.partial):
            self._row(lambda: (value.func, value.args, value.keywords), name, depth)
        elif isinstance(value, contextvars.ContextVar):
            self._row(lambda: held_in(value), name, depth)
        else:
            self._row(lambda: [*value.keys(), *value.values()], name, depth)
        self._attributes(value, name, depth)

    def _attributes(self, value: Any, name: str, depth: int) -> None:
        """Of an object of a class of the user's."""
        own = asked(value, "__dict__")
        if isinstance(own, dict) and own and not isinstance(value, types.MethodType):
            self.add(own, name, depth)

    def _network(self, value: Any, name: str) -> None:
        """A network that is no part: kept in a list, or global."""
        for part in value.modules():
            if id(vars(part)) not in self._seen:
                self.holders.append(Holder(vars(part), dict(vars(part)), name))
                self.part(vars(part))

    def _object(self, value: Any, name: str, depth: int) -> None:
        if is_operator(value):
            self.opaque += [Opaque(value, kernels_of, name)] if kernels_of(value) else []
            return
        own = asked(value, "__dict__")
        if isinstance(own, dict) and depth > 0:
            self.add(own, name, depth)  # an object and its attributes are one level
        if not is_installed(type(value)):
            self.objects.append(value)
        slots = slots_of(type(value))
        if slots and depth > 0 and not is_installed(type(value)):  # a package's own may be filled when asked
            self._row(lambda: [asked(value, slot) for slot in slots], name, depth)
        if isinstance(own, dict) and depth > 0 and _is_bare(type(value)):
            return
        if _is_packed(value):
            return
        if not type(value).__module__.startswith("torch._C") or hasattr(value, "get_state"):
            self._opaque(value, name)

    def _opaque(self, value: Any, name: str) -> None:
        picture = pickled(value)
        if picture is None:
            return
        if self._whole or in_band(picture) <= LARGEST_OPAQUE:
            self.opaque.append(Opaque(value, pickled, name))
            self.pieces += pickled_pieces(value)
        else:
            sums = functools.partial(pickled_sum, value)
            self.sums.append((sums, sums()))
            self.unseen.append(name)


def settings_in(value: Any, name: str, depth: int = _DEEPEST_SETTING) -> Iterator[Holder]:
    """What a setting of a package holds, as far as it may be set: items of small containers, attributes of objects."""
    now = value if isinstance(value, (dict, list, set)) else asked(value, "__dict__")
    if not isinstance(now, (dict, list, set)) or isinstance(value, (*_NAMED, logging.Logger)) or is_module(value):
        return
    if callable(value):
        return
    if depth > 0 and len(now) <= _LARGEST_SETTING:
        yield Holder(now, _copied(now), name)
        for item in list(now.values() if isinstance(now, dict) else now):
            if type(item) not in PLAIN:
                yield from settings_in(item, name, depth - 1)


def _is_packed(value: Any) -> bool:
    """Whether it is what torch has packed the weights of a quantized layer into, which nobody changes in place.

    What it is pickled as is another text at each look: its tensors are unpacked anew.
    """
    if type(value).__name__ != "ScriptObject":
        return False
    path = str(asked(asked(value, "_type")(), "qualified_name")())
    return path.startswith(("__torch__.torch.classes.quantized.", "__torch__.torch.classes.rnn."))


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
