"""Temporary files and folders beside the real ones: who makes them, who sweeps up after a writer that was killed.

    .NAME.esen-0123456789ab.tmp    what is being written; gone when it is done
    .NAME.esen-0123456789ab.old    a folder that is being replaced, where two folders cannot change places in one step

A writer locks what it makes (`flock`, which ends with its process), and the next writer in that folder removes
what nobody holds. Where there are no such locks nothing is swept up.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform != "win32":
    import fcntl

_OURS = re.compile(r"\.(?P<name>.+)\.esen-[0-9a-f]{12}\.(?P<kind>tmp|old)", re.DOTALL)


def temporary_name(path: Path, suffix: str = ".tmp") -> Path:
    """A name beside `path` that nobody has."""
    name = path.name if suffix == ".old" else path.name[:40]
    return path.with_name(f".{name}.esen-{secrets.token_hex(6)}{suffix}")


@contextmanager
def temporary_file(path: Path) -> Iterator[tuple[Path, int]]:
    """A new file beside `path`, open for writing and locked; removed at the end where it is still there."""
    while True:
        made = temporary_name(path)
        handle = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o666)
        if _locked(handle, made):
            break
        os.close(handle)
    try:
        yield made, handle
    finally:
        with contextlib.suppress(OSError):
            os.close(handle)
        with contextlib.suppress(OSError):
            made.unlink(missing_ok=True)


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path`, locked; removed at the end where it is still there."""
    while True:
        made = temporary_name(path)
        made.mkdir()
        handle = open_folder(made)
        if handle is None or _locked(handle, made):
            break
        os.close(handle)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        if handle is not None:
            os.close(handle)


def open_folder(path: Path) -> int | None:
    """A handle of a folder, to lock or to sync it; None where the system has none."""
    if sys.platform == "win32":
        return None
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None


def lock(handle: int, *, wait: bool = False) -> bool:
    """Lock what a handle is of; False where somebody else has done so. True also where there are no locks."""
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:  # some network file systems
        return True
    return True


def sweep(folder: Path) -> None:
    """Remove what killed writers left in `folder`. Never raises."""
    if sys.platform == "win32":
        return
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in [entry for entry in entries if _OURS.fullmatch(entry.name)]:
            with contextlib.suppress(OSError):
                _remove_if_dead(Path(entry.path))


def _remove_if_dead(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        about = os.fstat(handle)
        if about.st_uid != os.geteuid() or not (stat.S_ISREG(about.st_mode) or stat.S_ISDIR(about.st_mode)):
            return
        # Not `lock`: where there are no locks nobody can tell whether its writer lives.
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(path, folder=stat.S_ISDIR(about.st_mode))
    finally:
        os.close(handle)


def _remove(path: Path, *, folder: bool) -> None:
    found = _OURS.fullmatch(path.name)
    assert found is not None
    if found["kind"] == "old" and not os.path.lexists(path.with_name(found["name"])):
        os.rename(path, path.with_name(found["name"]))  # its writer was killed before the new one took its place
    elif folder:
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _locked(handle: int, path: Path) -> bool:
    """Lock a new file or folder; False where a sweeper was faster and it is gone."""
    lock(handle, wait=True)
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except FileNotFoundError:
        return False
