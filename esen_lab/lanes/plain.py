"""Plain data between processes: what a worker says is read as numbers and text, never as code.

A value is a list of *tokens*, one operation after another, in the order of a walk:

    token   :=  int | float | str
    value   :=  NONE | TRUE | FALSE | INT n | WIDE text | FLOAT x | TEXT s | ODD_TEXT b | BYTES b
             |  TUPLE n value*n | LIST n value*n | DICT n (value value)*n
    b       :=  bytes as the characters 0 to 255

The list is flat, so that reading it goes no deeper than this module lets it, whatever was sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeAlias, TypeVar

import msgspec

from esen_lab.common.tensors import ALIGNMENT, DTYPES, MEMORY_FORMATS
from esen_lab.common.trees import MOST_LEVELS, TensorSpec, TreeSpec
from esen_lab.errors import WorkerDied
from esen_lab.lanes.arena import Layout, bytes_of

Token: TypeAlias = int | float | str
NONE, TRUE, FALSE, INT, WIDE, FLOAT, TEXT, ODD_TEXT, BYTES, TUPLE, LIST, DICT = range(12)
_DEEPEST = 2 * MOST_LEVELS + 20  # a structure nests twice per level
_MOST_VALUES = 1_000_000
_MOST_BYTES = 2**62
_CONSTANTS = (type(None), bool, int, float, str)
_KINDS: Mapping[Token, type] = {INT: int, FLOAT: float, TEXT: str, TUPLE: int, LIST: int, DICT: int}
_T = TypeVar("_T")


class NotPlain(ValueError):  # noqa: N818  what is wrong with it
    """What was received is not what may be sent."""


class PlainTensor(msgspec.Struct, frozen=True, array_like=True):
    """A `TensorSpec` on its way."""

    dtype: str
    shape: list[int]
    channels_last: bool


class PlainLayout(msgspec.Struct, frozen=True, array_like=True):
    """A `Layout` on its way."""

    structure: list[Token]
    tensors: list[PlainTensor]
    offsets: list[int]
    size: int


def tokens_of(value: Any) -> list[Token]:
    """A value as tokens; a dataclass becomes a dict of its fields.

    Raises:
        TypeError: It is something else than None, numbers, text, bytes, and tuples, lists and dicts of them.
    """
    found: list[Token] = []
    _write(value, found, 0)
    return found


def _write(value: Any, to: list[Token], level: int) -> None:
    if level > _DEEPEST:
        raise TypeError(f"a value has at most {_DEEPEST} levels")
    scalar = _scalar(value)
    if scalar is not None:
        to += scalar
    elif isinstance(value, (tuple, list)):
        to += (LIST if isinstance(value, list) else TUPLE, len(value))
        for part in value:
            _write(part, to, level + 1)
    elif isinstance(value, Mapping) or is_dataclass(value):
        pairs = value if isinstance(value, Mapping) else {f.name: getattr(value, f.name) for f in fields(value)}
        to += (DICT, len(pairs))
        for key, part in pairs.items():
            _write(key, to, level + 1)
            _write(part, to, level + 1)
    else:
        kind = type(value)
        raise TypeError(f"what a worker answers is plain data, not {kind.__module__}.{kind.__qualname__}")


def _scalar(value: Any) -> Sequence[Token] | None:
    if value is None:
        return (NONE,)
    if isinstance(value, bool):
        return (TRUE if value else FALSE,)
    if isinstance(value, int):
        return (INT, int(value)) if -(2**63) <= value < 2**63 else (WIDE, hex(value))
    if isinstance(value, float):
        return FLOAT, float(value)
    if isinstance(value, str):
        return _text(str(value))
    if isinstance(value, (bytes, bytearray)):
        return BYTES, value.decode("latin-1")
    return None


def _text(value: str) -> tuple[Token, Token]:
    try:
        value.encode()
    except UnicodeEncodeError:  # half a surrogate pair, as in names of files that are no text
        return ODD_TEXT, value.encode(errors="surrogatepass").decode("latin-1")
    return TEXT, value


def value_of(tokens: list[Token]) -> Any:
    """The value of tokens.

    Raises:
        NotPlain: They are not those of one value.
    """
    rest = iter(tokens)
    try:
        value = _read(rest, 0, [_MOST_VALUES])
    except (StopIteration, TypeError, ValueError, OverflowError) as problem:
        raise NotPlain(f"tokens do not make a value: {problem}") from problem
    if next(rest, None) is not None:
        raise NotPlain("tokens go on after a value")
    return value


def _read(rest: Iterator[Token], level: int, left: list[int]) -> Any:
    left[0] -= 1
    if level > _DEEPEST or left[0] < 0:
        raise NotPlain("a value is too deep or too long")
    what = next(rest)
    if what == NONE:
        return None
    if what in (TRUE, FALSE):
        return what == TRUE
    given = next(rest)
    if what == WIDE and isinstance(given, str) and len(given) < 1000:
        return int(given, 16)
    if what in (BYTES, ODD_TEXT) and isinstance(given, str):
        data = given.encode("latin-1")
        return data if what == BYTES else data.decode(errors="surrogatepass")
    wanted = _KINDS.get(what)
    if wanted is None or type(given) is not wanted:
        raise NotPlain("an unknown token")
    if what in (INT, FLOAT, TEXT):
        return given
    count = int(given)
    if not 0 <= count <= left[0]:
        raise NotPlain("more parts than there can be")
    if what == DICT:
        return {_read(rest, level + 1, left): _read(rest, level + 1, left) for _ in range(count)}
    parts = [_read(rest, level + 1, left) for _ in range(count)]
    return parts if what == LIST else tuple(parts)


def as_kind(value: Any, kind: type[_T]) -> _T:
    """A value that a worker has answered, as what its caller expects.

    Raises:
        NotPlain: It is something else.
    """
    try:
        if isinstance(value, kind):
            return value
    except TypeError:  # such as tuple[str, ...]
        pass
    try:
        return msgspec.convert(value, kind)
    except (ValueError, RecursionError) as problem:
        raise NotPlain(str(problem)) from problem


def as_answer(value: Any, kind: type[_T]) -> _T:
    """What `Worker.call` has answered, as what was called for.

    Raises:
        WorkerDied: It is something else, so the process is not what it was.
    """
    try:
        return as_kind(value, kind)
    except NotPlain as problem:
        raise WorkerDied(
            "A worker answers what it was asked", given=str(problem), hint="Look at what the sub-model does."
        ) from problem


def plain_layout(layout: Layout) -> PlainLayout:
    """A layout, ready to be sent."""
    return PlainLayout(
        structure=tokens_of(layout.spec.structure),
        tensors=[PlainTensor(spec.dtype, list(spec.shape), spec.channels_last) for spec in layout.spec.tensors],
        offsets=list(layout.offsets),
        size=layout.size,
    )


def layout_of(plain: PlainLayout, block_bytes: int) -> Layout:
    """A layout that was received.

    Raises:
        NotPlain: It describes no tensors, or none that lie in such a block.
    """
    structure = value_of(plain.structure)
    count = check_structure(structure)
    if not count == len(plain.tensors) == len(plain.offsets):
        raise NotPlain("another number of tensors than the structure has")
    specs = []
    for tensor, offset in zip(plain.tensors, plain.offsets, strict=True):
        if tensor.dtype not in DTYPES or len(tensor.shape) > 64:
            raise NotPlain("a tensor that lanes do not exchange")
        length = bytes_of(tensor.dtype, tensor.shape)
        if any(not 0 <= size < _MOST_BYTES for size in tensor.shape) or length > _MOST_BYTES:
            raise NotPlain("a tensor of an impossible shape")
        if tensor.channels_last and len(tensor.shape) not in MEMORY_FORMATS:
            raise NotPlain("a tensor without channels that lie last")
        if offset < 0 or offset % ALIGNMENT or (length and offset + length > block_bytes):
            raise NotPlain("a tensor outside its memory")
        specs.append(TensorSpec(dtype=tensor.dtype, shape=tuple(tensor.shape), channels_last=tensor.channels_last))
    return Layout(
        spec=TreeSpec(structure=structure, tensors=tuple(specs)), offsets=tuple(plain.offsets), size=plain.size
    )


def check_structure(structure: Any) -> int:
    """Check that a value is a structure of `trees`; returns how many tensors it has.

    Raises:
        NotPlain: It is not.
    """
    if not isinstance(structure, tuple) or not structure:
        raise NotPlain("no structure of a tree")
    kind, *parts = structure
    if kind == "tensor" and not parts:
        return 1
    if kind == "const" and 1 <= len(parts) <= 2 and all(isinstance(part, _CONSTANTS) for part in parts):
        return 0
    if kind in ("tuple", "list") and len(parts) == 1 and isinstance(parts[0], tuple):
        return sum(check_structure(child) for child in parts[0])
    if kind == "named" and len(parts) == 3 and all(isinstance(part, tuple) for part in (parts[0], parts[2])):
        children, place, fields = parts
        if isinstance(place, str) and len(fields) == len(children) and all(isinstance(name, str) for name in fields):
            return sum(check_structure(child) for child in children)
    if kind == "dict" and len(parts) == 2 and all(isinstance(part, tuple) for part in parts):
        keys, children = parts
        if len(keys) == len(children) and all(_is_key(key) for key in keys):
            return sum(check_structure(child) for child in children)
    raise NotPlain("no structure of a tree")


def _is_key(key: Any) -> bool:
    return isinstance(key, (str, int)) or (isinstance(key, tuple) and all(_is_key(part) for part in key))
