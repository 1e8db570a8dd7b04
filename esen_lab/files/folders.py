"""Put a finished folder in the place of another, so that at every moment the old one or the new one is there."""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from esen_lab.errors import StoreError
from esen_lab.files.leftovers import lock, open_folder, sweep, temporary_folder, temporary_name

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def write_folder(folder: Path, files: Mapping[str, bytes], *, programs: Collection[str] = ()) -> tuple[Path, ...]:
    """Write `files` into a new folder and put it in the place of `folder`.

    Names may be paths ("models/a/config"). `programs` are those that may be executed.

    The new folder is complete, and on the disk, before the old one goes. Linux exchanges both in one step; elsewhere
    there is a moment in which the old one has been moved aside, and whoever writes there next brings it back if this
    process was killed just then. Whether `folder` may be replaced is the caller's to know.

    It has the permissions of the folder that it replaces.

    Raises:
        StoreError: It cannot be written, or what is there is protected; the old folder is as it was, and nothing is
            left behind.
    """
    sweep(folder.parent)
    mode = _mode_of(folder)
    if mode is not None and not mode & 0o222:
        raise StoreError(
            "A folder that is protected is not replaced", given=f"{str(folder)!r}", hint="Choose another name."
        )
    try:
        with temporary_folder(folder) as made:
            for name, data in files.items():
                (made / name).parent.mkdir(parents=True, exist_ok=True)
                with open(made / name, "xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                    if name in programs:
                        os.fchmod(file.fileno(), 0o755)  # a script that its user starts
            if mode is not None:
                os.chmod(made, mode)
            _put_in_place(made, folder)
    except OSError as problem:
        raise StoreError(
            "A folder is written where that is allowed and there is room",
            given=f"{str(folder)!r}: {problem.strerror or problem}",
            hint="Choose another folder, or make room there.",
        ) from problem
    return tuple(folder / name for name in sorted(files))


def _mode_of(folder: Path) -> int | None:
    """The permissions of a folder that is there."""
    try:
        return stat.S_IMODE(os.stat(folder).st_mode)
    except OSError:
        return None


def _put_in_place(made: Path, folder: Path) -> None:
    if not folder.exists():
        os.rename(made, folder)
    elif not _exchange(made, folder):
        aside = temporary_name(folder, ".old")
        with _held(folder):
            os.rename(folder, aside)
            try:
                os.rename(made, folder)
            except BaseException:
                os.rename(aside, folder)
                raise
            shutil.rmtree(aside)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Keep sweepers from what is moved aside: they would bring it back."""
    handle = open_folder(folder)
    try:
        if handle is not None:
            lock(handle)
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _exchange(one: Path, other: Path) -> bool:
    """Let two paths change places in one step; False where the system cannot."""
    if sys.platform != "linux":
        return False
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):  # a C library without it
        return False
    done = rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    return bool(done == 0)
