"""What Linux tells of machines below /sys/devices, as folders: written from what lscpu prints on the real ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from esen_lab.devices.cpu.affinity import ranges

Groups = Iterable[Iterable[int]]


def machine(
    root: Path,
    cores: Groups,
    *,
    l3: Groups = (),
    nodes: Groups = (),
    sockets: Groups = (),
    each: Callable[[int], Mapping[str, object]] = lambda _: {},
    caches: bool = True,
    **files: object,
) -> Path:
    """Write a machine into an empty folder.

    Args:
        root: The folder.
        cores: For each core its logical CPUs.
        l3: For each cache of level 3 the logical CPUs behind it.
        nodes: For each node its logical CPUs.
        sockets: For each socket its logical CPUs.
        each: Further files of a CPU, by their path in its folder.
        caches: Whether caches of level 1 and 2 are told of.
        **files: Further files, by their path in `root` with "__" for "/".
    """
    told: dict[str, object] = {name.replace("__", "/"): text for name, text in files.items()}
    for core in map(set, cores):
        for cpu in core:
            folder = f"system/cpu/cpu{cpu}"
            told[f"{folder}/topology/thread_siblings_list"] = ranges(core)
            for index, level in enumerate((1, 1, 2)) if caches else ():
                told[f"{folder}/cache/index{index}/level"] = level
                told[f"{folder}/cache/index{index}/shared_cpu_list"] = ranges(core)
            told.update({f"{folder}/{path}": text for path, text in each(cpu).items()})
    for domain in map(set, l3):
        for cpu in domain:
            told[f"system/cpu/cpu{cpu}/cache/index3/level"] = 3
            told[f"system/cpu/cpu{cpu}/cache/index3/size"] = "32768K"
            told[f"system/cpu/cpu{cpu}/cache/index3/shared_cpu_list"] = ranges(domain)
    for number, node in enumerate(nodes):
        told[f"system/node/node{number}/cpulist"] = ranges(set(node))
    for number, socket in enumerate(sockets):
        for cpu in socket:
            told[f"system/cpu/cpu{cpu}/topology/physical_package_id"] = number
    for path, text in told.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(f"{text}\n")
    return root


def _two_threads(cores: Iterable[int], apart: int) -> list[list[int]]:
    return [[core, core + apart] for core in cores]


def epyc_7763(root: Path, nodes: int = 1) -> Path:
    """AMD EPYC 7763: 64 cores of two threads, an L3 for each 8 cores; `nodes` a socket (NPS1, NPS2, NPS4)."""
    width = 64 // nodes
    firsts = [range(n * width, (n + 1) * width) for n in range(nodes)]
    return machine(
        root,
        _two_threads(range(64), 64),
        l3=[[*range(first, first + 8), *range(first + 64, first + 72)] for first in range(0, 64, 8)],
        nodes=[[*cores, *(core + 64 for core in cores)] for cores in firsts],
        sockets=[range(128)],
        each=lambda _: {"cpufreq/cpuinfo_max_freq": 3529052, "acpi_cppc/highest_perf": 255},
    )


def two_xeons(root: Path, *, alternating: bool = False) -> Path:
    """Two Intel Xeon Platinum 8280: 28 cores of two threads each; CPUs numbered by socket, or alternating as Dell's."""
    first = [range(0, 56, 2), range(1, 56, 2)] if alternating else [range(28), range(28, 56)]
    sockets = [[*cores, *(core + 56 for core in cores)] for cores in first]
    return machine(
        root,
        _two_threads(range(56), 56),
        l3=sockets,
        nodes=sockets,
        sockets=sockets,
        # Two favoured cores each, as Turbo Boost Max has them.
        each=lambda cpu: {"cpufreq/cpuinfo_max_freq": 4200000 if cpu % 28 < 2 else 4000000},
    )


def i7_1260p(root: Path) -> Path:
    """A laptop: 4 fast cores of two threads (CPUs 0-7), 8 slow ones of one (8-15), one L3."""
    return machine(
        root,
        [*([cpu, cpu + 1] for cpu in range(0, 8, 2)), *([cpu] for cpu in range(8, 16))],
        l3=[range(16)],
        nodes=[range(16)],
        sockets=[range(16)],
        each=lambda cpu: {"cpufreq/cpuinfo_max_freq": 4700000 if cpu < 8 else 3400000},
        cpu_core__cpus="0-7",
        cpu_atom__cpus="8-15",
    )


def strix_point(root: Path) -> Path:
    """AMD Ryzen AI 9 HX 370: 4 fast cores (Zen 5) with an L3, 8 slow ones (Zen 5c) with another; two threads each."""
    fast, slow = [0, 1, 2, 3, 12, 13, 14, 15], [*range(4, 12), *range(16, 24)]
    return machine(
        root,
        _two_threads(range(12), 12),
        l3=[fast, slow],
        nodes=[range(24)],
        sockets=[range(24)],
        each=lambda cpu: {"cpufreq/cpuinfo_max_freq": 5157895 if cpu in fast else 3308271},
    )


def big_little(root: Path) -> Path:
    """An Arm board: 4 small cores (CPUs 0-3), 4 big ones (4-7), one L3; no node is told of."""
    return machine(
        root,
        [[cpu] for cpu in range(8)],
        l3=[range(8)],
        each=lambda cpu: {"cpu_capacity": 446 if cpu < 4 else 1024},
    )


def graviton3(root: Path) -> Path:
    """AWS Graviton3: 64 cores of one thread, one L3, one node."""
    return machine(
        root, [[cpu] for cpu in range(64)], l3=[range(64)], nodes=[range(64)], each=lambda _: {"cpu_capacity": 1024}
    )


def two_altras(root: Path) -> Path:
    """Two Ampere Altra of 80 cores: two nodes; the cache of the mesh is not told of."""
    sockets = [range(80), range(80, 160)]
    return machine(root, [[cpu] for cpu in range(160)], nodes=sockets, each=lambda _: {"cpu_capacity": 1024})


def bare_vm(root: Path) -> Path:
    """A virtual machine of 8 CPUs, each a socket of its own, that tells of neither caches nor nodes."""
    return machine(root, [[cpu] for cpu in range(8)], sockets=[[cpu] for cpu in range(8)], caches=False)


def vm_with_an_l3_each(root: Path) -> Path:
    """A virtual machine of 8 CPUs whose hypervisor describes an L3 for each."""
    return machine(root, [[cpu] for cpu in range(8)], l3=[[cpu] for cpu in range(8)], nodes=[range(8)])


def with_offline_cpus(root: Path) -> Path:
    """Two L3 domains of 4 cores; CPUs 2 and 5 are off, and have no folders inside theirs."""
    on = [cpu for cpu in range(8) if cpu not in (2, 5)]
    machine(root, [[cpu] for cpu in on], l3=[[0, 1, 3], [4, 6, 7]], nodes=[on], system__cpu__online="0-1,3-4,6-7")
    (root / "system/cpu/cpu2").mkdir()
    (root / "system/cpu/cpu5").mkdir()
    return root


def with_holes(root: Path) -> Path:
    """Cores that the firmware has switched off: CPUs 0-3 and 8-11, an L3 each, nodes 0 and 1."""
    groups = [range(4), range(8, 12)]
    return machine(root, [[cpu] for group in groups for cpu in group], l3=groups, nodes=groups, sockets=groups)
