"""In which order lanes are woken.

A lane that is woken may take the core of the thread that wakes it, at once and for milliseconds, above all when that
thread has just computed. The lanes after it would then be woken late. So whoever shares this thread's core comes last.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence


class WakingOrder:
    """Knows the cores of each lane, and on which core the calling thread runs.

    Args:
        pids: The process of each lane; this process's own for one that is no process.
    """

    def __init__(self, pids: Sequence[int]) -> None:
        self._cores = [_cores_of(pid) for pid in pids]
        self._here: Callable[[], int] | None = getattr(ctypes.CDLL(None), "sched_getcpu", None)

    def of(self, lanes: Sequence[int]) -> Sequence[int]:
        """The same lanes in the same order, but those that may take the core we are on at the end."""
        if self._here is None or len(lanes) < 2:
            return lanes
        here = self._here()
        return sorted(lanes, key=lambda lane: here in self._cores[lane])


def _cores_of(pid: int) -> set[int]:
    try:
        return os.sched_getaffinity(pid) if pid != os.getpid() else set()
    except (AttributeError, OSError):  # not Linux, or it has just ended
        return set()
