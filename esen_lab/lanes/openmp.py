"""Threads of OpenMP that spin: on a lane's core they take time that is not in any plan.

After a parallel region, the other threads of its team go on looking for work for some milliseconds before they sleep
(libgomp: 300,000 looks, 4 ms; libiomp5: 200 ms). Lanes have every core to themselves, so where this process leaves
such a thread, the lane of that core starts late and shares the core. Therefore:

    1. What this package computes in the caller's process computes in one thread (`CallersThreads.alone`).
    2. What the user's own calls left spinning is ended before lanes are woken (`CallersThreads.quieten`).
    3. Lanes with several threads look for some microseconds only (`lane_environment`).
    4. Before one set of lanes is timed after another, the others' threads are waited for (`wait_until_still`).

What a pause does. libgomp keeps one pool for every thread that opened a parallel region; `omp_pause_resource_all` ends
the one of the calling thread and no other, so a region that another thread is in is not touched. The next parallel
region makes the pool anew (0.1 ms). A pool that sleeps already is left alone: waking it to end it takes milliseconds.
Pools of other threads, and of libraries that do not know OpenMP (OpenBLAS), cannot be ended from here; reports say what
they took (`CallersThreads.disturbed`).

A forked child has the record of its parent's pool and none of its threads: whatever waits for them, a pause or the next
parallel region, waits for ever. So the pool of a thread that forks is ended first (`before_fork`, where a lab is there
by then), and a child that may have such a record never pauses.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType

from esen_lab.common.units import format_seconds

_TASKS = "/proc/self/task"
_LOOK_S = 0.001
_SOFT = 1  # omp_pause_soft
_FORKED_WITHOUT_EXEC = 0x40  # PF_FORKNOEXEC of the kernel
_MOST_LOOKED_AT = 16  # the threads of one team spin together, so on a large machine some of them tell of all
_WORTH_TELLING_S = 0.001
_WORTH_TELLING_PART = 0.1
# What a user may have set about waiting; then it is theirs.
_SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")
_LANES = {"GOMP_SPINCOUNT": "2000", "KMP_BLOCKTIME": "1"}  # looks (some 10 us); milliseconds, the least but none
_BLAS = "OPENBLAS_THREAD_TIMEOUT"
_LANES_BLAS = "18"  # 2^18 cycles (0.1 ms); by default 2^28 (0.1 s)


def lane_environment(own: Mapping[str, str]) -> dict[str, str]:
    """The environment for lanes: `own`, and how long a lane's threads look for work, unless `own` says so itself."""
    openmp = {} if any(own.get(name) for name in _SETTINGS) else _LANES
    blas = {} if own.get(_BLAS) else {_BLAS: _LANES_BLAS}
    return {**own, **openmp, **blas}


def before_fork() -> None:
    """End this thread's pools, so that its child has none: see `forks.py`."""
    end_threads()
    _ended_before_fork().add(os.getpid())


@functools.cache
def _ended_before_fork() -> set[int]:
    """The processes that ended their pools before they forked; their children have this set too."""
    return set()


def _may_have_pools_of_its_parent() -> bool:
    """Whether this process was forked, never became another program, and nobody ended pools before."""
    if os.getppid() in _ended_before_fork():
        return False
    try:
        with open("/proc/self/stat", "rb") as line:
            flags = int(line.read().rpartition(b")")[2].split()[6])  # field 9 of proc(5)
    except OSError:
        return False
    return bool(flags & _FORKED_WITHOUT_EXEC)


def end_threads() -> None:
    """End this thread's pools: the next parallel region starts threads that are as this one is now."""
    for runtime in filter(None, map(_runtime, _loaded())):
        if runtime.pause is not None and not runtime.in_parallel():
            runtime.pause(_SOFT)


def wait_until_still(pids: Collection[int], limit_s: float = 0.15) -> bool:
    """Wait until no thread of these processes runs or wants to; False: `limit_s` passed. At once where nobody says."""
    until = time.monotonic() + limit_s
    while any(map(_runs, pids)):
        if time.monotonic() >= until:
            return False
        time.sleep(_LOOK_S)
    return True


def _runs(pid: int) -> bool:
    folder = f"/proc/{pid}/task"
    try:
        return any(_core_wanted(folder, tid) is not None for tid in os.listdir(folder))
    except OSError:
        return False  # it ended, or there is no such folder here


def _core_wanted(folder: str, tid: int | str) -> int | None:
    """The core that a thread runs on or waits for; None: it sleeps, or has ended."""
    try:
        with open(f"{folder}/{tid}/stat", "rb") as line:
            fields = line.read().rpartition(b")")[2].split()
            return int(fields[36]) if fields[0] == b"R" else None  # fields 39 and 3 of proc(5)
    except OSError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenMPRuntime:
    """One OpenMP runtime that is loaded in this process."""

    path: str
    set_threads: Callable[[int], None]
    in_parallel: Callable[[], int]
    pause: Callable[[int], int] | None  # absent before OpenMP 5.0
    ends_threads: bool  # a pause ends the threads; elsewhere (LLVM's, Intel's) they sleep until the next region


class CallersThreads:
    """The threads that calls of torch and others leave in this process. Used by one thread at a time.

    Without OpenMP, or without /proc, it does as much as can be done, which may be nothing.
    """

    def __init__(self) -> None:
        self._runtimes: list[OpenMPRuntime] = []
        self._of_torch: OpenMPRuntime | None = None
        self._modules = -1  # how many were imported when libraries were looked for
        self._names: list[str] = []
        self._clocks: dict[int, int] = {}  # of threads that are not Python's
        self._beyond: set[int] = set()  # threads that went on through a pause: not of this thread's pools
        self._others_ns = 0
        self._never = _may_have_pools_of_its_parent()
        self._here: Callable[[], int] | None = getattr(ctypes.CDLL(None), "sched_getcpu", None)

    def alone(self) -> Alone:
        """Inside, torch computes in the calling thread alone, and starts no other. Results are the same to the bit.

        Not for a user's own function: sums over everything are cut by threads, so they would be rounded differently.
        """
        self._look_for_runtimes()
        return Alone(None if self._of_torch is None else self._of_torch.set_threads)

    def quieten(self) -> None:
        """End this thread's pools of OpenMP where they spin; takes microseconds where nothing does."""
        running = self._running()
        spinning = running.keys() - self._beyond
        if spinning and not self._never:
            self._look_for_runtimes()
            here = self._here() if self._here is not None else -1
            with _off_core(here, [tid for tid in spinning if running[tid] == here]):
                for runtime in self._runtimes:
                    if runtime.pause is not None and not runtime.in_parallel():
                        runtime.pause(_SOFT)
            if all(runtime.ends_threads for runtime in self._runtimes):
                self._beyond |= spinning
        self._others_ns = time.process_time_ns() - time.thread_time_ns()

    def disturbed(self, jct_s: float) -> str:
        """A sentence about what other threads computed since `quieten`, which the same thread called; "" if little."""
        taken_s = (time.process_time_ns() - time.thread_time_ns() - self._others_ns) / 1e9
        if taken_s < max(_WORTH_TELLING_S, _WORTH_TELLING_PART * jct_s):
            return ""
        return (
            f"Other threads of this process took {format_seconds(taken_s)} of the lanes' cores meanwhile: work in the "
            "background, or threads that wait for more of it (those of NumPy's BLAS do so for 0.1 s, unless "
            f"{_BLAS}={_LANES_BLAS} is in the environment before NumPy is imported)."
        )

    def _running(self) -> dict[int, int]:
        """The threads of this process, not Python's, that run or want to, each with its core; {0: -1}: not known."""
        try:
            names = os.listdir(_TASKS)
            if names != self._names:
                self._clocks = {tid: self._clocks.get(tid, 0) for tid in _foreign(names)}
                self._names = names
                self._beyond.intersection_update(self._clocks)
            now = {tid: time.clock_gettime_ns(_clock(tid)) for tid in self._clocks}
        except OSError:  # no such folder here; or one ended just now
            self._names = []
            return {0: -1}
        # Whoever has not run since the last look sleeps. One that has may wait for a core, so its clock may stand.
        ran = [tid for tid, at in now.items() if at != self._clocks[tid]]
        self._clocks = now
        return {tid: core for tid in ran if (core := _core_wanted(_TASKS, tid)) is not None}

    def _look_for_runtimes(self) -> None:
        """Find the runtimes anew where something was imported since: libraries are loaded by imports."""
        if self._modules == len(sys.modules):
            return
        self._modules = len(sys.modules)
        paths = _loaded()
        if paths != [runtime.path for runtime in self._runtimes]:
            self._runtimes = [runtime for runtime in map(_runtime, paths) if runtime is not None]
            self._of_torch = next((runtime for runtime in self._runtimes if _is_of_torch(runtime)), None)


class Alone:
    """A context; see `CallersThreads.alone`."""

    __slots__ = ("_set", "_were")

    def __init__(self, set_threads: Callable[[int], None] | None) -> None:
        self._set = set_threads
        self._were = 1

    def __enter__(self) -> None:
        if self._set is not None:
            import torch

            self._were = torch.get_num_threads()
            if self._were > 1:
                self._set(1)

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._set is not None and self._were > 1:
            self._set(self._were)


def _foreign(names: list[str]) -> list[int]:
    """Of these threads those that are not Python's own (they cannot be ended, whatever they do)."""
    ours = {thread.native_id for thread in threading.enumerate()} | {threading.get_native_id()}
    others = [tid for tid in map(int, names) if tid not in ours]
    step = -(-len(others) // _MOST_LOOKED_AT) or 1
    return others[::step]


def _clock(tid: int) -> int:
    """The CPU clock of a thread: MAKE_THREAD_CPUCLOCK(tid, CPUCLOCK_SCHED)."""
    return (~tid << 3) | 6


@contextlib.contextmanager
def _off_core(core: int, tids: Collection[int]) -> Iterator[None]:
    """Inside, these threads are not on this core, where there are others.

    A pause waits awake until each has heard of it, for 4 ms; one that waits for the core of that wait would not hear.
    """
    allowed: dict[int, set[int]] = {}
    for tid in tids:
        with contextlib.suppress(OSError):  # it ended
            cores = os.sched_getaffinity(tid)
            if cores - {core}:
                os.sched_setaffinity(tid, cores - {core})
                allowed[tid] = cores
    try:
        yield
    finally:
        for tid, cores in allowed.items():
            with contextlib.suppress(OSError):  # the pause ended it
                os.sched_setaffinity(tid, cores)


def _loaded() -> list[str]:
    """The files of the OpenMP runtimes that this process has mapped; [""] (all symbols) where that is not known."""
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
            files = dict.fromkeys(line.split(maxsplit=5)[-1].rstrip("\n") for line in maps if "omp" in line)
    except OSError:
        return [""]
    return [file for file in files if os.path.basename(file).startswith(("libgomp", "libomp", "libiomp"))]


def _runtime(path: str) -> OpenMPRuntime | None:
    try:
        library = ctypes.CDLL(path or None)
        return OpenMPRuntime(
            path=path,
            set_threads=library.omp_set_num_threads,
            in_parallel=library.omp_in_parallel,
            pause=getattr(library, "omp_pause_resource_all", None),
            ends_threads="libgomp" in os.path.basename(path),
        )
    except (OSError, AttributeError):
        return None


def _is_of_torch(runtime: OpenMPRuntime) -> bool:
    """Whether torch takes its number of threads from this runtime: it is set, and read back by torch."""
    import torch

    were = torch.get_num_threads()
    runtime.set_threads(were + 1)
    try:
        return torch.get_num_threads() == were + 1
    finally:
        runtime.set_threads(were)
