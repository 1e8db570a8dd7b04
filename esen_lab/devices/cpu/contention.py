"""How much of the time that a process wanted a core it had to wait for one: what other programs took from it.

    ran      CPU time of its threads
    waited   time in which they could have run and did not: the kernel's own count, in nanoseconds (schedstat)
    others   CPU time on its cores that was not its own (/proc/stat), and what a hypervisor took ("steal")

    load  =  waited / (ran + waited)

The kernel's count is exact within a few milliseconds; /proc/stat ticks 100 times a second. But threads of the process
that wait for each other count as waiting too, and a neighbour on the other hardware thread of a core does not. So
`waited` is held between what `others` can have been, given the ticks. With a program that burns the same core, the
load read is 0.5 within 0.03 for windows from 30 ms on; on cores that nobody else uses, below 0.03.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

LOADED = 0.1
"""From this load on, latencies are not what they are on a quiet machine: a tenth of the time is missing."""
_PROC = Path("/proc")
_TICK_S = 0.01  # USER_HZ is 100 wherever Linux runs
_NOT_BUSY = (3, 4, 8, 9)  # places in a line of /proc/stat: idle, waiting for disks; guests are in "user" already


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSample:
    """Seconds counted since some beginning; two samples make a load.

    Attributes:
        ran_s: CPU time of the process.
        waited_s: Time in which its threads waited for a core.
        busy_s: CPU time of everybody on its cores, a hypervisor included; None where not asked or not told.
    """

    ran_s: float
    waited_s: float
    busy_s: float | None = None


def sample_load(
    pids: Collection[int | str] = ("self",), cores: Collection[int] | None = None, proc: Path = _PROC
) -> LoadSample | None:
    """What was counted until now; None where the system does not tell (it is not Linux, or a process has ended).

    Args:
        pids: The processes.
        cores: The logical CPUs that nobody but these processes should use; None: they have none of their own.
        proc: Where the kernel describes processes.
    """
    ran_ns = waited_ns = 0
    try:
        for pid in pids:
            for task in os.listdir(proc / str(pid) / "task"):
                ran, waited = _of_task(proc / str(pid) / "task" / task / "schedstat")
                ran_ns += ran
                waited_ns += waited
    except (OSError, ValueError):
        return None
    busy_s = _of_cores(proc / "stat", cores) if cores else None
    return LoadSample(ran_s=ran_ns / 1e9, waited_s=waited_ns / 1e9, busy_s=busy_s)


def load_between(before: LoadSample | None, after: LoadSample | None, cores: int = 0) -> float | None:
    """The load between two samples of the same processes, 0 to 1; None where it is not known, or they never ran.

    Args:
        before: The first one.
        after: The second one.
        cores: On how many logical CPUs `busy_s` was counted.
    """
    if before is None or after is None:
        return None
    ran_s = after.ran_s - before.ran_s
    if ran_s <= 0:
        return None
    waited_s = max(0.0, after.waited_s - before.waited_s)  # threads that ended took their count with them
    if before.busy_s is not None and after.busy_s is not None:
        blurred_s = 2 * _TICK_S * max(1, cores)
        others_s = after.busy_s - before.busy_s - ran_s
        waited_s = min(max(waited_s, others_s - blurred_s, 0.0), max(others_s + blurred_s, 0.0))
    return min(1.0, waited_s / (ran_s + waited_s))


def _of_task(path: Path) -> tuple[int, int]:
    """Nanoseconds that a thread ran, and waited to run."""
    try:
        with open(path, "rb") as file:
            ran, waited, *_ = file.read().split()
    except FileNotFoundError:
        return 0, 0  # it ended since the list was made
    return int(ran), int(waited)


def _of_cores(path: Path, cores: Collection[int]) -> float | None:
    names = {f"cpu{core}" for core in cores}
    ticks = found = 0
    try:
        with open(path, encoding="ascii") as lines:
            for line in lines:
                if not line.startswith("cpu"):
                    break
                name, *counts = line.split()
                if name in names:
                    found += 1
                    ticks += sum(int(count) for place, count in enumerate(counts) if place not in _NOT_BUSY)
    except (OSError, ValueError):
        return None
    # A container may be shown other cores than it has.
    return ticks * _TICK_S if found == len(names) else None


def busy_part(
    cores: Collection[int],
    *,
    for_s: float = 0.1,
    proc: Path = _PROC,
    pause: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> float | None:
    """The part of these logical CPUs' time, 0 to 1, that others use now; None where it is not told.

    This process and all that it has started are not others: lanes that import what they need, threads that spin.

    Args:
        cores: The logical CPUs.
        for_s: How long it is looked.
        proc: Where the kernel describes processes.
        pause: Waits so many seconds.
        clock: Seconds that go on.
    """
    before, own_before, began = _of_cores(proc / "stat", cores), _of_family(proc), clock()
    pause(for_s)
    after, own_after, lasted_s = _of_cores(proc / "stat", cores), _of_family(proc), clock() - began
    if before is None or after is None or not cores or lasted_s <= 0:
        return None
    own_s = sum(seconds - own_before.get(pid, 0.0) for pid, seconds in own_after.items())
    return min(1.0, max(0.0, (after - before - own_s) / (lasted_s * len(cores))))


def _of_family(proc: Path) -> dict[int, float]:
    """CPU seconds of this process and of all that descend from it, by process."""
    parents: dict[int, int] = {}
    seconds: dict[int, float] = {}
    for entry in os.listdir(proc) if proc.is_dir() else ():
        if not entry.isdigit():
            continue
        try:
            # The name, in brackets, may hold anything; what comes after it is numbers.
            fields = (proc / entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            parents[int(entry)] = int(fields[1])
            seconds[int(entry)] = (int(fields[11]) + int(fields[12])) * _TICK_S
        except (OSError, ValueError, IndexError):
            continue  # it has ended
    return {pid: told for pid, told in seconds.items() if _descends(pid, parents)}


def _descends(pid: int, parents: Mapping[int, int]) -> bool:
    seen = set()
    while pid not in seen and pid:
        if pid == os.getpid():
            return True
        seen.add(pid)
        pid = parents.get(pid, 0)
    return False


class LoadMeter:
    """The load on this process from `start` to `stop`.

    Args:
        own_cores: Whether the cores it is pinned to are its own; else only its own waiting is counted.
        proc: As for `sample_load`.
    """

    def __init__(self, *, own_cores: bool = True, proc: Path = _PROC) -> None:
        self._proc = proc
        pinned = own_cores and hasattr(os, "sched_getaffinity")
        self._cores = frozenset(os.sched_getaffinity(0)) if pinned else frozenset()
        self._before: LoadSample | None = None

    def start(self) -> None:
        """Begin."""
        self._before = sample_load(cores=self._cores, proc=self._proc)

    def stop(self) -> float | None:
        """The load since `start`, or None where it cannot be read."""
        return load_between(self._before, sample_load(cores=self._cores, proc=self._proc), len(self._cores))
