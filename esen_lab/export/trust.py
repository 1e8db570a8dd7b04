"""Which exported folders may run here without being asked about: those that this user exported, byte for byte.

    TRUSTED/<digest>     one small file per export; that it is there is all that counts, its text is for people

An entry is named by the digest of everything that is loaded from a folder, never by a path: a folder whose content has
changed is another one, and one that was moved is the same. Only entries count that belong to this user and that nobody
else can write; whatever else lies there is passed over, so a damaged list forgets, and never trusts more.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from esen_lab.errors import StoreError
from esen_lab.files.user_folder import named_folder

_DIGEST = re.compile(r"[0-9a-f]{64}")


def content_digest(files: Mapping[str, bytes]) -> str:
    """One number for the names and the content of all `files`: 64 hexadecimal digits."""
    whole = hashlib.sha256(b"esen_lab export 1")
    for name, data in sorted(files.items()):
        for part in (name.encode("utf-8", "surrogatepass"), data):
            whole.update(len(part).to_bytes(8, "big"))
            whole.update(part)
    return whole.hexdigest()


def trusted_folder(environment: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """Where the list is kept: in `$ESEN_LAB_HOME`, else in the user's folder for settings. One per user."""
    name = f"trusted.{os.getuid()}"
    home = named_folder(environment)
    if home is not None:
        return home / name
    settings = Path(environment.get("XDG_CONFIG_HOME", ""))
    if not settings.is_absolute():
        settings = Path.home() / ("Library/Application Support" if platform == "darwin" else ".config")
    return settings / "esen_lab" / name


def remember(digest: str, what: str, *, folder: Path | None = None) -> bool:
    """Trust this content from now on.

    Args:
        digest: What `content_digest` gave.
        what: For people who look at the list: where it was exported to.
        folder: The list; None for `trusted_folder()`.

    Returns:
        Whether it is remembered: not where the list cannot be written, or is not this user's alone.
    """
    try:
        folder = trusted_folder() if folder is None else folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        if not _ours(folder, stat.S_ISDIR):
            return False
        entry = folder / digest
        if not _ours(entry, stat.S_ISREG):
            told = {"exported": what, "at": datetime.now(UTC).isoformat(timespec="seconds")}
            handle = os.open(entry, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(json.dumps(told) + "\n")
    except (OSError, RuntimeError, StoreError):  # the last two: a user without a home
        return False
    return True


def is_remembered(digest: str, *, folder: Path | None = None) -> bool:
    """Whether this very content is trusted.

    Args:
        digest: What `content_digest` gave.
        folder: The list; None for `trusted_folder()`.
    """
    try:
        folder = trusted_folder() if folder is None else folder
        return bool(_DIGEST.fullmatch(digest) and _ours(folder, stat.S_ISDIR) and _ours(folder / digest, stat.S_ISREG))
    except (OSError, RuntimeError, StoreError):
        return False


def _ours(path: Path, is_kind: Callable[[int], bool]) -> bool:
    """Whether it is there, of that kind and no link, this user's, and writable by nobody else."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    return is_kind(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
