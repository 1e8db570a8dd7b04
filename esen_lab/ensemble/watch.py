"""Whether a live network is still what it was: looked at before every run, in microseconds.

What is compared, each by one call that stays in C:

    attributes      of every part, by identity; what containers and plain objects in them hold, by identity too; objects
                    of other kinds by what they would be pickled as
    tensors         version (torch counts changes in place), address, size, strides, whether they require a gradient,
                    and some bytes of their values, since changes through `.data` are counted nowhere; of large ones a
                    further piece at every look, as of all shapes and dtypes
    arrays          shape, strides and dtype, and bytes as of tensors
    code            functions and their defaults, classes, their bases and what their attributes hold, global names that
                    the code reads (see `reach.py`)

A difference may mean nothing (a cell that ran again with the same text): whoever hears of one compares fingerprints.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import operator
import weakref
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from esen_lab.ensemble.look import GONE, Look, Snapshot, picture
from esen_lab.ensemble.origin import RAISED
from esen_lab.ensemble.reach import HOOKS, Reach, name_in, reach_of
from esen_lab.ensemble.spans import (
    address_of,
    array_bytes,
    form_of,
    form_pieces,
    has_form,
    pieces,
    samples,
    tensor_bytes,
    tensor_form_of,
)
from esen_lab.ensemble.watched import DEEPEST, TABLES, Holder, Watched, settings_in
from esen_lab.ensemble.weights import state_of

if TYPE_CHECKING:
    from torch import nn

_MOST_IN_A_SETTING = 12


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
        snapshot: What should be.
        looks: Those at this one with others, which hold what it holds.
    """

    def __init__(self, module: nn.Module, reach: Reach | None = None, *, state_only: bool = False) -> None:
        self._module = weakref.ref(module, self._let_go)
        self._outer: Callable[[], nn.Module | None] = lambda: None
        self._outer_hooks: list[dict[int, Any]] = []
        self.looks: weakref.WeakSet[Look] = weakref.WeakSet()  # of this one with others
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
        self.snapshot.empty += self._outer_hooks
        self._renew_looks()

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
        parts = [] if module is None else [part for part in module.modules() if part is not module]
        self._parts = parts
        self._own, self._modes_were = owns, _trained_on(owns)
        self._own_was = [dict(own) for own in owns]
        seen = self._looked_into(owns)
        self.unseen = tuple(dict.fromkeys(map(_attribute, seen.unseen)))
        self._left_out = seen.left_out
        self._settings = [_Setting.of(space, name) for space, name in self._reach.settings]
        seen.holders += [holder for setting in self._settings for holder in setting.holders]
        self._holders = seen.holders
        now = self.snapshot = Snapshot(module=self._module, kind=type(module))
        now.things = [*parts, *seen.objects]
        now.kinds = list(map(type, now.things))
        now.opaque = seen.opaque
        now.pictures = list(map(picture, seen.opaque))
        self._take_tables(now, seen, owns)
        self._take_values(now, seen)
        now.names = [(space, name, space.get(name, GONE)) for space, name, _ in self._reach.names]
        now.names += [(setting.space, setting.name, setting.value) for setting in self._settings]
        now.functions = list(self._reach.functions)
        now.classes = [*self._reach.classes, *self._reach.installed]
        now.attributes = [self._table_of(cls) for cls in now.classes]
        now.code_is_now()
        self._renew_looks()

    def _renew_looks(self) -> None:
        """What looked at what was there before says nothing any more."""
        for look in list(self.looks):
            look.let_go()
        self.looks.clear()
        self._own_look = Look([self.snapshot])

    def _take_tables(self, now: Snapshot, seen: Watched, owns: list[dict[str, Any]]) -> None:
        tables = [*owns, *(holder.now for holder in seen.holders if isinstance(holder.now, dict))]
        # Most of torch's are; any() sees it at once.
        now.empty = [*(table for table in tables if _is_empty(table)), *self._outer_hooks]
        # In which order parts and hooks are called is theirs to say; that of a part's attributes says nothing.
        held = {id(holder.now) for holder in seen.holders} - set(map(id, owns))
        now.ordered = [table for table in tables if id(table) in held and not _is_empty(table)]
        now.keys = list(map(list, now.ordered))
        now.tables = [table for table in tables if id(table) not in held and not _is_empty(table)]
        now.tables_were = list(map(dict, now.tables))
        # Equal is not the same: 1 equals True, 0.0 equals -0.0, and a tensor of one value another one of another dtype.
        # Nobody writes such things into the attributes of torch's own parts.
        every = self._parts if self.module is None else self.module.modules()
        torchs = {id(vars(part)) for part in every if _is_torchs(part)}
        now.own_tables = [*now.ordered, *(table for table in now.tables if id(table) not in torchs)]
        now.values_are_now()
        now.rows = [holder.now for holder in seen.holders if not isinstance(holder.now, dict)]
        now.held_in_rows = [list(map(id, row)) for row in now.rows]

    def _looked_into(self, owns: list[dict[str, Any]]) -> Watched:
        """All that the network holds, and what its code reaches."""
        reads = [function.__code__.co_names for function in self._reach.functions]
        gradients = any("grad" in names and "autograd" not in names for names in reads)
        seen = Watched(whole=self._state_only, but=self._state, gradients=gradients)
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

    def _take_values(self, now: Snapshot, seen: Watched) -> None:
        """Keep some bytes of all values, and a sum of every piece of the large ones."""
        tensors = now.tensors = list(seen.tensors.values())
        now.addresses = list(map(address_of, tensors))
        now.counted = [tensor for tensor in tensors if not tensor.is_inference()]
        now.versions = [tensor._version for tensor in now.counted]
        # Turned, cut or conjugated by `.data`, a tensor has its bytes where it had them.
        now.formed = [tensor for tensor in tensors if has_form(tensor)]
        now.tensor_forms = list(map(tensor_form_of, now.formed))
        now.sizes = [tensor.numel() for tensor in now.formed]
        now.turnable = [tensor for tensor in now.formed if tensor.dim() > 1]
        now.strides = [tensor.stride() for tensor in now.turnable]
        now.complex = [tensor for tensor in now.formed if tensor.is_complex()]
        now.conjugated = [tensor.is_conj() for tensor in now.complex]
        now.arrays = seen.arrays
        now.forms = list(map(form_of, seen.arrays))
        views = [view for tensor in tensors if (view := tensor_bytes(tensor)) is not None]
        # Held, or a view could look into memory that is no more.
        self._storages = [tensor.untyped_storage() for tensor in tensors if tensor_bytes(tensor) is not None]
        views += [view for array in seen.arrays if (view := array_bytes(array)) is not None]
        now.samples = [piece for view in views for piece in samples(view)]
        now.bytes = b"".join(now.samples)
        self._pieces = [*(piece for view in views for piece in pieces(view)), *seen.pieces, *form_pieces(now.formed)]
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
            same = self._own_look.same() and (not (whole or piece) or self._same_values(whole=whole))
            return not same and not self._only_its_mode()
        except Exception:
            return not self._only_its_mode()

    def piece_changed(self) -> bool:
        """Whether a further piece of large tensors differs."""
        return not self._same_values(whole=False)

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
        for own, table in zip(self._own, self.snapshot.tables_were, strict=False):  # those of parts come first
            if "training" in own:
                table["training"] = own["training"]
        self.snapshot.values_are_now()
        self._renew_looks()
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
        names = {id(tensor): name for name, tensor in state_of(module).items()}

        now = self.snapshot

        def told_of(tensors: set[int], what: str) -> list[str]:
            own = [names.get(id(tensor), "a tensor that it uses") for tensor in now.tensors if id(tensor) in tensors]
            return [f"the {what} of {name}" for name in own]

        moved = {id(t) for t, at in zip(now.tensors, now.addresses, strict=True) if address_of(t) != at}
        counted = {id(t) for t, version in zip(now.counted, now.versions, strict=True) if t._version != version}
        forms = zip(now.formed, now.tensor_forms, strict=True)
        formed = {id(t) for t, form in forms if not has_form(t) or tensor_form_of(t) != form}
        rest = [t for t in now.turnable if id(t) not in formed]
        strides = {id(t): stride for t, stride in zip(now.turnable, now.strides, strict=True)}
        formed |= {id(t) for t in rest if t.stride() != strides[id(t)]}
        formed |= {id(t) for t, was in zip(now.complex, now.conjugated, strict=True) if t.is_conj() != was}
        told = told_of(moved | counted, "values")
        told += told_of(formed - moved - counted, "shape, strides, dtype or requires_grad")
        if list(map(form_of, now.arrays)) != now.forms:
            told.append("the shape, strides or dtype of an array that it uses")
        if not told and not moved:
            same = b"".join(now.samples) == now.bytes and self._same_values(whole=True)
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
        now = self.snapshot
        opaque = zip(now.opaque, now.pictures, strict=True)
        yield from (_attribute(held.name) for held, was in opaque if picture(held) != was)
        parts = len(self._parts)
        kinds = list(map(type, now.things))
        if kinds[:parts] != now.kinds[:parts] or (self.module and type(self.module) is not now.kind):
            yield "the classes of its parts"
        if kinds[parts:] != now.kinds[parts:]:
            yield "the class of an object that it uses"

    def _of_code(self) -> Iterator[str]:
        now = self.snapshot
        for function, code in zip(now.functions, now.codes, strict=True):
            if function.__code__ != code:
                yield f"the code of {function.__qualname__}"
        for function, default, named in zip(now.functions, now.defaults, now.named_defaults, strict=True):
            if function.__defaults__ is not default or function.__kwdefaults__ is not named:
                yield f"the defaults of {function.__qualname__}"
        for cls, order, own, was in zip(now.classes, now.orders, now.attributes, now.attributes_were, strict=True):
            yield from (f"{cls.__qualname__}.{key}" for key in _keys_apart(own, was))
            if cls.__mro__ is not order:
                yield f"the bases of {cls.__qualname__}"
        yield from (name_in(space, name) for space, name in self._moved())
        yield from (setting.told for setting in self._settings if not setting.is_as_it_was())

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
        self._reach.settings = [(one.space, one.name) for one in self._settings if one.is_as_it_was()]
        objects = {id(value) for _, _, value in gone}
        self._reach.objects = [thing for thing in self._reach.objects if id(thing) not in objects]
        self.renew()
        return self

    def _moved(self) -> Iterator[tuple[Mapping[str, Any], str]]:
        for space, name, value in self.snapshot.names[: len(self._reach.names)]:
            if space.get(name, GONE) is not value:
                yield space, name


class WatchedTogether:
    """Several networks, looked at before every run of all of them: one `Look` for what each holds.

    Args:
        watches: Theirs. Let go of, they take this one's look with them.
    """

    def __init__(self, watches: Sequence[Watch]) -> None:
        self._watches = watches
        self._turns = itertools.cycle(watches)
        self._look: Look | None = None

    def changed(self) -> bool:
        """Whether anything may have changed in one of them; takes microseconds.

        A piece of the large tensors of one of them is looked at, of another one each time: of all of them, that would
        take as long as the rest of the look.
        """
        if not self._watches:
            return False
        look = self._look
        if look is None or look.gone:
            look = self._look = self._looked_at()
        # An object of the user's may raise where it is looked at.
        with contextlib.suppress(Exception):
            if look.same():
                return next(self._turns).piece_changed()
        # Each for itself: what differs may be a mode, which lanes do not follow.
        return any(watch.changed(piece=False) for watch in self._watches)

    def _looked_at(self) -> Look:
        look = Look([watch.snapshot for watch in self._watches])
        for watch in self._watches:
            watch.looks.add(look)
        return look


def _trained_on(owns: list[dict[str, Any]]) -> list[int]:
    """Which parts are in training mode, of a network that is not so itself: see `in_lane_mode`."""
    modes = [bool(own.get("training")) for own in owns]
    return [] if any(modes[:1]) else [number for number, mode in enumerate(modes) if mode]


def _same_things(now: Any, was: Any) -> bool:
    if isinstance(now, dict):
        return list(now) == list(was) and all(map(operator.is_, now.values(), was.values()))
    return len(now) == len(was) and all(map(operator.is_, now, was))


class _Setting(NamedTuple):
    """A name in a module of a package, what it held, and what was in that."""

    space: Mapping[str, Any]
    name: str
    value: Any
    holders: list[Holder]
    told: str

    @classmethod
    def of(cls, space: Mapping[str, Any], name: str) -> _Setting:
        value, told = space.get(name, GONE), f"the setting {space.get('__name__')}.{name}"
        holders: list[Holder] = []
        with contextlib.suppress(*RAISED):
            holders += itertools.islice(settings_in(value, told), _MOST_IN_A_SETTING)
        return cls(space, name, value, holders, told)

    def is_as_it_was(self) -> bool:
        """Whether nobody has set it since."""
        held = self.space.get(self.name, GONE)
        return held is self.value and all(_same_things(holder.now, holder.was) for holder in self.holders)


def _is_empty(table: dict[Any, Any]) -> bool:
    return type(table) in (dict, collections.OrderedDict) and not table


def _is_torchs(part: nn.Module) -> bool:
    return type(part).__module__.startswith("torch.")


def _attribute(name: str) -> str:
    return name if name.startswith("the ") else f"its attribute {name}"


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
    return sorted(key for key in own.keys() | was.keys() if own.get(key, GONE) is not was.get(key, GONE))
