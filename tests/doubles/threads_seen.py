"""What the threads of a lane do between calls, for `Worker.call`."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

_CALLS = 10
_PAUSE_S = 0.02


def between_calls(step: Callable[[], None]) -> dict[str, Any]:
    """Processor time that threads other than this one take per pause between calls, and where they may run."""
    for _ in range(5):
        step()
    this = threading.get_native_id()
    taken_ns = 0
    for _ in range(_CALLS):
        step()
        before = _taken_ns()
        time.sleep(_PAUSE_S)
        after = _taken_ns()
        taken_ns += sum(after[tid] - before.get(tid, 0) for tid in after if tid != this)
    allowed = {tuple(sorted(os.sched_getaffinity(int(tid)))) for tid in os.listdir("/proc/self/task")}
    return {"taken_s": taken_ns / _CALLS / 1e9, "allowed": [list(cpus) for cpus in sorted(allowed)]}


def _taken_ns() -> dict[int, int]:
    found = {}
    for tid in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{tid}/schedstat", encoding="ascii") as line:
            found[int(tid)] = int(line.read().split()[0])
    return found
