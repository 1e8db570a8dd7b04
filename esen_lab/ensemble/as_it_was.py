"""What calls of a network can change in place, as it was, and put back: in the session, and in lanes that measure.

Kept are containers, attributes of objects, functions and classes, global names, generators of random numbers, arrays
and tensors, each by itself: what is put back is the same object with what it held. Followed is what a network holds and
what its code reaches (`reach.py`). Not kept: large tensors, objects of torch and the standard library (a pool must not
forget its threads), and what cannot be set back at all, such as an iterator.
"""

from __future__ import annotations

import collections
import contextlib
import contextvars
import copy
import enum
import functools
import itertools
import pickle
import random
import sys
import types
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from esen_lab.ensemble.fingerprint import same_bits
from esen_lab.ensemble.origin import RAISED, held_in, home_of, installed_folders, is_module, is_tensor
from esen_lab.ensemble.reach import NOT_ATTRIBUTES, Cell, Reach, name_in, reach_of
from esen_lab.ensemble.watched import DEEPEST, PLAIN, TABLES, slots_of

if TYPE_CHECKING:
    import torch
    from torch import nn

_LARGEST_PARAMETER_BYTES = 1 << 16  # calls that change parameters change small ones, if any
_LARGEST_BYTES = 1 << 26
_MOST_BYTES = 1 << 28  # of all tensors and arrays together
_MOST_THINGS = 20_000
_MOST_ITEMS = 1_000  # of a container that is looked into; longer ones are kept as they are
_NOT_FOLLOWED = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, enum.Enum)
_GONE = object()


class Kept(NamedTuple):
    """One thing that can be changed in place.

    Attributes:
        thing: What tells it from others, in all networks that reach it: its identity, and of a name which one; None
            where nobody else can have it.
        apart: What differs now, for people; empty where nothing does.
        restore: Puts it back.
    """

    thing: Hashable
    apart: Callable[[], Sequence[str]]
    restore: Callable[[], object]


class AsItWas:
    """What calls of a network can change, as it was when this was made.

    Args:
        module: The network whose own attributes and tensors are kept; None: none are.
        reach: What its code reaches, where that is known already; see `reached_by`.
    """

    def __init__(self, module: nn.Module | None, reach: Reach | None = None) -> None:
        self._kept: list[Kept] = []
        self._seen: set[int] = set()
        self._room = _MOST_BYTES
        if reach is None:
            reach = Reach() if module is None else reached_by(module)
        if module is not None and not _is_opaque(module):
            self._network(module, "")
        self._reached(reach)

    @property
    def things(self) -> tuple[Hashable, ...]:
        """What tells each thing that is kept from others; in one order for networks that are built alike."""
        return tuple(kept.thing for kept in self._kept)

    def changed(self) -> list[Kept]:
        """What is something else now."""
        return [kept for kept in self._kept if _apart(kept)]

    def what(self) -> tuple[str, ...]:
        """The same, for people."""
        return labels_of(self.changed())

    def put_back(self) -> tuple[str, ...]:
        """Make all of it what it was.

        Returns:
            What had changed, for people.
        """
        changed = self.changed()
        told = labels_of(changed)  # before they are put back
        for kept in changed:
            with contextlib.suppress(Exception):  # of an object of the user's that refuses to be set
                kept.restore()
        return told

    # --- what the code reaches -----------------------------------------------------------------------------------

    def _reached(self, reach: Reach) -> None:
        for space, name, _ in reach.names:
            label = name_in(space, name)
            if name not in space:
                self._no_name(space, name, label)
                continue
            value = space[name]
            self._name(space, name, value, label)
            self._add(value, label, DEEPEST)
        for thing in reach.objects:
            self._add(thing, f"an object of the class {type(thing).__qualname__}", DEEPEST)
        for function in reach.functions:
            label = f"the attributes of {function.__qualname__}"
            self._mapping(vars(function), label, DEEPEST)
            defaults = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
            self._items(defaults, f"the defaults of {function.__qualname__}", DEEPEST)
        for cls in reach.classes:
            self._class(cls)
        for tensor in reach.tensors:
            self._add(tensor, "a tensor that it uses", 1)

    def _name(self, space: Mapping[str, Any], name: str, value: Any, label: str) -> None:
        """A name in a module of the user's, or in a closure; what it holds may be another thing later."""
        if isinstance(space, types.MappingProxyType) or _is_of_installed(space):
            return

        def restore() -> None:
            setting: Any = space
            setting[name] = value

        held = id(space.cell) if isinstance(space, Cell) else id(space)
        self._kept.append(_kept((held, name), label, lambda: not _is_same(space.get(name, _GONE), value), restore))

    def _no_name(self, space: Mapping[str, Any], name: str, label: str) -> None:
        """A name that a module of the user's does not have yet."""
        if isinstance(space, dict) and not _is_of_installed(space):
            taken = functools.partial(space.pop, name, None)
            self._kept.append(_kept((id(space), name), label, lambda: name in space, taken))

    def _class(self, cls: type) -> None:
        was = {key: value for key, value in vars(cls).items() if not key.startswith("__")}
        for key, value in was.items():
            self._add(value, f"{cls.__qualname__}.{key}", DEEPEST)

        def apart() -> list[str]:
            return [key for key in _keys_apart(vars(cls), was) if not key.startswith("__")]

        def restore() -> None:
            for key in apart():
                if key in was:
                    type.__setattr__(cls, key, was[key])
                else:
                    type.__delattr__(cls, key)

        self._kept.append(Kept(id(cls), lambda: [f"{cls.__qualname__}.{key}" for key in apart()], restore))

    # --- what the network holds ----------------------------------------------------------------------------------

    def _network(self, module: nn.Module, label: str) -> None:
        empty: list[dict[Any, Any]] = []
        for path, part in module.named_modules():
            own = vars(part)
            if id(own) in self._seen:
                continue
            self._seen.add(id(own))
            where = f"{path}." if path else ""
            self._kept.append(_attributes_kept(own, label, where))
            for key, value in own.items():
                if key in TABLES and not value:
                    empty.append(value)
                elif key in ("_parameters", "_buffers"):
                    self._tensors(value, label, where)
                elif key == "_modules":  # which are gone through here
                    self._kept.append(_mapping_kept(value, label or "its parts"))
                elif key in TABLES:
                    self._mapping(value, label or "its hooks", DEEPEST)
                elif key not in NOT_ATTRIBUTES:
                    self._add(value, label or f"its attribute {where}{key}", DEEPEST)
        self._kept.append(_empty_kept(empty, label or "its parameters, buffers, parts or hooks"))

    def _tensors(self, table: Any, label: str, where: str) -> None:
        self._kept.append(_mapping_kept(table, label or "its parameters or buffers"))
        for key, tensor in table.items():
            if tensor is not None:
                self._add(tensor, label or f"the values of {where}{key}", 1)

    # --- things of each kind -------------------------------------------------------------------------------------

    def _add(self, value: Any, label: str, depth: int) -> None:
        """Keep one value and what it holds."""
        try:
            self._follow(value, label, depth)
        except RAISED:  # an object of the user's may raise wherever it is looked at
            return

    def _follow(self, value: Any, label: str, depth: int) -> None:
        if type(value) in PLAIN or isinstance(value, _NOT_FOLLOWED) or id(value) in self._seen:
            return
        if depth <= 0 or len(self._kept) > _MOST_THINGS:
            return
        self._seen.add(id(value))
        kept = self._of_values(value, label)
        if kept is not None:
            self._kept.append(kept)
        elif isinstance(value, dict):
            self._seen.discard(id(value))
            self._mapping(value, label, depth)
        elif isinstance(value, (list, set, collections.deque, bytearray)):
            self._kept.append(_row_kept(value, label))
            self._items(() if isinstance(value, bytearray) else value, label, depth)
            self._attributes(value, label, depth)
        elif isinstance(value, (tuple, frozenset)):
            self._items(value, label, depth)
        elif isinstance(value, (types.MethodType, functools.partial)):
            self._items(_around(value), label, depth)
        elif is_module(value):
            self._network(value, label)
        elif not _is_of_python(type(value)):
            self._attributes(value, label, depth)
            self._slots(value, label, depth)

    def _of_values(self, value: Any, label: str) -> Kept | None:
        """Of a tensor, an array, a generator of random numbers or a context variable; None for everything else."""
        if isinstance(value, contextvars.ContextVar):
            held = held_in(value)
            self._items(held, label, DEEPEST)
            return _variable_kept(value, held, label)
        if is_tensor(value):
            if vars(value):
                self._attributes(value, label, DEEPEST)
            return self._tensor(value, label)
        numpy = sys.modules.get("numpy")
        if numpy is not None and type(value) is numpy.ndarray:
            return _array_kept(value, label) if self._fits(value.nbytes, _LARGEST_BYTES) else _nothing(value, label)
        return _generator_kept(value, label)

    def _tensor(self, tensor: torch.Tensor, label: str) -> Kept:
        import torch

        if tensor.layout is not torch.strided or tensor.is_meta or torch.nn.parameter.is_lazy(tensor):
            return _nothing(tensor, label)
        most = _LARGEST_PARAMETER_BYTES if isinstance(tensor, torch.nn.Parameter) else _LARGEST_BYTES
        if not self._fits(tensor.numel() * tensor.element_size(), most):
            return _nothing(tensor, label)
        return _tensor_kept(tensor, label)

    def _fits(self, size: int, most: int) -> bool:
        if size > min(most, self._room):
            return False
        self._room -= size
        return True

    def _mapping(self, value: dict[Any, Any], label: str, depth: int, computed: frozenset[str] = frozenset()) -> None:
        if id(value) in self._seen:
            return
        self._seen.add(id(value))
        self._kept.append(_mapping_kept(value, label, computed))
        self._items(value.values(), label, depth)
        self._attributes(value, label, depth)

    def _items(self, items: Any, label: str, depth: int) -> None:
        if len(items) <= _MOST_ITEMS:
            for item in list(items):
                self._add(item, label, depth - 1)

    def _attributes(self, value: Any, label: str, depth: int) -> None:
        own = getattr(value, "__dict__", None)
        if isinstance(own, dict):
            self._mapping(own, label, depth, _computed(type(value)))

    def _slots(self, value: Any, label: str, depth: int) -> None:
        names = slots_of(type(value))
        if names:
            was = {name: getattr(value, name, _GONE) for name in names}
            self._kept.append(_slots_kept(value, was, label))
            self._items([held for held in was.values() if held is not _GONE], label, depth)


def _around(value: types.MethodType | functools.partial[Any]) -> list[Any]:
    """What is around a function."""
    if isinstance(value, types.MethodType):
        return [value.__self__]
    return [value.func, value.args, value.keywords]


def reached_by(module: nn.Module) -> Reach:
    """What calls of a network may change outside of it: nothing of one that no Python computes."""
    return Reach() if _is_opaque(module) else reach_of(module, digests=False)


def _is_opaque(module: nn.Module) -> bool:
    from esen_lab.ensemble.kinds.adapted import Adapter
    from esen_lab.ensemble.kinds.function import Function

    return isinstance(module, Adapter) and not isinstance(module, Function)


@contextlib.contextmanager
def session_kept(reach: Reach) -> Iterator[AsItWas]:
    """Whatever copies of a network change of what it reaches outside of itself is afterwards what it was."""
    before = AsItWas(None, reach)
    try:
        yield before
    finally:
        before.put_back()


def labels_of(changed: list[Kept]) -> tuple[str, ...]:
    """What has changed, for people, each once."""
    return tuple(dict.fromkeys(itertools.chain.from_iterable(map(_apart, changed))))


def _apart(kept: Kept) -> Sequence[str]:
    try:
        return kept.apart()
    except RAISED:  # an object of the user's may raise wherever it is looked at
        return ()


def _kept(thing: Hashable, label: str, differs: Callable[[], bool], restore: Callable[[], object]) -> Kept:
    """Of a thing that has one name."""
    return Kept(thing, lambda: (label,) if differs() else (), restore)


def _is_same(now: Any, was: Any) -> bool:
    """Whether a name holds the same thing: itself, or a plain value, or a row of such, that nobody can tell from it."""
    if now is was or type(now) is not type(was):
        return now is was
    if isinstance(was, tuple):  # tracing a network gives it equal ones, such as the size of a kernel
        return len(now) == len(was) and all(map(_is_same, now, was))
    return type(was) in PLAIN and repr(now) == repr(was)


def _is_of_python(kind: type) -> bool:
    """Whether a class is the standard library's, with locks or threads perhaps, or torch's or this package's."""
    return kind is not types.SimpleNamespace and home_of(kind).partition(".")[0] in _PYTHONS


_PYTHONS = (sys.stdlib_module_names | {"esen_lab", "torch"}) - {"__main__"}


def _is_of_installed(space: Mapping[str, Any]) -> bool:
    """Whether names are an installed module's, some of which are filled when they are first asked for."""
    file = space.get("__file__") if "__name__" in space else None
    return isinstance(file, str) and file.startswith(installed_folders())


# --- one kind each ----------------------------------------------------------------------------------------------------


def _nothing(thing: Any, label: str) -> Kept:
    """Of what is too large, or cannot be set back."""
    return _kept(id(thing), label, lambda: False, lambda: None)


def _mapping_kept(thing: dict[Any, Any], label: str, computed: frozenset[str] = frozenset()) -> Kept:
    """Of a dict, or of attributes; those that are computed when they are first asked for are no change."""
    was = dict(thing)

    def differs() -> bool:
        keys = _keys_apart(thing, was)
        return any(key in was or key not in computed for key in keys) or (not keys and list(thing) != list(was))

    return _kept(id(thing), label, differs, lambda: _refill(thing, was))


def _computed(kind: type) -> frozenset[str]:
    tables = (vars(cls) for cls in kind.__mro__)
    return frozenset(
        key for table in tables for key, value in table.items() if isinstance(value, functools.cached_property)
    )


def _empty_kept(tables: list[dict[Any, Any]], label: str) -> Kept:
    """Of tables that hold nothing, as most of a network's."""

    def restore() -> None:
        for table in tables:
            table.clear()

    return _kept(None, label, lambda: any(tables), restore)


def _attributes_kept(own: dict[str, Any], label: str, where: str) -> Kept:
    """Of a part of a network: all but its mode, which is none of a call's."""
    was = {key: value for key, value in own.items() if key != "training"}

    def apart() -> list[str]:
        keys = [key for key in _keys_apart(own, was) if key != "training"]
        return [label or f"its attribute {where}{key}" for key in keys]

    def restore() -> None:
        _refill(own, {**was, "training": own.get("training", False)})

    return Kept(id(own), apart, restore)


def _keys_apart(now: Mapping[Any, Any], was: Mapping[Any, Any]) -> list[Any]:
    added = [key for key in now if key not in was]
    return added + [key for key, value in was.items() if not _is_same(now.get(key, _GONE), value)]


def _refill(thing: dict[Any, Any], was: Mapping[Any, Any]) -> None:
    kind: Any = collections.OrderedDict if isinstance(thing, collections.OrderedDict) else dict
    for key in _keys_apart(thing, was):
        if key in was:
            kind.__setitem__(thing, key, was[key])
        else:
            kind.__delitem__(thing, key)
    if list(thing) != list(was):
        kind.clear(thing)
        kind.update(thing, was)


def _row_kept(thing: Any, label: str) -> Kept:
    """Of a list, a deque, a set or bytes."""
    if isinstance(thing, (set, bytearray)):
        was = thing.copy()
        return _kept(id(thing), label, lambda: bool(thing != was), lambda: _filled(thing, was))
    items = list(thing)

    def differs() -> bool:
        return len(thing) != len(items) or not all(map(_is_same, thing, items))

    return _kept(id(thing), label, differs, lambda: _filled(thing, items))


def _filled(thing: Any, items: Any) -> None:
    thing.clear()
    if isinstance(thing, set):
        thing.update(items)
    else:
        thing.extend(items)


def _variable_kept(variable: contextvars.ContextVar[Any], was: tuple[Any, ...], label: str) -> Kept:
    """Of a variable that each context sets; one that held nothing cannot be made to again."""

    def restore() -> None:
        if was:
            variable.set(*was)

    return _kept(id(variable), label, lambda: not _is_same(held_in(variable), was), restore)


def _slots_kept(thing: Any, was: Mapping[str, Any], label: str) -> Kept:
    def restore() -> None:
        for name, value in was.items():
            if value is not _GONE:
                object.__setattr__(thing, name, value)
            elif hasattr(thing, name):
                object.__delattr__(thing, name)

    def differs() -> bool:
        return any(not _is_same(getattr(thing, name, _GONE), value) for name, value in was.items())

    return _kept(id(thing), label, differs, restore)


def _tensor_kept(tensor: torch.Tensor, label: str) -> Kept:
    import torch

    with torch.no_grad():
        place, was = tensor.detach(), tensor.detach().clone()

    def moved() -> bool:
        return tensor.data_ptr() != place.data_ptr() or tensor.shape != place.shape

    def differs() -> bool:
        now = tensor.detach()
        if moved() or now.dtype != was.dtype:
            return True
        return not torch.equal(now, was) and not same_bits([now.cpu()], [was.cpu()])  # NaN equals no NaN

    def restore() -> None:
        if moved():
            tensor.data = place
        # The only mode in which tensors that were made in it can be written to, and others too.
        with torch.inference_mode():
            tensor.copy_(was)

    return _kept(id(tensor), label, differs, restore)


def _array_kept(array: Any, label: str) -> Kept:
    was = array.copy()

    def restore() -> None:
        array[...] = was

    return _kept(id(array), label, lambda: bool(array.tobytes() != was.tobytes()), restore)


def _generator_kept(value: Any, label: str) -> Kept | None:
    """Of a generator of random numbers of torch, Python or NumPy; None for everything else."""
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None and isinstance(value, torch.Generator):
        state = value.get_state().clone()
        return _kept(
            id(value), label, lambda: not torch.equal(value.get_state(), state), lambda: value.set_state(state)
        )
    if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
        own = value.getstate()
        return _kept(id(value), label, lambda: value.getstate() != own, lambda: value.setstate(own))
    if numpy is None:
        return None
    if isinstance(value, numpy.random.RandomState):
        value = value._bit_generator
    if isinstance(value, numpy.random.Generator):
        value = value.bit_generator
    if not isinstance(value, numpy.random.BitGenerator):
        return None
    bits, was = value, copy.deepcopy(value.state)
    there = pickle.dumps(was)

    def restore() -> None:
        bits.state = was

    return _kept(id(bits), label, lambda: pickle.dumps(bits.state) != there, restore)
