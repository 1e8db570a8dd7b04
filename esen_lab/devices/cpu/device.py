"""The CPU as a device: a unit is one physical core, and a lane with k units is pinned to k cores and runs k threads.

Hardware threads of one core belong to one unit: two lanes on the two hardware threads of a core would fight for it.
Where the system cannot pin (macOS), lanes limit their threads only, and the device says so in its notes.

Units are alike: where a machine has fast and slow cores, one table of latencies by share cannot hold for both, so the
slow ones are left out unless they are asked for.

    affinity.py         which CPUs this process may use, whatever OpenMP has bound it to
    topology.py         caches and nodes that cores have in common; fast and slow ones
    core_packing.py     which cores each lane gets
    memory_policy.py    on which nodes a lane's memory lies
    interference.py     what lanes take of each other's memory bandwidth
    remarks.py          what else slows cores, or this process
"""

from __future__ import annotations

import math
import os
import platform
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from esen_lab.common.control_groups import ControlGroups
from esen_lab.common.free_memory import available_bytes
from esen_lab.common.surroundings import step
from esen_lab.common.units import check_units, format_units
from esen_lab.devices.base import Device, DeviceIdentity, InForce, Placement
from esen_lab.devices.cpu.affinity import allowed_cpus, allowed_now
from esen_lab.devices.cpu.affinity import ranges as _ranges
from esen_lab.devices.cpu.core_packing import Packer, Packing
from esen_lab.devices.cpu.interference import (
    Interference,
    keep_interference,
    known_interference,
    machine_key,
    measure_interference,
)
from esen_lab.devices.cpu.memory_policy import prefer_nodes
from esen_lab.devices.cpu.remarks import remarks_on_cores, remarks_on_process
from esen_lab.devices.cpu.topology import Core, Topology, described, read_topology
from esen_lab.errors import DeviceError, UsageError

Cpus = tuple[int, ...]  # the logical CPUs of one physical core
Wanted = Literal["best", "all", "fast", "slow"]
_TRIED_AGAIN_S = 60.0


def _anew() -> str:
    anew = step("lab.use_device('cpu')", "%esen device cpu")
    return f"Make the device anew to share out what is left: {anew}."


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuPlacement(Placement):
    """The cores of one lane.

    Attributes:
        cores: Each as its logical CPUs.
        pin: Whether the system can pin.
        place: What kind of place they are (`Topology.place_of`), or "".
        nodes: The NUMA nodes that they are on, where the machine has several; else ().
    """

    cores: tuple[Cpus, ...]
    pin: bool
    place: str = ""
    nodes: tuple[int, ...] = ()

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
            said = [f"CPUs {_ranges(real)}", format_units(threads, "thread")]
            said += [prefer_nodes(self.nodes)] if self.nodes else []
            return InForce(units=self.units, description=", ".join(said))
        return InForce(units=self.units, description=f"{format_units(threads, 'thread')}, not pinned")

    def use(self, active_units: int) -> None:
        """Run the next step with `active_units` threads."""
        import torch

        if torch.get_num_threads() != active_units:
            torch.set_num_threads(active_units)


class CpuDevice(Device):
    """The cores this process may use.

    Args:
        cores: The physical cores to share, each as its logical CPUs; by default all that the process is allowed.
        wanted: Of these, where the machine has fast and slow cores: "fast" or "slow" ones alone, "all" of them, or
            "best": the fast ones, and slow ones only where there are no others.
        topology: What they have in common; None: as the kernel tells it.

    Raises:
        UsageError: No core, or two of these arguments that exclude each other.
        DeviceError: No core of that kind is there.
    """

    def __init__(
        self, cores: Sequence[Cpus] | None = None, *, wanted: Wanted = "best", topology: Topology | None = None
    ) -> None:
        if cores is not None and not cores:
            raise UsageError("A CPU device has at least one core", given="none")
        if cores is not None and topology is not None:
            raise UsageError("A CPU device is made of cores or of a topology", given="both")
        self._pins = hasattr(os, "sched_setaffinity")
        self._chosen_here = cores is None and topology is None
        notes: list[str] = []
        if topology is None:
            topology, notes = _allowed() if cores is None else (described(cores), [])
        topology, said = _of_kind(topology, wanted if cores is None else "all")
        notes += [said] if said else []
        if self._chosen_here:
            topology, granted = _granted(topology)
            notes += granted
            notes += remarks_on_cores([core.cpus for core in topology.cores])
        if not self._pins:
            notes.append(f"{platform.system()} cannot pin threads to cores: lanes limit their threads only.")
        self._measures_from_s = 0.0
        self._topology = topology
        self._cores = tuple(core.cpus for core in topology.cores)
        self._packer = Packer(topology)
        self._notes = tuple(notes)
        # In cores' time: with less than a whole one a lane is stopped now and then, and its points are of that alone.
        self._granted = self._granted_now()
        self._identity = DeviceIdentity(
            kind="cpu",
            name=_cpu_name(),
            units=len(self._cores),
            unit="core",
            details={
                "system": platform.system(),
                "machine": platform.machine(),
                "threads_per_core": str(max(len(core) for core in self._cores)),
                "pinned": "yes" if self._pins else "no",
                **_details(topology),
                **({"granted": f"{self._granted:.2g} of a core's time"} if self._granted < 1 else {}),
            },
        )

    @property
    def identity(self) -> DeviceIdentity:
        """Processor name, cores and what else changes latencies."""
        return self._identity

    @property
    def cores(self) -> tuple[Cpus, ...]:
        """The logical CPUs of each physical core."""
        return self._cores

    @property
    def topology(self) -> Topology:
        """What its cores have in common."""
        return self._topology

    @property
    def shared_cache_bytes(self) -> int:
        """The caches of its L3 domains together."""
        return self._topology.l3_bytes

    @property
    def steps(self) -> tuple[int, ...]:
        """The sizes of its largest L3 domain and node, and how many fast cores it has beside slow ones."""
        sizes = {*self._topology.l3_domains[:1], *self._topology.nodes[:1], self._packer.fast}
        return tuple(sorted(size for size in sizes if 0 < size < len(self._cores)))

    def describe(self) -> tuple[tuple[str, str], ...]:
        """Its cores, caches and nodes, and what is known of memory bandwidth: (label, text) of each."""
        known = self.interference()
        return (*self._topology.describe(), *([] if known is None else [("memory bandwidth", known.describe())]))

    @property
    def units(self) -> int:
        """Physical cores."""
        return len(self._cores)

    def free_bytes(self) -> int | None:
        """Memory that a new process could have now, or None where the system does not say."""
        return available_bytes()

    @property
    def notes(self) -> tuple[str, ...]:
        """What limits shares on this machine, and slows this process on it; some may change."""
        lost = self.lost() or self._slowed()
        return (*self._notes, *remarks_on_process(), *([f"{lost} {_anew()}"] if lost else ()))

    def lost(self) -> str:
        """Which CPUs of this device the process may not use any more (taskset, a CPU set), in a sentence, or ""."""
        if not (self._chosen_here and self._pins):
            return ""
        cpus = {cpu for core in self._cores for cpu in core}
        if cpus <= allowed_now():  # the usual case takes a microsecond
            return ""
        now = allowed_cpus().cpus
        if cpus <= now:
            return ""
        left = _ranges(cpus & now) or "none"
        return f"The device was made of CPUs {_ranges(cpus)}; of these this process may use {left} now."

    def _slowed(self) -> str:
        """Which time a control group grants to this process, where it has become less than the device was made of."""
        now = self._granted_now()
        if now >= self._granted:
            return ""
        made_of = format_units(self.units, "core") if self._granted >= 1 else f"{self._granted:g} cores' time"
        return f"The device was made of {made_of}; a control group grants {now:g} cores' time now."

    def _granted_now(self) -> float:
        """How many cores' time lanes may use now, at most all of it."""
        quota = ControlGroups().cpus() if self._chosen_here else None
        return float(len(self._cores)) if quota is None else min(quota, float(len(self._cores)))

    def place(self, shares: Sequence[int]) -> tuple[CpuPlacement, ...]:
        """Give each lane cores of its own while they last, close together where they can be: see `core_packing.py`.

        Raises:
            UsageError: A share is not within 1..units.
            DeviceError: This process may not use all cores of the device any more, or not all the time.
        """
        lost = self.lost() or self._slowed()
        if lost:
            raise DeviceError("Lanes run on cores that this process may use", given=lost, hint=_anew())
        return tuple(self._placement(cores) for cores in self._packed(shares).cores)

    def remarks_on(self, shares: Sequence[int]) -> tuple[str, ...]:
        """Which lanes of these shares, side by side, have a worse kind of place than each had when it was profiled."""
        if sum(shares) > len(self._cores):
            return ()  # they share cores: where those are hardly matters
        packing = self._packed(shares)
        worse: dict[tuple[str, str], list[str]] = {}
        for number, (share, cores) in enumerate(zip(shares, packing.cores, strict=True), start=1):
            alone = self._packer.alone(share)
            if self._distance(cores) > self._distance(alone):
                places = self._topology.place_of(cores), self._topology.place_of(alone)
                worse.setdefault(places, []).append(f"{number} ({format_units(share, 'core')})")
        if not worse:
            return ()
        said = [
            f"lane{'s' if len(lanes) > 1 else ''} {', '.join(lanes)} on {place}, measured on {alone}"
            for (place, alone), lanes in worse.items()
        ]
        verdict = "No arrangement of these shares does better." if packing.exact else "Others were not all tried."
        return (f"Not where they were measured, and maybe slower: {'; '.join(said)}. {verdict}",)

    def interference(self, *, measure: bool = False) -> Interference | None:
        """What two lanes on one node of this machine take of each other's memory bandwidth.

        Args:
            measure: Whether to measure it where that was never done (a second, by threads of this process), and keep
                it in the user's folder. It is not done while these cores are busy, nor tried twice within a minute.

        Returns:
            None where it is not known.
        """
        machine = machine_key(self._identity.key)
        known = known_interference(machine)
        if known is not None or not measure or time.monotonic() < self._measures_from_s or self.lost():
            return known
        self._measures_from_s = time.monotonic() + _TRIED_AGAIN_S
        nodes: dict[int | None, list[Core]] = {}
        for core in self._topology.cores:
            nodes.setdefault(core.node, []).append(core)
        node = max(nodes.values(), key=len)
        firsts, half = [core.cpus[0] for core in node], len(node) // 2
        found = measure_interference(
            firsts[:half],
            firsts[half : 2 * half],
            cache_bytes=Topology(cores=tuple(node)).l3_bytes,
            free_bytes=self.free_bytes(),
        )
        if found is not None:
            keep_interference(machine, found)
        return found

    def _packed(self, shares: Sequence[int]) -> Packing:
        for share in shares:
            check_units(share, self.units)
        return self._packer.pack(shares)

    def _placement(self, positions: Sequence[int]) -> CpuPlacement:
        cores = [self._topology.cores[position] for position in positions]
        nodes = {core.node for core in cores if core.node is not None} if len(self._topology.nodes) > 1 else set()
        return CpuPlacement(
            cores=tuple(core.cpus for core in cores),
            pin=self._pins,
            place=self._topology.place_of(positions),
            nodes=tuple(sorted(nodes)),
        )

    def _distance(self, positions: Sequence[int]) -> tuple[bool, int, int]:
        """How far apart cores are: whether slow ones are among them, nodes, and L3 domains as far as "several"."""
        cores = [self._topology.cores[position] for position in positions]
        slow = any(core.kind == "slow" for core in cores)
        return slow, len({core.node for core in cores}), min(2, len({core.l3 for core in cores}))


def _allowed() -> tuple[Topology, list[str]]:
    """The cores this process may use."""
    if not hasattr(os, "sched_getaffinity"):
        return read_topology(range(os.cpu_count() or 1)), []
    found = allowed_cpus()
    return read_topology(found.cpus), list(found.notes)


def _of_kind(topology: Topology, wanted: Wanted) -> tuple[Topology, str]:
    """The cores of the wanted kind, and what to say of the others."""
    kinds = topology.kinds
    if wanted == "slow" and "slow" not in kinds:
        raise DeviceError("cpu:slow needs slow cores", given="all cores are alike", hint='Use "cpu".')
    if wanted == "fast" and kinds == ("slow",):
        raise DeviceError("cpu:fast needs fast cores", given="this process may use slow ones only", hint='Use "cpu".')
    if wanted == "all":
        mixed = len(kinds) > 1
        said = (
            "Fast and slow cores are shared out together. A share is measured on fast cores as far as they go; lanes "
            "beside it may get slow ones, and plans and reports say which."
        )
        return topology, said if mixed else ""
    if len(kinds) < 2:
        return topology, "This process may use slow cores only." if "slow" in kinds and wanted == "best" else ""
    taken: Literal["fast", "slow"] = "slow" if wanted == "slow" else "fast"
    kept = topology.of_kind(taken)
    if wanted != "best":
        return kept, ""
    left = topology.of_kind("slow")
    cpus = _ranges({cpu for core in left.cores for cpu in core.cpus})
    return kept, (
        f"{format_units(len(left.cores), 'slow core')} (CPUs {cpus}) are left out: shares of fast and slow cores take "
        'different times. "cpu:slow" takes those alone, "cpu:all" both.'
    )


def _granted(topology: Topology) -> tuple[Topology, list[str]]:
    """As many cores as a control group grants time for, close together."""
    quota = ControlGroups().cpus()
    count = len(topology.cores)
    if quota is None or quota >= count:
        return topology, []
    keep = max(1, math.floor(quota))
    slowed = "" if quota >= 1 else " A lane is stopped for a part of the time, which spreads its latencies."
    kept = Packer(topology).alone(keep)
    return Topology(cores=tuple(topology.cores[position] for position in kept)), [
        f"A control group grants {quota:g} of {count} cores' time: {keep} are shared out.{slowed}"
    ]


def _details(topology: Topology) -> dict[str, str]:
    """What changes latencies of shares of equal size: kinds of cores, domains, nodes; nothing where all are alike."""
    found: dict[str, str] = {}
    if topology.kinds:
        found["cores"] = topology.kinds[0] if len(topology.kinds) == 1 else "all"  # as in the device's name
    for name, sizes in (("l3_domains", topology.l3_domains), ("nodes", topology.nodes)):
        if len(sizes) > 1:
            found[name] = " + ".join(f"{count} x {size}" for size, count in Counter(sizes).items())
    return found


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else platform.machine()
