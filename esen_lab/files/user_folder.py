"""The folder of this user in which the package keeps what it has found out."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from esen_lab.errors import StoreError


def user_folder(environment: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """Where that is; it need not exist.

    `$ESEN_LAB_HOME`, else the folder `esen_lab` of `$XDG_CACHE_HOME` (where that is absolute, as its specification
    demands), of `~/Library/Caches` on macOS, of `~/.cache` elsewhere.

    Raises:
        StoreError: This user has no home.
    """
    home = environment.get("ESEN_LAB_HOME", "")
    try:
        if home:
            return Path(home).expanduser()
        caches = Path(environment.get("XDG_CACHE_HOME", ""))
        if not caches.is_absolute():
            caches = Path.home() / ("Library/Caches" if platform == "darwin" else ".cache")
    except RuntimeError as problem:  # a user without a home, as containers have them
        raise StoreError(
            "Points are kept in a folder of the user's",
            given=str(problem),
            hint="Set ESEN_LAB_HOME to a folder that can be written.",
        ) from problem
    return caches / "esen_lab"
