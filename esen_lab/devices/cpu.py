"""The CPU as a device: a unit is one physical core, and a lane with k units is pinned to k cores and runs k threads.

Hardware threads of one core belong to one unit: two lanes on the two hardware threads of a core would fight for it.
Where the system cannot pin (macOS), lanes limit their threads only, and the device says so in its notes.
"""

from __future__ import annotations

import math
import os
import platform
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from esen_lab.devices.base import DeviceIdentity, InForce
from esen_lab.errors import DeviceError, UsageError
from esen_lab.units import check_units

Core = tuple[int, ...]  # the logical CPUs of one physical core


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuPlacement:
    """The cores of one lane."""

    cores: tuple[Core, ...]
    pin: bool

    @property
    def units(self) -> int:
        """The lane's share: its number of cores."""
        return len(self.cores)

    def apply(self) -> InForce:
        """Pin this process and every thread it will have, and report what the system says is in force."""
        import torch

        logical = {cpu for core in self.cores for cpu in core}
        if self.pin and sys.platform == "linux":
            try:
                os.sched_setaffinity(0, logical)
            except OSError as problem:
                raise DeviceError(
                    f"A lane is pinned to cores that exist and are allowed: {problem.strerror}",
                    given=f"logical CPUs {_ranges(logical)}",
                    hint="Check the machine's CPU sets (taskset, cgroups).",
                ) from problem
        torch.set_num_threads(self.units)
        torch.set_num_interop_threads(1)
        threads = torch.get_num_threads()
        if self.pin and sys.platform == "linux":
            real = os.sched_getaffinity(0)
            if real != logical:
                raise DeviceError(
                    "A lane runs on its own cores",
                    given=f"{_ranges(real)} in force, {_ranges(logical)} asked",
                )
            return InForce(units=self.units, description=f"CPUs {_ranges(real)}, {_count(threads, 'thread')}")
        return InForce(units=self.units, description=f"{_count(threads, 'thread')}, not pinned")

    def use(self, active_units: int) -> None:
        """Run the next step with `active_units` threads."""
        import torch

        if torch.get_num_threads() != active_units:
            torch.set_num_threads(active_units)


class CpuDevice:
    """The cores this process may use.

    Args:
        cores: The physical cores to share, each as its logical CPUs; by default all that the process is allowed.
    """

    def __init__(self, cores: Sequence[Core] | None = None) -> None:
        allowed, notes = _allowed_cores() if cores is None else (tuple(tuple(core) for core in cores), [])
        if not allowed:
            raise UsageError("A CPU device has at least one core", given="none")
        self._pins = hasattr(os, "sched_setaffinity")
        if not self._pins:
            notes.append(f"{platform.system()} cannot pin threads to cores: lanes limit their threads only.")
        self._cores = allowed
        self._notes = tuple(notes)
        self._identity = DeviceIdentity(
            kind="cpu",
            name=_cpu_name(),
            units=len(allowed),
            unit="core",
            details={
                "system": platform.system(),
                "machine": platform.machine(),
                "threads_per_core": str(max(len(core) for core in allowed)),
                "pinned": "yes" if self._pins else "no",
            },
        )

    @property
    def identity(self) -> DeviceIdentity:
        """Processor name, cores and what else changes latencies."""
        return self._identity

    @property
    def cores(self) -> tuple[Core, ...]:
        """The logical CPUs of each physical core."""
        return self._cores

    @property
    def units(self) -> int:
        """Physical cores."""
        return len(self._cores)

    def free_bytes(self) -> int | None:
        """Memory that a new process could have now, or None where the system does not say."""
        return available_bytes()

    @property
    def notes(self) -> tuple[str, ...]:
        """What limits shares on this machine."""
        return self._notes

    def place(self, shares: Sequence[int]) -> tuple[CpuPlacement, ...]:
        """Give each lane the cores that fewest lanes have so far: disjoint while they last."""
        load = [0] * self.units
        places = []
        for share in shares:
            check_units(share, self.units)
            chosen = sorted(sorted(range(self.units), key=lambda core: (load[core], core))[:share])
            for core in chosen:
                load[core] += 1
            places.append(CpuPlacement(cores=tuple(self._cores[core] for core in chosen), pin=self._pins))
        return tuple(places)

    def close(self) -> None:
        """Nothing serves the lanes but the system itself."""


def _allowed_cores() -> tuple[tuple[Core, ...], list[str]]:
    """The physical cores this process may use, fewer where a control group grants less CPU time."""
    notes: list[str] = []
    if not hasattr(os, "sched_getaffinity"):
        return tuple((cpu,) for cpu in range(os.cpu_count() or 1)), notes
    allowed = os.sched_getaffinity(0)
    cores: dict[Core, None] = {}
    for cpu in sorted(allowed):
        cores[tuple(sorted(_siblings(cpu) & allowed)) or (cpu,)] = None
    found = tuple(cores)
    quota = _cgroup_cpus(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    if quota is not None and quota < len(found):
        keep = max(1, math.floor(quota))
        notes.append(f"A control group grants {quota:g} of {len(found)} cores' time: {keep} are shared out.")
        found = found[:keep]
    return found, notes


def _siblings(cpu: int) -> set[int]:
    """The logical CPUs on the same physical core as `cpu`; just itself where the kernel does not tell."""
    try:
        text = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
    except OSError:
        return {cpu}
    siblings: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        siblings.update(range(int(first), int(last or first) + 1))
    return siblings


def _cgroup_cpus(membership: Path, root: Path) -> float | None:
    """CPUs' worth of time that the tightest control group (version 2) above this process grants; None: no limit."""
    try:
        line = next(line for line in membership.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return None
    here = root / line.removeprefix("0::").lstrip("/")
    limits = []
    for folder in (here, *here.parents):
        try:
            quota, period = (folder / "cpu.max").read_text().split()
            if quota != "max":
                limits.append(int(quota) / int(period))
        except (OSError, ValueError):
            pass  # the root group has no such file, and inside a container upper groups are not visible
        if folder == root:
            break
    return min(limits, default=None)


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else platform.machine()


def _ranges(cpus: set[int]) -> str:
    """{0, 1, 2, 5} as "0-2,5"."""
    parts: list[list[int]] = []
    for cpu in sorted(cpus):
        if parts and cpu == parts[-1][1] + 1:
            parts[-1][1] = cpu
        else:
            parts.append([cpu, cpu])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def available_bytes() -> int | None:
    """Memory that this machine could give to a new process now, or None where it does not say (Linux does)."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
