"""Put a finished folder in the place of another, so that at every moment the old one or the new one is there."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from esen_lab.errors import StoreError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def replace_folder(folder: Path, files: Mapping[str, bytes]) -> tuple[Path, ...]:
    """Write `files` into a new folder and put it in the place of `folder`.

    The new folder is complete, and on the disk, before the old one goes. Linux exchanges both in one step; elsewhere
    there is a moment in which the old one has been moved aside.

    Raises:
        StoreError: It cannot be written; the old folder is as it was, and nothing is left behind.
    """
    made: Path | None = None
    try:
        made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".tmp"))
        for name, data in files.items():
            with open(made / name, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        os.chmod(made, 0o755)  # noqa: S103  mkdtemp makes it private, and an export is to be passed on
        if not folder.exists():
            os.rename(made, folder)
        elif _exchange(made, folder):
            shutil.rmtree(made)
        else:
            aside = made.with_suffix(".old")
            os.rename(folder, aside)
            try:
                os.rename(made, folder)
            except BaseException:
                os.rename(aside, folder)
                raise
            shutil.rmtree(aside)
    except OSError as problem:
        raise StoreError(
            f"{str(folder)!r} can be written",
            given=problem.strerror or str(problem),
            hint="Choose another folder, or make room there.",
        ) from problem
    finally:
        if made is not None and made.exists():
            shutil.rmtree(made, ignore_errors=True)
    return tuple(folder / name for name in sorted(files))


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
