"""The threads of a process: what those of a lane do between calls (for `Worker.call`), which there are, a new one."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import torch

_CALLS = 10
_PAUSE_S = 0.02


def between_calls(step: Callable[[], None]) -> dict[str, Any]:
    """Processor time that threads other than this one take in a pause between calls, by the median of some, and where
    they may run."""
    for _ in range(5):
        step()
    this = threading.get_native_id()
    taken_ns = []
    for _ in range(_CALLS):
        step()
        before = _taken_ns()
        time.sleep(_PAUSE_S)
        after = _taken_ns()
        taken_ns.append(sum(after[tid] - before.get(tid, 0) for tid in after if tid != this))
    allowed = {tuple(sorted(os.sched_getaffinity(int(tid)))) for tid in os.listdir("/proc/self/task")}
    return {"taken_s": statistics.median(taken_ns) / 1e9, "allowed": [list(cpus) for cpus in sorted(allowed)]}


def _taken_ns() -> dict[int, int]:
    found = {}
    for tid in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{tid}/schedstat", encoding="ascii") as line:
            found[int(tid)] = int(line.read().split()[0])
    return found


def tasks() -> set[str]:
    """The threads of this process, Python's and others."""
    return set(os.listdir("/proc/self/task"))


def in_new_thread(act: Callable[[], Any], torch_threads: int = 4) -> Any:
    """What `act` returns in a thread that has no pool of OpenMP yet, as libgomp keeps one for each."""
    answers: list[Any] = []

    def call() -> None:
        try:
            torch.set_num_threads(torch_threads)
            answers.append(act())
        except BaseException as problem:
            answers.append(problem)

    were = torch.get_num_threads()
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    torch.set_num_threads(were)
    if isinstance(answers[0], BaseException):
        raise answers[0]
    return answers[0]
