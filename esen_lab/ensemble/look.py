"""One look at what networks hold: all of one kind in one call that stays in C, and what several share looked at once.

A `Snapshot` is what one network held, and what of it is compared. A `Look` compares that of one network or of several:
what they have in common (classes, functions, names of imported modules) counts once, and kinds of which nothing is
there are not asked for at all.
"""

from __future__ import annotations

import collections
import functools
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from esen_lab.ensemble.spans import addressing, form_of

if TYPE_CHECKING:
    import torch
    from torch import nn

    from esen_lab.ensemble.watched import Opaque

_values = operator.methodcaller("values")
_chained = itertools.chain.from_iterable
_version = operator.attrgetter("_version")
_requires_grad = operator.attrgetter("requires_grad")
_code = operator.attrgetter("__code__")
_default = operator.attrgetter("__defaults__")
_named_default = operator.attrgetter("__kwdefaults__")
_order = operator.attrgetter("__mro__")

GONE = object()
"""What a global name holds that is not there."""


@dataclass(slots=True, kw_only=True)
class Snapshot:
    """What one network held at one moment: things, and beside them, in the same order, what they were.

    Attributes:
        tensors: With their `addresses`.
        counted: Those whose changes in place torch counts, with their `versions`.
        formed: Those that others could show in the same memory by another shape, with their `tensor_forms` and `sizes`.
        turnable: Of these, those that strides may turn, with these.
        complex: Of these, those that may be `conjugated`.
        arrays: With their `forms`.
        samples: Some memory of all these, and its bytes.
        empty: Tables with nothing in them.
        ordered: Tables whose order says something, with their keys in that order.
        tables: Others, as they were: compared by equal values.
        own_tables: Those of both that are compared by identities too.
        own_values: What these hold.
        rows: What has items in a row, with these.
        things: What may be made another class, with their `kinds`.
        module: The network, which is not held.
        kind: Its class.
        functions: With their code and defaults.
        classes: With their bases and attributes.
        names: Of global names: the space, the name and what it holds.
        opaque: What is compared by pictures, with these.
    """

    module: Callable[[], nn.Module | None] = lambda: None
    kind: type = object
    tensors: list[torch.Tensor] = field(default_factory=list)
    addresses: list[int] = field(default_factory=list)
    counted: list[torch.Tensor] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    formed: list[torch.Tensor] = field(default_factory=list)
    tensor_forms: list[tuple[Any, ...]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    turnable: list[torch.Tensor] = field(default_factory=list)
    strides: list[tuple[int, ...]] = field(default_factory=list)
    complex: list[torch.Tensor] = field(default_factory=list)
    conjugated: list[bool] = field(default_factory=list)
    arrays: list[Any] = field(default_factory=list)
    forms: list[Any] = field(default_factory=list)
    samples: list[memoryview] = field(default_factory=list)
    bytes: bytes = b""
    empty: list[dict[Any, Any]] = field(default_factory=list)
    ordered: list[dict[Any, Any]] = field(default_factory=list)
    keys: list[list[Any]] = field(default_factory=list)
    tables: list[dict[Any, Any]] = field(default_factory=list)
    tables_were: list[dict[Any, Any]] = field(default_factory=list)
    own_tables: list[dict[Any, Any]] = field(default_factory=list)
    own_values: list[Any] = field(default_factory=list)
    rows: list[Any] = field(default_factory=list)
    held_in_rows: list[list[int]] = field(default_factory=list)
    things: list[Any] = field(default_factory=list)
    kinds: list[type] = field(default_factory=list)
    functions: list[Any] = field(default_factory=list)
    codes: list[Any] = field(default_factory=list)
    defaults: list[Any] = field(default_factory=list)
    named_defaults: list[Any] = field(default_factory=list)
    classes: list[type] = field(default_factory=list)
    orders: list[tuple[type, ...]] = field(default_factory=list)
    attributes: list[Mapping[str, Any]] = field(default_factory=list)
    attributes_were: list[dict[str, Any]] = field(default_factory=list)
    names: list[tuple[Mapping[str, Any], str, Any]] = field(default_factory=list)
    opaque: list[Opaque] = field(default_factory=list)
    pictures: list[Any] = field(default_factory=list)

    def code_is_now(self) -> None:
        """Take what functions, classes and names are now as what they were."""
        self.codes = list(map(_code, self.functions))
        self.defaults = list(map(_default, self.functions))
        self.named_defaults = list(map(_named_default, self.functions))
        self.orders = list(map(_order, self.classes))
        self.attributes_were = list(map(dict, self.attributes))

    def values_are_now(self) -> None:
        """The same of what tables hold that are compared by identities."""
        self.own_values = list(_chained(map(_values, self.own_tables)))


class Look:
    """Whether what these networks hold is what it was; about a quarter of a microsecond for each part and tensor.

    Holds what the snapshots hold, until it is told to let go.
    """

    def __init__(self, snapshots: Sequence[Snapshot]) -> None:
        self._checks: tuple[Callable[[], bool], ...] | None = tuple(_checks(snapshots))

    @property
    def gone(self) -> bool:
        """Whether it has let go, and says nothing any more."""
        return self._checks is None

    def let_go(self) -> None:
        """A snapshot is not what counts any more."""
        self._checks = None

    def same(self) -> bool:
        """Whether nothing seems to differ. Raises whatever objects of the user's raise when they are looked at."""
        # Not by `all`: a generator for them takes as long as a third of them.
        for check in self._checks or ():  # noqa: SIM110
            if not check():
                return False
        return True


def _checks(snapshots: Sequence[Snapshot]) -> Iterator[Callable[[], bool]]:
    """What is compared, each kind in one call; tensors first, as nothing else may read their memory before."""
    yield from _of_tensors(snapshots)
    yield from _of_tables(snapshots)
    if things := _all(one.things for one in snapshots):
        kinds = _all(one.kinds for one in snapshots)
        yield lambda: list(map(type, things)) == kinds
    yield from _of_modules(snapshots)
    yield from _of_code(snapshots)
    if opaque := _all(one.opaque for one in snapshots):
        pictures = _all(one.pictures for one in snapshots)
        yield lambda: list(map(picture, opaque)) == pictures


def _all(lists: Iterable[Iterable[Any]]) -> list[Any]:
    return list(_chained(lists))


def _of_tensors(snapshots: Sequence[Snapshot]) -> Iterator[Callable[[], bool]]:
    if counted := _all(one.counted for one in snapshots):
        versions = _all(one.versions for one in snapshots)
        yield lambda: list(map(_version, counted)) == versions
    if tensors := _all(one.tensors for one in snapshots):
        addresses, address_of = _all(one.addresses for one in snapshots), addressing(tensors)
        yield lambda: list(map(address_of, tensors)) == addresses
    yield from _of_forms(snapshots)
    if arrays := _all(one.arrays for one in snapshots):
        forms = _all(one.forms for one in snapshots)
        yield lambda: list(map(form_of, arrays)) == forms
    if samples := _all(one.samples for one in snapshots):
        held = b"".join(one.bytes for one in snapshots)
        yield lambda: b"".join(samples) == held


def _of_forms(snapshots: Sequence[Snapshot]) -> Iterator[Callable[[], bool]]:
    """Of tensors, what takes least; their shapes and dtypes are pieces, looked at in turn."""
    formed = _all(one.formed for one in snapshots)
    if not formed:
        return
    from torch import Tensor

    required, sizes = [form[-1] for one in snapshots for form in one.tensor_forms], _all(one.sizes for one in snapshots)
    yield lambda: list(map(_requires_grad, formed)) == required and list(map(Tensor.numel, formed)) == sizes
    if turnable := _all(one.turnable for one in snapshots):
        strides = _all(one.strides for one in snapshots)
        yield lambda: list(map(Tensor.stride, turnable)) == strides
    if complex_ones := _all(one.complex for one in snapshots):
        conjugated = _all(one.conjugated for one in snapshots)
        yield lambda: list(map(Tensor.is_conj, complex_ones)) == conjugated


def _of_tables(snapshots: Sequence[Snapshot]) -> Iterator[Callable[[], bool]]:
    if empty := _all(one.empty for one in snapshots):
        yield lambda: not any(empty)
    if full := tuple(_of_full_tables(snapshots)):
        untouched = Untouched(_all((*one.ordered, *one.own_tables, *one.tables) for one in snapshots))
        yield lambda: untouched.or_else(lambda: all(check() for check in full))
    if rows := _all(one.rows for one in snapshots):
        every = _all(one.held_in_rows for one in snapshots)
        lengths, held = list(map(len, every)), _all(every)
        yield lambda: list(map(len, rows)) == lengths and list(map(id, _chained(rows))) == held


def _of_full_tables(snapshots: Sequence[Snapshot]) -> Iterator[Callable[[], bool]]:
    """What holds tables that are not empty."""
    if ordered := _all(one.ordered for one in snapshots):
        every = _all(one.keys for one in snapshots)
        counts, keys = list(map(len, every)), _all(every)
        yield lambda: list(map(len, ordered)) == counts and list(_chained(ordered)) == keys
    if own_tables := _all(one.own_tables for one in snapshots):
        own_values = _all(one.own_values for one in snapshots)
        yield lambda: all(map(operator.is_, _chained(map(_values, own_tables)), own_values))
    # After identities: the values of two tensors are not to be compared, nor one's that lets go of its memory.
    if tables := _all(one.tables for one in snapshots):
        were = _all(one.tables_were for one in snapshots)
        yield lambda: all(map(operator.eq, tables, were))


def _of_modules(snapshots: Sequence[Snapshot]) -> Iterator[Callable[[], bool]]:
    there = [one for one in snapshots if one.module() is not None]
    if there:
        modules, kinds = [one.module for one in there], [one.kind for one in there]
        yield lambda: [type(module()) for module in modules] == kinds


def _of_code(snapshots: Sequence[Snapshot]) -> Iterator[Callable[[], bool]]:
    rows = _once(
        ((id(function), id(code), id(default), id(named)), (function, code, default, named))
        for one in snapshots
        for function, code, default, named in zip(
            one.functions, one.codes, one.defaults, one.named_defaults, strict=True
        )
    )
    if rows:
        functions, codes, defaults, named_defaults = (list(column) for column in zip(*rows, strict=True))
        yield (
            lambda: (
                list(map(_code, functions)) == codes
                and all(map(operator.is_, map(_default, functions), defaults))
                and all(map(operator.is_, map(_named_default, functions), named_defaults))
            )
        )
    yield from _of_classes(snapshots)
    names = _once(
        ((id(space), name, id(held)), (space, name, held)) for one in snapshots for space, name, held in one.names
    )
    there = [entry for entry in names if entry[2] is not GONE]
    # Nothing is written to most modules; every cell writes to the notebook's own.
    if quiet := [entry for entry in there if _is_quiet(entry[0])]:
        untouched, same = Untouched([space for space, _, _ in quiet]), _of_names(quiet)
        yield lambda: untouched.or_else(same)
    if rest := [entry for entry in there if not _is_quiet(entry[0])]:
        yield _of_names(rest)
    if gone := [entry for entry in names if entry[2] is GONE]:
        without, unknown, _ = (list(column) for column in zip(*gone, strict=True))
        yield lambda: not any(map(operator.contains, without, unknown))


def _is_quiet(space: Mapping[str, Any]) -> bool:
    return type(space) is dict and space.get("__name__") != "__main__"


def _of_names(entries: Sequence[tuple[Mapping[str, Any], str, Any]]) -> Callable[[], bool]:
    spaces, known, held = (list(column) for column in zip(*entries, strict=True))
    return lambda: all(map(operator.is_, map(operator.getitem, spaces, known), held))


def _of_classes(snapshots: Sequence[Snapshot]) -> Iterator[Callable[[], bool]]:
    rows = _once(
        ((id(cls), type(now), id(order), *map(id, was), *map(id, was.values())), (cls, order, now, was))
        for one in snapshots
        for cls, order, now, was in zip(one.classes, one.orders, one.attributes, one.attributes_were, strict=True)
    )
    if rows:
        classes, orders, attributes, were = (list(column) for column in zip(*rows, strict=True))
        keys, values = list(_chained(were)), list(_chained(map(_values, were)))
        yield (
            lambda: (
                list(_chained(attributes)) == keys
                and all(map(operator.is_, _chained(map(_values, attributes)), values))
                and all(map(operator.is_, map(_order, classes), orders))
            )
        )


class Untouched:
    """Whether nothing was written to some tables since they were last found to be the same.

    Torch tells a version of a table, which counts up with every change of an entry, as its compiler needs it. That
    takes a fraction of comparing what is in it. Where torch does not, they are compared each time.
    """

    def __init__(self, tables: Iterable[Mapping[str, Any] | dict[Any, Any]]) -> None:
        every = {id(table): table for table in tables}.values()
        kinds = set(map(type, every))
        self._version = version_of_tables() if kinds <= {dict, collections.OrderedDict} else None
        self._tables = list(every)
        # To move an entry in these is no change of it.
        self._ordered = [table for table in every if type(table) is collections.OrderedDict]
        self._orders = list(map(list, self._ordered))
        self._were: list[int] = []

    def or_else(self, same: Callable[[], bool]) -> bool:
        """Whether nothing was written to them, or they are the same all the same."""
        if self._version is None:
            return same()
        versions = list(map(self._version, self._tables))  # before comparing: what comes meanwhile counts next time
        if versions == self._were and list(map(list, self._ordered)) == self._orders:
            return True
        if not same():
            return False
        self._were, self._orders = versions, list(map(list, self._ordered))
        return True


@functools.cache
def version_of_tables() -> Callable[[Any], int] | None:
    """Torch's way to tell the version of a dict; None where it has none, or one that does not see every change."""
    try:
        from torch._C._dynamo.guards import dict_version
    except ImportError:
        return None

    class Thing:
        pass

    thing = Thing()
    table, seen = vars(thing), []
    changes: tuple[Callable[[], object], ...] = (
        lambda: setattr(thing, "a", 1.5),
        lambda: setattr(thing, "a", 2.5),
        lambda: table.update(a=3.5),
        lambda: table.pop("a"),
        lambda: table.setdefault("b", 1.5),
        lambda: delattr(thing, "b"),
        lambda: table.update(c=1),
        table.clear,
    )
    try:
        for change in changes:
            seen.append(dict_version(table))
            change()
        seen.append(dict_version(table))
    except Exception:
        return None
    return dict_version if len(set(seen)) == len(seen) else None


def _once(keyed: Iterable[tuple[Any, Any]]) -> list[Any]:
    """What has the same key is the same, and was the same: one of it is enough."""
    return list(dict(keyed).values())


def picture(held: Opaque) -> Any:
    """What an object is compared by, now."""
    return held.picture(held.thing)
