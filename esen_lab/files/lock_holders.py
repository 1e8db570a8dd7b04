"""Who holds a lock of the system, from the kernel's own list; and when waiting for them is of no use any more."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

PATIENCE_S = 60.0
"""How long the same holder is waited for: as long as a point may usually take."""
STOPPED_S = 3.0
"""How long a stopped one is: what it began may still be under way in other processes."""
_LOOK_S = 0.25
_AGAIN_S = 2.0  # for a holder that was not waited for before


@dataclass(frozen=True, slots=True, kw_only=True)
class LockHolder:
    """A process that holds a lock. Two are equal when they are the same process.

    Attributes:
        pid: Its number.
        began: When it was started, in the kernel's ticks; "" when it is gone (then a child of it has the lock).
        stopped: Whether it is stopped (SIGSTOP, a debugger).
        name: Its program, and whose it is, as far as the system tells.
    """

    pid: int
    began: str
    stopped: bool = field(compare=False)
    name: str = field(compare=False)

    def __str__(self) -> str:
        return f"process {self.pid}" + (f" ({self.name})" if self.name else "")


def holders(fd: int, proc: Path = Path("/proc")) -> frozenset[LockHolder]:
    """The processes that hold an advisory lock on the open file; empty where the system does not tell."""
    found = os.fstat(fd)
    place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    try:
        lines = [line.split() for line in (proc / "locks").read_text().splitlines()]
    except OSError:
        return frozenset()
    # "1: FLOCK ADVISORY WRITE 1234 fe:00:131 0 EOF"; one that waits has "->" behind its number.
    locks = [words for words in lines if len(words) >= 6 and words[1] == "FLOCK" and words[4].isdigit()]
    mine = [words for words in locks if words[5] == place]
    if not mine:  # some file systems name another device here and there
        mine = [words for words in locks if words[5].rpartition(":")[2] == str(found.st_ino)]
    return frozenset(_holder(int(words[4]), proc) for words in mine if words[4] != "0")


def _holder(pid: int, proc: Path) -> LockHolder:
    folder = proc / str(pid)
    try:
        # The name, in parentheses, may hold anything; fields are counted from behind it.
        name, _, rest = (folder / "stat").read_text().partition("(")[2].rpartition(")")
        fields = rest.split()
        user = _user(folder.stat().st_uid)
    except (OSError, UnicodeDecodeError):
        return LockHolder(pid=pid, began="", stopped=False, name="ended; a child of it keeps the lock")
    return LockHolder(pid=pid, began=fields[19], stopped=fields[0] in "Tt", name=f"{name}, of user {user}")


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def began(pid: int, proc: Path = Path("/proc")) -> str:
    """When a process was started, which with its number says which one it is; "" where it is gone."""
    return _holder(pid, proc).began


class Patience:
    """Says when waiting for one file's lock has lasted long enough.

    Args:
        fd: The open file.
        clock: Seconds that only grow.
        given_up: Whom it was of no use to wait for before; waited for only briefly.
        who: Finds the holders.
    """

    def __init__(
        self,
        fd: int,
        clock: Callable[[], float],
        given_up: frozenset[LockHolder] | None,
        who: Callable[[int], frozenset[LockHolder]] = holders,
    ) -> None:
        self._fd = fd
        self._clock = clock
        self._given_up = given_up
        self._who = who
        self.holders: frozenset[LockHolder] | None = None
        self._looked_s = -_LOOK_S
        self._since_s = self._stopped_since_s = clock()

    def ended(self) -> str:
        """Why it is of no use to wait longer, or ""."""
        now = self._clock()
        if now - self._looked_s < _LOOK_S:
            return ""
        self._looked_s = now
        found = self._who(self._fd)
        if found != self.holders:
            self.holders = found
            self._since_s = self._stopped_since_s = now
        stopped = bool(found) and all(holder.stopped for holder in found)
        if not stopped:
            self._stopped_since_s = now
        known = found == self._given_up
        names = " and ".join(sorted(map(str, found))) or "another process"
        if stopped and (known or now - self._stopped_since_s >= STOPPED_S):
            return f"{names} holds the lock and is stopped"
        if now - self._since_s >= (_AGAIN_S if known else PATIENCE_S):
            return f"{names} keeps the lock for longer than {PATIENCE_S:.0f} s"
        return ""
