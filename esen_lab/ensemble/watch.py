"""Whether a live network is still what it was: looked at before every run, in microseconds.

What is compared, each by one call that stays in C:

    attributes      of every part, by identity; what containers and plain objects in them hold, by identity too; objects
                    of other kinds by what they would be pickled as
    tensors         version (torch counts changes in place), address, and some bytes of their values, since changes
                    through `.data` are counted nowhere; of large ones a further piece at every look
    arrays          shape, strides and dtype, and bytes as of tensors
    code            functions and their defaults, classes, their bases and what their attributes hold, global names that
                    the code reads (see `reach.py`)

A difference may mean nothing (a cell that ran again with the same text): whoever hears of one compares fingerprints.
"""

from __future__ import annotations

import collections
import itertools
import operator
import weakref
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from esen_lab.ensemble.reach import HOOKS, Reach, name_in, reach_of
from esen_lab.ensemble.spans import (
    address_of,
    addressing,
    array_bytes,
    can_be_turned,
    form_of,
    pieces,
    samples,
    tensor_bytes,
)
from esen_lab.ensemble.watched import DEEPEST, TABLES, Opaque, Watched
from esen_lab.ensemble.weights import state_of

if TYPE_CHECKING:
    import torch
    from torch import nn

_values = operator.methodcaller("values")
_chained = itertools.chain.from_iterable
_version = operator.attrgetter("_version")
_code = operator.attrgetter("__code__")
_default = operator.attrgetter("__defaults__")
_named_default = operator.attrgetter("__kwdefaults__")
_order = operator.attrgetter("__mro__")


class Watch:
    """One network as it was when this was made.

    Holds the network's parts and tensors, not copies of them, until nobody else holds the network itself.

    Args:
        module: The network. Where nobody else holds it, its code alone is watched.
        reach: What it reaches, where that is known already.
        state_only: Leave code out, and look into objects of any kind: for whoever asks what a call has changed in the
            network itself.

    Attributes:
        unseen: Objects that are too large to be looked at but when all is, for people.
    """

    def __init__(self, module: nn.Module, reach: Reach | None = None, *, state_only: bool = False) -> None:
        self._module = weakref.ref(module, self._let_go)
        self._outer: Callable[[], nn.Module | None] = lambda: None
        self._outer_hooks: list[dict[int, Any]] = []
        self._state_only = state_only
        self._state: frozenset[Hashable] = frozenset()
        self._moving: frozenset[str] = frozenset()
        self._reach = Reach() if state_only else reach_of(module) if reach is None else reach
        self.renew()

    @property
    def module(self) -> nn.Module | None:
        """The network; None once nobody else holds it."""
        return self._module()

    @property
    def registered(self) -> nn.Module | None:
        """What the user registered and still holds: the network, or what torch.compile has put around it."""
        outer = self._outer()
        return self.module if outer is None else outer

    def within(self, outer: nn.Module) -> None:
        """Hooks of `outer` count too: the user calls the network through it, and it has none now."""
        self._outer = weakref.ref(outer)
        self._outer_hooks = [vars(outer)[table] for table in HOOKS if table in vars(outer)]

    def _let_go(self, _: object = None) -> None:
        self._reach.tensors = []
        self._take([])

    def renew(self) -> None:
        """Take what is there now as what should be."""
        module = self.module
        self._take([] if module is None else [vars(part) for part in module.modules()])

    def _take(self, owns: list[dict[str, Any]]) -> None:
        module = self.module
        # All parts but the network itself, which must not be held.
        self._parts = [] if module is None else [part for part in module.modules() if part is not module]
        self._kinds = [type(part) for part in self._parts]
        self._kind = type(module)
        self._own, self._modes_were = owns, _trained_on(owns)
        self._own_was = [dict(own) for own in owns]
        seen = self._looked_into(owns)
        self.unseen = tuple(dict.fromkeys(map(_attribute, seen.unseen)))
        self._left_out = seen.left_out
        self._holders = seen.holders
        tables = [*owns, *(holder.now for holder in seen.holders if isinstance(holder.now, dict))]
        self._empty = [table for table in tables if _is_empty(table)]  # most of torch's are; any() sees it at once
        # In which order parts and hooks are called is theirs to say; that of a part's attributes says nothing.
        held = {id(holder.now) for holder in seen.holders} - set(map(id, owns))
        self._ordered = [table for table in tables if id(table) in held and not _is_empty(table)]
        self._keys = list(_chained(self._ordered))
        self._key_counts = list(map(len, self._ordered))
        self._tables = [table for table in tables if id(table) not in held and not _is_empty(table)]
        self._rows = [holder.now for holder in seen.holders if not isinstance(holder.now, dict)]
        self._tables_were = [dict(table) for table in self._tables]
        # Equal is not the same: 1 equals True, 0.0 equals -0.0, and a tensor of one value another one of another dtype.
        # Nobody writes such things into the attributes of torch's own parts.
        torchs = {id(vars(part)) for part in (self._parts if module is None else module.modules()) if _is_torchs(part)}
        self._own_tables = [*self._ordered, *(table for table in self._tables if id(table) not in torchs)]
        self._own_values = list(_chained(map(_values, self._own_tables)))
        self._held_in_rows = list(map(id, _chained(self._rows)))
        self._row_lengths = list(map(len, self._rows))
        self._objects = seen.objects
        self._object_kinds = list(map(type, seen.objects))
        self._opaque = seen.opaque
        self._opaque_was = list(map(_picture, seen.opaque))
        self._tensors = list(seen.tensors.values())
        self._counted = [tensor for tensor in self._tensors if not tensor.is_inference()]
        self._versions = [tensor._version for tensor in self._counted]
        self._addressing = addressing(self._tensors)
        self._addresses = list(map(address_of, self._tensors))
        self._arrays = seen.arrays
        self._forms = list(map(form_of, seen.arrays))
        self._look_at([*self._tensors], seen)
        self._globals = [(space, name, space.get(name, _GONE)) for space, name, _ in self._reach.names]
        there, gone = ([entry for entry in self._globals if (entry[2] is _GONE) is none] for none in (False, True))
        self._spaces, self._names, self._held = ([entry[i] for entry in there] for i in range(3))
        self._spaces_without, self._not_there = ([entry[i] for entry in gone] for i in range(2))
        self._functions = self._reach.functions
        self._codes = list(map(_code, self._functions))
        self._defaults = list(map(_default, self._functions))
        self._named_defaults = list(map(_named_default, self._functions))
        self._own_classes = [*self._reach.classes, *self._reach.installed]
        self._orders = list(map(_order, self._own_classes))
        self._classes = [self._table_of(cls) for cls in self._own_classes]
        self._classes_were = [dict(own) for own in self._classes]
        self._class_keys = list(_chained(self._classes))
        self._class_values = list(_chained(map(_values, self._classes)))

    def _looked_into(self, owns: list[dict[str, Any]]) -> Watched:
        """All that the network holds, and what its code reaches."""
        seen = Watched(whole=self._state_only, but=self._state)
        for own in owns:
            seen.part(own)
        for space, name, _ in self._reach.names:
            seen.add(space.get(name), name_in(space, name), DEEPEST)
        for thing in self._reach.objects:
            seen.add(thing, type(thing).__name__, DEEPEST)
        for function in self._reach.functions:
            seen.add(vars(function), f"the attributes of {function.__qualname__}", DEEPEST)
            for defaults in (function.__defaults__, function.__kwdefaults__):
                seen.add(defaults, f"the defaults of {function.__qualname__}", DEEPEST)
        for cls in self._reach.classes:
            seen.user_class(cls)
        for tensor in self._reach.tensors:
            seen.tensor(tensor)
        return seen

    def _table_of(self, cls: type) -> Mapping[str, Any]:
        """A class's attributes, without those that calls of the network change."""
        moving = {key for key in vars(cls) if f"{cls.__qualname__}.{key}" in self._moving}
        return _Without(vars(cls), moving) if moving else vars(cls)

    def _look_at(self, tensors: list[torch.Tensor], seen: Watched) -> None:
        """Keep some bytes of all values, and a sum of every piece of the large ones."""
        # Turned by `.data`, a tensor has its bytes where it had them.
        self._turnable = [tensor for tensor in tensors if can_be_turned(tensor)]
        self._strides = [tensor.stride() for tensor in self._turnable]
        views = [view for tensor in tensors if (view := tensor_bytes(tensor)) is not None]
        # Held, or a view could look into memory that is no more.
        self._storages = [tensor.untyped_storage() for tensor in tensors if tensor_bytes(tensor) is not None]
        views += [view for array in seen.arrays if (view := array_bytes(array)) is not None]
        self._samples = [piece for view in views for piece in samples(view)]
        self._bytes = b"".join(self._samples)
        self._pieces = [*(piece for view in views for piece in pieces(view)), *seen.pieces]
        self._sums = seen.sums
        self._next_piece = itertools.cycle(range(len(self._pieces))) if self._pieces else None

    # --- looking -----------------------------------------------------------------------------------------------------

    def changed(self, *, whole: bool = False, piece: bool = True) -> bool:
        """Whether anything may differ.

        Args:
            whole: Look at every value of every tensor, at some gigabytes a second; else about a third of a microsecond
                for each part and each tensor.
            piece: Whether a further piece of large tensors is looked at, which takes as long as all the rest.
        """
        try:
            same = self._seems_same() and (not (whole or piece) or self._same_values(whole=whole))
            return not same and not self._only_its_mode()
        except Exception:
            return not self._only_its_mode()

    def _seems_same(self) -> bool:
        return (
            list(map(_version, self._counted)) == self._versions
            and list(map(self._addressing, self._tensors)) == self._addresses
            and [tensor.stride() for tensor in self._turnable] == self._strides
            and list(map(form_of, self._arrays)) == self._forms
            and b"".join(self._samples) == self._bytes
            and not any(self._empty)
            and not any(self._outer_hooks)
            and list(map(len, self._ordered)) == self._key_counts
            and list(_chained(self._ordered)) == self._keys
            and all(map(operator.is_, _chained(map(_values, self._own_tables)), self._own_values))
            # After identities: the values of two tensors are not to be compared, nor one's that lets go of its memory.
            and all(map(operator.eq, self._tables, self._tables_were))
            and list(map(len, self._rows)) == self._row_lengths
            and list(map(id, _chained(self._rows))) == self._held_in_rows
            and list(map(type, self._parts)) == self._kinds
            and (self.module is None or type(self.module) is self._kind)
            and list(map(type, self._objects)) == self._object_kinds
            and list(map(_code, self._functions)) == self._codes
            and all(map(operator.is_, map(_default, self._functions), self._defaults))
            and all(map(operator.is_, map(_named_default, self._functions), self._named_defaults))
            and list(_chained(self._classes)) == self._class_keys
            and all(map(operator.is_, _chained(map(_values, self._classes)), self._class_values))
            and all(map(operator.is_, map(_order, self._own_classes), self._orders))
            and all(map(operator.is_, map(operator.getitem, self._spaces, self._names), self._held))
            and not any(map(operator.contains, self._spaces_without, self._not_there))
            and list(map(_picture, self._opaque)) == self._opaque_was
        )

    def _same_values(self, *, whole: bool) -> bool:
        if whole:
            return all(piece() == was for piece, was in (*self._pieces, *self._sums))
        if self._next_piece is None:
            return True
        piece, was = self._pieces[next(self._next_piece)]
        return piece() == was

    def _only_its_mode(self) -> bool:
        """Whether all that differs is `train()` or `eval()`, which lanes do not follow; it is taken as it is now."""
        for own, was in zip(self._own, self._own_was, strict=True):
            if "training" in own:
                was["training"] = own["training"]
        if self.what(most=1):
            return False
        for own, table in zip(self._own, self._tables_were, strict=False):  # those of parts come first
            if "training" in own:
                table["training"] = own["training"]
        self._own_values = list(_chained(map(_values, self._own_tables)))
        return True

    def what(self, most: int = 4) -> tuple[str, ...]:
        """What differs, for people, as far as it can be told."""
        return tuple(itertools.islice(dict.fromkeys(self._differences()), most))

    def _differences(self) -> Iterator[str]:
        module = self.module
        if module is not None:
            yield from self._of_tensors(module)
            yield from self._of_attributes()
            if any(self._outer_hooks):
                yield "the hooks of what torch.compile has made of it"
        yield from self._of_code()

    def _of_tensors(self, module: nn.Module) -> Iterator[str]:
        import torch

        names = {id(tensor): name for name, tensor in state_of(module).items()}

        def values_of(tensor: torch.Tensor) -> str:
            return f"the values of {names.get(id(tensor), 'a tensor that it uses')}"

        moved = {id(t) for t, at in zip(self._tensors, self._addresses, strict=True) if address_of(t) != at}
        counted = {id(t) for t, version in zip(self._counted, self._versions, strict=True) if t._version != version}
        pairs = zip(self._turnable, self._strides, strict=True)
        turned = {id(t) for t, strides in pairs if t.layout is not torch.strided or t.stride() != strides}
        told = [values_of(tensor) for tensor in self._tensors if id(tensor) in moved | counted | turned]
        if list(map(form_of, self._arrays)) != self._forms:
            told.append("the shape, strides or dtype of an array that it uses")
        if not told and not moved:
            same = b"".join(self._samples) == self._bytes and self._same_values(whole=True)
            told = [] if same else ["the values of its weights"]
        yield from told

    def _of_attributes(self) -> Iterator[str]:
        for own, was in zip(self._own, self._own_was, strict=True):
            yield from (f"its attribute {key}" for key in _keys_apart(own, was) if key != "training")
        for holder in self._holders:
            if not _same_things(holder.now, holder.was):
                yield "its parameters, buffers or parts" if holder.name in TABLES[:3] else _attribute(holder.name)
        if _trained_on(self._own) != self._modes_were:
            yield "which of its parts are in training mode"
        opaque = zip(self._opaque, self._opaque_was, strict=True)
        yield from (_attribute(held.name) for held, was in opaque if _picture(held) != was)
        if list(map(type, self._parts)) != self._kinds or (self.module and type(self.module) is not self._kind):
            yield "the classes of its parts"
        if list(map(type, self._objects)) != self._object_kinds:
            yield "the class of an object that it uses"

    def _of_code(self) -> Iterator[str]:
        for function, code in zip(self._functions, self._codes, strict=True):
            if function.__code__ != code:
                yield f"the code of {function.__qualname__}"
        defaults = zip(self._functions, self._defaults, self._named_defaults, strict=True)
        for function, default, named in defaults:
            if function.__defaults__ is not default or function.__kwdefaults__ is not named:
                yield f"the defaults of {function.__qualname__}"
        for cls, order, own, was in zip(
            self._own_classes, self._orders, self._classes, self._classes_were, strict=True
        ):
            yield from (f"{cls.__qualname__}.{key}" for key in _keys_apart(own, was))
            if cls.__mro__ is not order:
                yield f"the bases of {cls.__qualname__}"
        yield from (name_in(space, name) for space, name in self._moved())

    # --- what calls of the network change ----------------------------------------------------------------------------

    def moving(self) -> tuple[str, ...]:
        """The names outside the network that hold something else now: what calls of it have changed, for people."""
        held = [name_in(space, name) for space, name in self._moved()]
        held += [name for name in self._of_attributes() if name.startswith(("the global name ", "the enclosed name "))]
        return tuple(dict.fromkeys(held))

    def without(self, moving: Iterable[str], state: Collection[Hashable] = ()) -> Watch:
        """This watch, from now on without what calls change: that is state of the network, and no change to it.

        Args:
            moving: Names outside the network, and attributes of classes, for people.
            state: The identities of things outside the network that are alive now.
        """
        names = self._moving = frozenset(moving)
        self._state = frozenset(state)
        gone = [entry for entry in self._reach.names if name_in(*entry[:2]) in names]
        self._reach.names = [entry for entry in self._reach.names if name_in(*entry[:2]) not in names]
        objects = {id(value) for _, _, value in gone}
        self._reach.objects = [thing for thing in self._reach.objects if id(thing) not in objects]
        self.renew()
        return self

    def _moved(self) -> Iterator[tuple[Mapping[str, Any], str]]:
        for space, name, value in self._globals:
            if space.get(name, _GONE) is not value:
                yield space, name


def _trained_on(owns: list[dict[str, Any]]) -> list[int]:
    """Which parts are in training mode, of a network that is not so itself: see `in_lane_mode`."""
    modes = [bool(own.get("training")) for own in owns]
    return [] if any(modes[:1]) else [number for number, mode in enumerate(modes) if mode]


def _same_things(now: Any, was: Any) -> bool:
    if isinstance(now, dict):
        return list(now) == list(was) and all(map(operator.is_, now.values(), was.values()))
    return len(now) == len(was) and all(map(operator.is_, now, was))


def _is_empty(table: dict[Any, Any]) -> bool:
    return type(table) in (dict, collections.OrderedDict) and not table


def _is_torchs(part: nn.Module) -> bool:
    return type(part).__module__.startswith("torch.")


def _attribute(name: str) -> str:
    return name if name.startswith("the ") else f"its attribute {name}"


_GONE = object()


def _picture(held: Opaque) -> Any:
    return held.picture(held.thing)


class _Without(Mapping[str, Any]):
    """A table without some of its keys, read anew at every look."""

    def __init__(self, table: Mapping[str, Any], keys: Collection[str]) -> None:
        self._table = table
        self._keys = keys

    def __getitem__(self, key: str) -> Any:
        if key in self._keys:
            raise KeyError(key)
        return self._table[key]

    def __iter__(self) -> Iterator[str]:
        return (key for key in self._table if key not in self._keys)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _keys_apart(own: Mapping[str, Any], was: Mapping[str, Any]) -> list[str]:
    return sorted(key for key in own.keys() | was.keys() if own.get(key, _GONE) is not was.get(key, _GONE))
