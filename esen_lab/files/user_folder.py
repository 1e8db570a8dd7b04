"""The folder of this user in which the package keeps what it has found out."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from esen_lab.errors import StoreError

HOME = "ESEN_LAB_HOME"
"""The environment variable that names another folder for all of it."""


def named_folder(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The folder that `$ESEN_LAB_HOME` names, or None.

    A relative one begins where this process was when it was first asked for: it stays the same folder wherever the
    process goes later.

    Raises:
        StoreError: There is no home or no working folder to begin from.
    """
    given = environment.get(HOME, "")
    try:
        return _fixed(given) if given else None
    except (OSError, RuntimeError) as problem:
        raise _nowhere(problem) from problem


@functools.cache
def _fixed(folder: str) -> Path:
    return Path(folder).expanduser().absolute()


def user_folder(environment: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """Where that is; it need not exist.

    `$ESEN_LAB_HOME`, else the folder `esen_lab` of `$XDG_CACHE_HOME` (where that is absolute, as its specification
    demands), of `~/Library/Caches` on macOS, of `~/.cache` elsewhere.

    Raises:
        StoreError: This user has no home.
    """
    named = named_folder(environment)
    if named is not None:
        return named
    caches = Path(environment.get("XDG_CACHE_HOME", ""))
    try:
        if not caches.is_absolute():
            caches = Path.home() / ("Library/Caches" if platform == "darwin" else ".cache")
    except RuntimeError as problem:  # a user without a home, as containers have them
        raise _nowhere(problem) from problem
    return caches / "esen_lab"


def _nowhere(problem: Exception) -> StoreError:
    return StoreError(
        "Points are kept in a folder of the user's",
        given=str(problem),
        hint=f"Set {HOME} to a folder that can be written.",
    )
