"""The types of what files hold, each with its bounds, and the one check of data against them.

A field of such a type says what a file may hold there: `units: Units`. Whatever is outside is refused when the file is
read, so nothing that was read can later be too large to compute with, to save or to show.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from esen_lab.common.units import MOST_UNITS
from esen_lab.errors import StoreError

MOST_SUBMODELS = 512
MOST_SECONDS = 1e8  # three years
LEAST_LATENCY_S = 1e-9

Units = Annotated[int, Meta(ge=1, le=MOST_UNITS)]
Seconds = Annotated[float, Meta(ge=0, le=MOST_SECONDS)]
Latency = Annotated[float, Meta(ge=LEAST_LATENCY_S, le=MOST_SECONDS)]
"""Seconds that something took: never none at all."""
Fraction = Annotated[float, Meta(ge=0, le=1)]
Name = Annotated[str, Meta(min_length=1, max_length=64)]
Text = Annotated[str, Meta(max_length=10_000)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
"""Of bytes, parameters, repeats: what a double still holds exactly."""

_T = TypeVar("_T")
_FIRST = threading.Lock()  # msgspec learns a type when it first meets it, and two threads that teach it crash it
_LEARNED: set[Any] = set()


def converted(data: Any, kind: type[_T], what: str) -> _T:
    """`data` as the type that a schema says.

    Args:
        data: Plain data, as `decode_json` gives it.
        kind: A dataclass, a `msgspec.Struct` or any other type that msgspec knows.
        what: What it is, for the message: "the plan".

    Raises:
        StoreError: It does not fit; the message names the place ("$.lanes[0].units").
    """
    try:
        if kind in _LEARNED:
            return msgspec.convert(data, kind, str_keys=True)
        with _FIRST:
            try:
                return msgspec.convert(data, kind, str_keys=True)
            finally:
                _LEARNED.add(kind)
    except (ValueError, RecursionError) as problem:
        told = " ".join(str(problem).replace("`", "").split())
        raise StoreError(f"{what[:1].upper()}{what[1:]} is damaged: {told}") from problem


def plain(record: Any) -> dict[str, Any]:
    """A record (a dataclass or a `msgspec.Struct`) as plain data by field, in the shapes that JSON gives back.

    Raises:
        TypeError: It holds what is no plain data.
    """
    data: dict[str, Any] = _lists(msgspec.to_builtins(record, str_keys=True, enc_hook=_builtin))
    return data


def _builtin(value: Any) -> Any:
    """What msgspec knows no form of: read-only mappings, and the numbers of NumPy."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (int, float)):
        return value.item() if hasattr(value, "item") else value
    raise TypeError(f"{type(value).__name__} is no plain data")


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, (list, tuple)) else value
