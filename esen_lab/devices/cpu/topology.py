"""What a machine's cores have in common, and which are slow, as Linux tells it below /sys/devices.

    core        hardware threads that share one core                        cpuN/topology/thread_siblings_list
    L3 domain   cores behind one cache of level 3                           cpuN/cache/index*/{level,shared_cpu_list}
    node        cores next to one part of the memory (NUMA)                 node/nodeN/cpulist, else the socket
    kind        fast or slow, where a machine has both:
                    Intel                       cpu_core, cpu_atom, cpu_lowpower: the CPUs of each kind
                    Arm, and newer kernels      cpuN/cpu_capacity, 1024 for the fastest
                    else                        cpuN/cpufreq/cpuinfo_max_freq, cpuN/acpi_cppc/highest_perf

What is not told is None, not guessed: many virtual machines describe no caches. All of it is read from files, since
hwloc would be a library of C for the same files, and py-cpuinfo knows neither caches' domains nor nodes.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from esen_lab.common.units import format_bytes, format_units
from esen_lab.devices.cpu.affinity import cpus_in, ranges

DEVICES_FOLDER = Path("/sys/devices")
Kind = Literal["fast", "slow"]

_SLOW = 0.75
"""A core below this part of the fastest one's capacity or clock is slow. Favoured cores of one kind differ by 10 %."""
_SLOW_CPPC = 0.6
"""The same for the numbers by which AMD ranks cores of one kind: those differ by up to 30 %."""
_MOST_BYTES = 1 << 16  # of a file: the longest lists of CPUs have some thousand characters
_MOST_NODES = 1024
_MOST_CACHES = 16
_MOST_SHOWN = 8  # nodes, each with a line


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """One physical core.

    Attributes:
        cpus: Its logical CPUs that may be used, ascending; at least one.
        l3: The least logical CPU of its L3 domain; None where no such cache is told of.
        l3_bytes: How large that cache is; None where that is not told.
        node: Its NUMA node, or its socket where nodes are not told of; None where neither is.
        kind: Whether it is fast or slow; None where all cores of the machine are alike.
    """

    cpus: tuple[int, ...]
    l3: int | None = None
    l3_bytes: int | None = None
    node: int | None = None
    kind: Kind | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """Cores that may be used, in the order of their logical CPUs.

    Either all of them have an L3 domain, or none; the same for nodes and kinds.

    Attributes:
        cores: At least one.
    """

    cores: tuple[Core, ...]

    def of_kind(self, kind: Kind | None) -> Topology:
        """The cores of one kind alone; all where `kind` is None."""
        return self if kind is None else Topology(cores=tuple(core for core in self.cores if core.kind == kind))

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of its cores, the fast one first; () where all cores of the machine are alike."""
        found = {core.kind for core in self.cores}
        kinds: tuple[Kind, ...] = ("fast", "slow")
        return tuple(kind for kind in kinds if kind in found)

    @property
    def l3_domains(self) -> tuple[int, ...]:
        """How many cores each L3 domain has, the largest first; () where none is told of."""
        return _sizes(core.l3 for core in self.cores)

    @property
    def l3_bytes(self) -> int:
        """How large the caches of its L3 domains are together, as far as that is told."""
        return sum({core.l3: core.l3_bytes or 0 for core in self.cores}.values())

    @property
    def nodes(self) -> tuple[int, ...]:
        """How many cores each node has, the largest first; () where none is told of."""
        return _sizes(core.node for core in self.cores)

    def place_of(self, cores: Sequence[int]) -> str:
        """What kind of place some cores are: "one L3", "one node", "two nodes", ", slow cores"; "" where not known.

        Args:
            cores: Their positions in `cores`.
        """
        chosen = [self.cores[core] for core in cores]
        kinds = {core.kind for core in chosen}
        slow = ", slow cores" if kinds == {"slow"} else ", fast and slow cores" if "slow" in kinds else ""
        l3s, nodes = {core.l3 for core in chosen}, {core.node for core in chosen}
        if l3s != {None} and len(l3s) == 1:
            return f"one L3{slow}"
        if nodes == {None}:
            return (f"{_word(len(l3s))} L3s{slow}" if None not in l3s else slow.removeprefix(", ")) if chosen else ""
        return f"{_word(len(nodes))} node{'' if len(nodes) == 1 else 's'}{slow}"

    def describe(self) -> tuple[tuple[str, str], ...]:
        """What it looks like, as (label, text): how many of what, then each node's L3 domains with their CPUs."""
        threads = max(len(core.cpus) for core in self.cores)
        parts = [format_units(len(self.cores), "core") + (f" of {threads} hardware threads" if threads > 1 else "")]
        if len(self.kinds) > 1:
            count = Counter(core.kind for core in self.cores)
            parts.append(f"{count['fast']} fast, {count['slow']} slow")
        elif self.kinds:
            parts.append(f"all {self.kinds[0]}")
        size = f" ({format_bytes(self.l3_bytes)} in all)" if self.l3_bytes else ""
        parts.append((_in_words(self.l3_domains, "L3 domain") or "L3 domains are not told of") + size)
        parts.append(_in_words(self.nodes, "node") or "nodes are not told of")
        lines = [("inside", "; ".join(parts))]
        if len(self.l3_domains) > 1 or len(self.nodes) > 1:
            lines += self._map()
        return tuple(lines)

    def _map(self) -> list[tuple[str, str]]:
        nodes: dict[int | None, dict[int | None, set[int]]] = {}
        for core in self.cores:
            nodes.setdefault(core.node, {}).setdefault(core.l3, set()).update(core.cpus)
        lines = []
        for node, domains in nodes.items():
            name = "CPUs" if node is None else f"node {node}"
            lines.append((name, " ".join(f"[{ranges(cpus)}]" for cpus in domains.values())))
        left = len(lines) - _MOST_SHOWN
        return lines if left <= 0 else [*lines[:_MOST_SHOWN], ("", f"and {format_units(left, 'node')} more")]


def read_topology(cpus: Collection[int], root: Path = DEVICES_FOLDER) -> Topology:
    """The cores that these logical CPUs belong to.

    Args:
        cpus: Those that may be used, at least one. Others are left out, hardware threads of the same core too.
        root: The folder in which the kernel describes devices.
    """
    cores: dict[tuple[int, ...], None] = {}
    seen: set[int] = set()
    for cpu in sorted(cpus):
        if cpu not in seen:
            core = tuple(sorted(siblings(cpu, root) & set(cpus) - seen | {cpu}))
            seen.update(core)
            cores[core] = None
    return described(tuple(cores), root)


def place_now() -> str:
    """What kind of place the calling thread is pinned to, as the kernel says; see `Topology.place_of`."""
    if not hasattr(os, "sched_getaffinity"):
        return ""
    here = read_topology(os.sched_getaffinity(0))
    return here.place_of(range(len(here.cores)))


def described(cores: Sequence[Sequence[int]], root: Path = DEVICES_FOLDER) -> Topology:
    """Cores that are known, each as its logical CPUs, with what they have in common."""
    first = [core[0] for core in cores]
    l3, node, kind = _l3_domains(first, root), _nodes(first, root), _kinds(first, root)
    return Topology(
        cores=tuple(
            Core(cpus=tuple(core), l3=domain, l3_bytes=size, node=node.get(cpu), kind=kind.get(cpu))
            for core, cpu in zip(cores, first, strict=True)
            for domain, size in [l3.get(cpu, (None, None))]
        )
    )


def _cpu(cpu: int, root: Path) -> Path:
    return root / "system" / "cpu" / f"cpu{cpu}"


def siblings(cpu: int, root: Path) -> set[int]:
    """The logical CPUs on the core of `cpu`; just itself where the kernel does not tell."""
    return read_cpus(_cpu(cpu, root) / "topology" / "thread_siblings_list") | {cpu}


def _l3_domains(cpus: Sequence[int], root: Path) -> dict[int, tuple[int, int | None]]:
    """For each CPU the least one that it shares an L3 with, itself where it has none, and how large that cache is.

    Empty where no two share one.

    A hypervisor that knows no better describes an L3 for each core. Then no two cores have one in common, and it makes
    no difference whether that is so.
    """
    found: dict[int, tuple[int, int | None]] = {}
    shared = False
    for cpu in cpus:
        if cpu not in found:
            domain, size = _l3_of(cpu, root)
            shared = shared or not domain <= siblings(cpu, root)
            found.update(dict.fromkeys(domain, (min(domain), size)))
    return found if shared else {}


def _l3_of(cpu: int, root: Path) -> tuple[set[int], int | None]:
    """The CPUs behind the L3 of this one, itself included, and its bytes."""
    cache = _cpu(cpu, root) / "cache"
    # The last one first: usually that is it, and each is a file to open.
    for index in sorted(_numbered(cache, "index"), reverse=True)[:_MOST_CACHES]:
        if _number(cache / f"index{index}" / "level") == 3:
            kilobytes = re.fullmatch(r"(\d{1,9})K\s*", _text_or_nothing(cache / f"index{index}" / "size"))
            size = int(kilobytes[1]) * 1024 if kilobytes else None
            return read_cpus(cache / f"index{index}" / "shared_cpu_list") | {cpu}, size
    return {cpu}, None


def _nodes(cpus: Sequence[int], root: Path) -> dict[int, int]:
    folder = root / "system" / "node"
    found: dict[int, int] = {}
    for node in sorted(_numbered(folder, "node"))[:_MOST_NODES]:
        found.update(dict.fromkeys(read_cpus(folder / f"node{node}" / "cpulist"), node))
    if all(cpu in found for cpu in cpus):
        return found
    sockets = {cpu: _number(_cpu(cpu, root) / "topology" / "physical_package_id") for cpu in cpus}
    told = {cpu: socket for cpu, socket in sockets.items() if socket is not None and socket >= 0}
    # Hypervisors that know no better give each CPU a socket.
    return told if len(told) == len(sockets) > len(set(told.values())) else {}


def _kinds(cpus: Sequence[int], root: Path) -> dict[int, Kind]:
    """For each CPU of the machine its kind; empty where all are alike."""
    slow = read_cpus(root / "cpu_atom" / "cpus") | read_cpus(root / "cpu_lowpower" / "cpus")
    fast = read_cpus(root / "cpu_core" / "cpus")
    if slow and fast:
        return {**dict.fromkeys(fast, "fast"), **dict.fromkeys(slow, "slow")}
    # The fastest core of the machine may be one that this process may not use.
    everyone = {*cpus, *_numbered(root / "system" / "cpu", "cpu")}
    for file, least in (
        ("cpu_capacity", _SLOW),
        ("cpufreq/cpuinfo_max_freq", _SLOW),
        ("acpi_cppc/highest_perf", _SLOW_CPPC),
    ):
        told = {cpu: number for cpu in everyone if (number := _number(_cpu(cpu, root) / file))}
        if all(cpu in told for cpu in cpus):
            most = max(told.values())
            kinds: dict[int, Kind] = {cpu: "slow" if one < least * most else "fast" for cpu, one in told.items()}
            if "slow" in kinds.values():
                return kinds
    return {}


def read_cpus(path: Path) -> set[int]:
    """The logical CPUs in one of the kernel's lists; empty where there is none."""
    try:
        return cpus_in(_text(path))
    except (OSError, ValueError):
        return set()


def _number(path: Path) -> int | None:
    try:
        return int(_text(path))
    except (OSError, ValueError):
        return None


def _text_or_nothing(path: Path) -> str:
    try:
        return _text(path)
    except OSError:
        return ""


def _text(path: Path) -> str:
    with open(path, "rb") as file:
        return file.read(_MOST_BYTES).decode("ascii", errors="replace")


def _numbered(folder: Path, word: str) -> list[int]:
    """The numbers of "word0", "word1", … in a folder; [] where there is none."""
    try:
        found = [re.fullmatch(rf"{word}(\d{{1,5}})", path.name) for path in folder.iterdir()]
    except OSError:
        return []
    return [int(one[1]) for one in found if one]


def _sizes(groups: Iterable[int | None]) -> tuple[int, ...]:
    return tuple(sorted(Counter(group for group in groups if group is not None).values(), reverse=True))


def _in_words(sizes: Sequence[int], noun: str) -> str:
    """Groups in words: "8 L3 domains of 8 cores", "2 L3 domains of 6 and 2 cores"; "" for none."""
    if not sizes:
        return ""
    some: Mapping[int, int] = Counter(sizes)
    cores = " and ".join(map(str, some)) if len(some) > 1 and len(sizes) == len(some) else ""
    cores = cores or (str(sizes[0]) if len(some) == 1 else f"{sizes[-1]} to {sizes[0]}")
    return f"{format_units(len(sizes), noun)} of {cores} core{'' if cores == '1' else 's'}"


def _word(count: int) -> str:
    return {1: "one", 2: "two", 3: "three", 4: "four"}.get(count, str(count))
