"""Which logical CPUs this process may use: not what one thread of it happens to be bound to.

An OpenMP runtime that is told to bind threads (OMP_PROC_BIND, OMP_PLACES, GOMP_CPU_AFFINITY, KMP_AFFINITY) binds the
thread that loads it as well. From then on that thread's mask, which is what everybody asks for, names one place. The
runtime remembers the places, and how many CPUs there were before.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from esen_lab.common.resources import begin
from esen_lab.errors import DeviceError

BINDING = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY", "KMP_HW_SUBSET", "KMP_PLACE_THREADS")
"""Environment variables that make an OpenMP runtime bind threads to places."""

_MOST_CPUS = 1 << 16
_RUNTIME = re.compile(r"/lib(?:gomp|iomp5|omp)\b[^/]*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """What a loaded OpenMP runtime knows.

    Attributes:
        each: The logical CPUs of each place that it binds threads to.
        cpus: How many CPUs the process might use when it was loaded.
    """

    each: tuple[frozenset[int], ...]
    cpus: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """The logical CPUs that this process may use, and what to say about them."""

    cpus: frozenset[int]
    notes: tuple[str, ...] = ()


def allowed_now() -> frozenset[int]:
    """The mask of this process's main thread, whichever thread asks. Linux only."""
    return frozenset(os.sched_getaffinity(os.getpid()))


def usable_cpus() -> int:
    """How many logical CPUs the calling thread may use; all of the machine's where the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def online_cpus(system: Path = Path("/sys/devices/system/cpu/online")) -> tuple[int, ...]:
    """The numbers of the logical CPUs that are switched on, which need not be 0, 1, 2, …; () where nobody tells."""
    try:
        return tuple(sorted(cpus_in(system.read_text())))
    except (OSError, ValueError):
        return ()


def allowed_cpus(
    places: Callable[[], Iterator[Places]] | None = None,
    proc: Path = Path("/proc"),
    environment: Mapping[str, str] | None = None,
) -> Allowed:
    """The logical CPUs that this process may use, though OpenMP may have bound its main thread. Linux only."""
    mask = allowed_now()
    environment = os.environ if environment is None else environment
    for found in (places or openmp_places)():
        if mask not in found.each or found.cpus <= len(mask):
            continue  # not what this runtime would bind to: somebody else, or the user, has set it
        bound_to = frozenset[int]().union(*found.each)
        before = next((cpus for cpus in _candidates(bound_to, proc) if _may_be(cpus, mask, found.cpus)), bound_to)
        if before == mask:
            continue
        cause = ", ".join(f"{name}={environment[name]}" for name in BINDING if name in environment)
        return Allowed(
            cpus=before,
            notes=(
                f"OpenMP{f' ({cause})' if cause else ''} has bound this process to CPUs {ranges(mask)}. Lanes are "
                f"not bound by it: they share CPUs {ranges(before)}, which the process was started with.",
            ),
        )
    return Allowed(cpus=mask)


def openmp_places(maps: Path = Path("/proc/self/maps")) -> Iterator[Places]:
    """What each OpenMP runtime that this process has loaded knows, of those that bind threads."""
    try:
        files = {line.split(maxsplit=5)[-1].strip() for line in maps.read_text(errors="replace").splitlines()}
    except OSError:
        return
    for file in sorted(file for file in files if _RUNTIME.search(file)):
        try:
            runtime = ctypes.CDLL(file)  # it is loaded: this only finds it
            count = runtime.omp_get_num_places()
            each = tuple(_cpus_of(runtime, number) for number in range(count))
            cpus = runtime.omp_get_num_procs()
        except (OSError, AttributeError):
            continue  # another program of that name, or one from before OpenMP 4.5
        if each:
            yield Places(each=each, cpus=cpus)


def _cpus_of(runtime: ctypes.CDLL, place: int) -> frozenset[int]:
    cpus = (ctypes.c_int * max(1, runtime.omp_get_place_num_procs(place)))()
    runtime.omp_get_place_proc_ids(place, cpus)
    return frozenset(cpus)


def _may_be(cpus: frozenset[int], mask: frozenset[int], count: int) -> bool:
    return len(cpus) == count and mask <= cpus


def _candidates(bound_to: frozenset[int], proc: Path) -> Iterator[frozenset[int]]:
    """What the mask may have been: all places, what other threads or the parent have, all that the kernel allows."""
    yield bound_to
    yield bound_to.union(*(_mask_of(task / "status") for task in (proc / "self" / "task").glob("*")))
    yield _mask_of(proc / str(os.getppid()) / "status")
    yield _most()


def _mask_of(status: Path) -> frozenset[int]:
    try:
        text = status.read_text(errors="replace")
    except OSError:
        return frozenset()
    found = re.search(r"^Cpus_allowed_list:\s*(\S+)$", text, re.MULTILINE)
    return frozenset(cpus_in(found[1])) if found else frozenset()


def _most() -> frozenset[int]:
    """What the kernel allows at most (CPU sets): asked by a thread that tries to have everything."""
    found: set[int] = set()

    def ask() -> None:
        try:
            os.sched_setaffinity(0, range(os.cpu_count() or 1))  # 0: this thread alone
            found.update(os.sched_getaffinity(0))
        except OSError:
            pass

    thread = threading.Thread(target=ask, name="esen_lab cpus")
    with contextlib.suppress(DeviceError):  # no thread to be had: then nobody tells
        begin(thread)
        thread.join()
    return frozenset(found)


def cpus_in(text: str) -> set[int]:
    """The numbers in a kernel's list of CPUs ("0-2,5"); an empty list has none.

    Raises:
        ValueError: It is none, or has numbers that no kernel counts to.
    """
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        if not 0 <= int(first) <= int(last or first) < _MOST_CPUS:
            raise ValueError(f"no list of CPUs: {part}")
        found.update(range(int(first), int(last or first) + 1))
    return found


def ranges(cpus: set[int] | frozenset[int]) -> str:
    """{0, 1, 2, 5} as "0-2,5"."""
    parts: list[list[int]] = []
    for cpu in sorted(cpus):
        if parts and cpu == parts[-1][1] + 1:
            parts[-1][1] = cpu
        else:
            parts.append([cpu, cpu])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
