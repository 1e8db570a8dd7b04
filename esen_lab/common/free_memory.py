"""How much memory can still be had: one answer for who plans, who makes shared memory, and who takes inputs in."""

from __future__ import annotations

import sys
from pathlib import Path

from esen_lab.common.control_groups import ControlGroups


def available_bytes(groups: ControlGroups | None = None, meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Memory that a new process could have now, or None where the system does not say (Linux does).

    The least of what the machine has left, what the control groups of this process leave, and this process's own
    limits, which its children inherit.

    Args:
        groups: The control groups; by default this process's.
        meminfo: The kernel's file about the machine's memory.
    """
    limits = (_machine_bytes(meminfo), (groups or ControlGroups()).available_bytes(), address_space_bytes())
    return min((limit for limit in limits if limit is not None), default=None)


def _machine_bytes(meminfo: Path) -> int | None:
    try:
        with meminfo.open(encoding="ascii") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None


def address_space_bytes() -> int | None:
    """The most memory that one process may have by its own limits (ulimit -v, -d), or None: no limit."""
    if sys.platform == "win32":
        return None
    import resource

    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    return min((limit for limit in limits if limit != resource.RLIM_INFINITY), default=None)
