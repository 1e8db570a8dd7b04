"""The one way to write a file: only in the place of one of its kind, whole or not at all.

    1. what has the name already is looked at; anything but a file of the same kind stays, and the call is refused
    2. what killed writers left in this folder is swept up
    3. the new content goes to a temporary file beside it, and to the disk
    4. one rename puts it in place: readers see the old file or the new one

A link stays a link: what it points to is written. A new file has the permissions that the user's umask leaves, a
replaced one those it had.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from esen_lab.errors import StoreError, UsageError
from esen_lab.files.leftovers import open_folder, sweep, temporary_file
from esen_lab.files.reading import as_path, read_head

OTHER_NAME = "Choose another name, or remove that file first."


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of file that we write.

    Attributes:
        what: What it is, with its article: "a plan".
        is_one: Whether the first bytes of a file are those of this kind.
        example: A sensible name for one.
        never: Suffixes that name something else, whatever is there.
    """

    what: str
    is_one: Callable[[bytes], bool]
    example: str
    never: frozenset[str] = frozenset({".py", ".ipynb"})


def check_free(path: str | os.PathLike[str], kind: Kind) -> Path:
    """Whether a file of this kind may be written there.

    Returns:
        What is written: `path` with links followed.

    Raises:
        UsageError: Something else has that name, or the name is that of something else.
        StoreError: What is there cannot be looked at, or is protected.
    """
    asked = as_path(path)
    if asked.suffix.lower() in kind.never:
        raise UsageError(
            f"The name of {kind.what} is not that of another kind of file",
            given=repr(str(asked)),
            hint=f'Give a name such as "{kind.example}".',
        )
    target = Path(os.path.realpath(asked))
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        return target
    except OSError as problem:
        raise _cannot(asked, problem) from problem
    if not stat.S_ISREG(mode) or not kind.is_one(read_head(target)):
        raise UsageError(
            f"{kind.what[:1].upper()}{kind.what[1:]} is written only in the place of another one",
            given=f"{str(asked)!r}, which is {'a folder' if stat.S_ISDIR(mode) else 'another file'}",
            hint="Choose another name, or one inside it." if stat.S_ISDIR(mode) else OTHER_NAME,
        )
    if not mode & 0o222:
        raise StoreError(
            "A file that is protected is not written over", given=f"{str(asked)!r}", hint="Choose another name."
        )
    return target


def write_file(path: str | os.PathLike[str], data: bytes, kind: Kind) -> Path:
    """Write `data`, in the place of a file of the same kind or of none.

    Returns:
        The path as given.

    Raises:
        UsageError: Something else has that name, or the name is that of something else; it is as it was.
        StoreError: The folder is missing, protected or full; an old file is as it was, and nothing is left behind.
    """
    target = check_free(path, kind)
    sweep(target.parent)
    try:
        with temporary_file(target) as (made, handle):
            with open(handle, "wb", closefd=False) as file:
                file.write(data)
            _as_before(handle, target)
            os.fsync(handle)
            os.replace(made, target)
        _sync_folder(target.parent)
    except OSError as problem:
        raise _cannot(as_path(path), problem) from problem
    return as_path(path)


def _as_before(handle: int, target: Path) -> None:
    """Give a new file the owner and the permissions of the one that it replaces."""
    try:
        old = os.stat(target)
    except FileNotFoundError:
        return
    if hasattr(os, "fchown"):
        with contextlib.suppress(PermissionError):
            os.fchown(handle, old.st_uid, old.st_gid)
        os.fchmod(handle, stat.S_IMODE(old.st_mode))


def _sync_folder(folder: Path) -> None:
    handle = open_folder(folder)
    if handle is not None:
        with contextlib.suppress(OSError):  # not every file system has it; the file itself is on the disk
            os.fsync(handle)
        os.close(handle)


def _cannot(path: Path, problem: OSError) -> StoreError:
    gone = isinstance(problem, FileNotFoundError)
    return StoreError(
        "A file is written where that is allowed and there is room",
        given=f"{str(path)!r}: {problem.strerror or problem}",
        hint=f"{'Make its folder first' if gone else 'Make room there'}, or choose another folder.",
    )
