"""What the code of sub-models starts, and that none of it outlives its worker.

Every worker, and the fork server above them, adopts what its descendants leave behind (PR_SET_CHILD_SUBREAPER): a
daemon that has forked twice into a session of its own stays below its worker while that lives, and comes to the fork
server when the worker has ended. So a child of the fork server that is no worker belonged to a worker that is gone,
and is ended.

Where the fork server itself was killed, its descendants are known by a mark in the environment they were started with.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Collection
from pathlib import Path

MARK = "ESEN_LAB_LANES"
_PR_SET_CHILD_SUBREAPER = 36
_PATIENCE_S = 1.0
_MOST_MARKED_BYTES = 1 << 20


def adopt() -> None:
    """From now on, orphans among this process's descendants become its children."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_children(but: Collection[int] = ()) -> None:
    """End every child of this process but those named, and whatever they leave behind: it becomes a child in turn."""
    deadline = time.monotonic() + _PATIENCE_S
    while ended := [pid for pid in _children() if pid not in but]:
        for pid in ended:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        for pid in ended:
            _wait_for(pid, deadline)
        if time.monotonic() >= deadline:
            return


def _wait_for(pid: int, deadline: float) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(pid, os.WNOHANG)[0] == 0 and time.monotonic() < deadline:
            time.sleep(0.0005)


def _children() -> list[int]:
    """The children of this process, which has one thread."""
    try:
        words = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    except OSError:
        return []
    return [int(word) for word in words]


def end_marked(mark: str) -> None:
    """End every process of this user that was started with `mark` in its environment."""
    wanted = f"{MARK}={mark}".encode()
    deadline = time.monotonic() + _PATIENCE_S
    while found := [pid for pid in _processes() if _holds(pid, wanted)]:
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() >= deadline:
            return
        time.sleep(0.005)


def _processes() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]
    except OSError:
        return []


def _holds(pid: int, wanted: bytes) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:  # empty once it has ended
            return wanted in file.read(_MOST_MARKED_BYTES).split(b"\0")
    except OSError:
        return False
