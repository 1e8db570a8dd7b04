"""What makes some cores, or this process on them, slower than others would expect; said beside the shares."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from esen_lab.common.free_memory import address_space_bytes
from esen_lab.common.units import format_bytes
from esen_lab.devices.cpu.affinity import ranges
from esen_lab.devices.cpu.topology import DEVICES_FOLDER, read_cpus, siblings


def remarks_on_cores(cores: Sequence[tuple[int, ...]], system: Path = DEVICES_FOLDER) -> Iterator[str]:
    """What is special about these cores.

    Args:
        cores: Each as its logical CPUs that may be used.
        system: The folder in which the kernel describes devices.
    """
    cpus = {cpu for core in cores for cpu in core}
    isolated = cpus & read_cpus(system / "system" / "cpu" / "isolated")
    if isolated:
        yield (
            f"CPUs {ranges(isolated)} are isolated (isolcpus): the kernel does not spread a lane's threads over them. "
            "Lanes of more than one core are slower there than they should be."
        )
    halves = {cpu for core in cores for cpu in core if not siblings(cpu, system) <= set(core)}
    if halves:
        yield (
            f"Of the hardware threads on the cores of CPUs {ranges(halves)}, others belong to other programs, which "
            "slow these down while they compute."
        )


def remarks_on_process() -> Iterator[str]:
    """What this process hands down to its lanes that slows them: its priority, and limits on it."""
    if sys.platform == "linux":
        names = {os.SCHED_BATCH: "SCHED_BATCH", os.SCHED_IDLE: "SCHED_IDLE"}
        policy = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK
        if policy in names:
            yield f"This process is scheduled by {names[policy]}, and so are its lanes: all other programs go first."
        elif policy in (os.SCHED_FIFO, os.SCHED_RR):
            yield (
                "This process has real-time priority, and so have its lanes: they keep other programs, the notebook's "
                "too, from their cores."
            )
    if sys.platform != "win32":
        import resource

        nice = os.getpriority(os.PRIO_PROCESS, 0)
        if nice > 0:
            yield f"This process runs at nice {nice}, and so do its lanes: other programs go first."
        seconds = resource.getrlimit(resource.RLIMIT_CPU)[0]
        if seconds != resource.RLIM_INFINITY:
            yield f"A limit (ulimit -t) ends every lane after {seconds} s of computing."
        space = address_space_bytes()
        if space is not None:
            yield f"A limit (ulimit -v) leaves every lane {format_bytes(space)} of address space, libraries included."
