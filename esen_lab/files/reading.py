"""Read a file that may be anything: only an ordinary one, only so large, and JSON only so deep.

Depth is checked before the parser sees the text: a parser goes as deep as its input, and a notebook may have raised
Python's own limit far beyond what the stack holds.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import stat
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from esen_lab.common.words import did_you_mean
from esen_lab.errors import StoreError, UsageError

MOST_DEPTH = 32
_MOST_NAMES = 2000
_MOST_TOKEN_BYTES = 4096
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)  # one that is not closed goes to the end
_ALIKE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKET = bytes(code for code in range(256) if code not in b"[]{}")

_READABLE = "A file that is read is there and may be read"


def as_path(path: str | os.PathLike[str]) -> Path:
    """`path` as a path.

    Raises:
        UsageError: It cannot name a file.
    """
    if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
        raise UsageError("A file is named by text or a path", given=f"a {type(path).__name__}")
    text = os.fspath(path)
    if not text or "\0" in text:
        raise UsageError("A file's name has at least one character, and none that is zero", given=text)
    return Path(text)


def fixed_path(path: str | os.PathLike[str]) -> Path:
    """`path` as one that means the same file wherever this process goes later; "~" is the user's home.

    Raises:
        UsageError: It cannot name a file.
    """
    place = as_path(path)
    try:
        return place.expanduser().absolute()
    except (OSError, RuntimeError) as problem:  # the working folder was removed; this user has no home
        raise UsageError(
            "A file is named from the root on, where there is no working folder or no home to begin from",
            given=f"{str(place)!r}: {problem}",
        ) from problem


def read_bytes(path: str | os.PathLike[str], *, most: int | None = None) -> bytes:
    """The content of an ordinary file.

    Args:
        path: The file; links are followed.
        most: How many bytes it may have; None for any number.

    Raises:
        StoreError: It is missing, unreadable, larger, or a folder, a pipe or a device.
    """
    place = as_path(path)
    try:
        with _opened(place) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise StoreError(_READABLE, given=f"{str(place)!r}, which is no ordinary file")
            data = file.read() if most is None else file.read(most + 1)
    except (OSError, ValueError) as problem:
        hint = did_you_mean(place.name, names_beside(place)) if isinstance(problem, FileNotFoundError) else ""
        raise StoreError(_READABLE, given=f"{str(place)!r}: {_reason(problem)}", hint=hint) from problem
    if most is not None and len(data) > most:
        raise StoreError(f"A file of this kind has at most {most:,} bytes", given=f"{str(place)!r} has more")
    return data


def read_token(path: str | os.PathLike[str]) -> str:
    """The token that is in a file, without the spaces and line ends around it.

    Raises:
        StoreError: As for `read_bytes`, or it has more than 4 KiB.
        UsageError: There is nothing in it.
    """
    token = read_bytes(path, most=_MOST_TOKEN_BYTES).decode("utf-8", "replace").strip()
    if not token:
        raise UsageError("A token's file holds a token", given=f"{os.fspath(path)!r}, which is empty")
    return token


def names_beside(place: Path) -> list[str]:
    """The names of the files in a file's folder, of a huge folder some of them: one may be what was meant."""
    with contextlib.suppress(OSError), os.scandir(place.parent) as found:
        return [entry.name for entry in itertools.islice(found, _MOST_NAMES)]
    return []


def read_head(path: Path, size: int = 65_536) -> bytes:
    """The first `size` bytes of an ordinary file; raises `StoreError` as `read_bytes` does."""
    try:
        with _opened(path) as file:
            return file.read(size)
    except (OSError, ValueError) as problem:
        raise StoreError(_READABLE, given=f"{str(path)!r}: {_reason(problem)}") from problem


def _opened(path: Path) -> BinaryIO:
    # Without waiting: a pipe that nobody writes to would never open.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        return open(handle, "rb")
    except BaseException:  # a folder, which `open` refuses and does not close
        os.close(handle)
        raise


def decode_json(data: bytes, *, deepest: int = MOST_DEPTH) -> Any:
    """JSON as plain data. Of members with one name the last counts; there is no NaN and no infinity.

    Args:
        data: UTF-8.
        deepest: How many lists and objects may lie within each other.

    Raises:
        StoreError: It is not JSON, or deeper.
    """
    brackets = _STRING.sub(b"", data).translate(_ALIKE, _NO_BRACKET)
    for _ in range(deepest):
        before = len(brackets)
        brackets = brackets.replace(b"[]", b"")
        if len(brackets) == before:  # none is left, or none matches: no need to look again
            break
    if brackets:
        raise StoreError("Data is JSON", given=f"more than {deepest} levels, or brackets that do not match")
    try:
        return msgspec.json.decode(data)
    except (ValueError, RecursionError) as problem:
        raise StoreError("Data is JSON", given=str(problem)) from problem


def _reason(problem: OSError | ValueError) -> str:
    return problem.strerror or str(problem) if isinstance(problem, OSError) else str(problem)
