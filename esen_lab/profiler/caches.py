"""The state in which a lane's sub-models find the caches of its cores: full of what ran before.

In a plan, a sub-model runs once, then others of its lane do, then the lane waits. A loop over one sub-model alone finds
its weights and code where the last round left them, in the caches that a core has for itself, and small networks are
then up to twice as fast as in any plan. So before each timed step these caches are filled with something else.

The caches that cores share keep what the members of an ensemble read, where all of it has room there. Where it has not,
each member evicts the weights of others, and finds its own in memory: then these caches are filled, too.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from esen_lab.devices import Device
    from esen_lab.ensemble import Ensemble

_USUAL_BYTES = 2 * 2**20
_MOST_BYTES = 16 * 2**20  # of one core
_MOST_SHARED_BYTES = 256 * 2**20
_TIMES = 2  # a buffer of the size of a cache leaves parts of what was there before
_UNITS = {"K": 2**10, "M": 2**20, "": 1}
_SYSTEM = "/sys/devices/system/cpu"


def private_cache_bytes(cpu: int | None = None, root: str = _SYSTEM) -> int:
    """The size in bytes of the largest cache that a core does not share with other cores; a usual one if unknown.

    Args:
        cpu: Which; None: one of those that this thread may use.
        root: Where the system describes its CPUs.
    """
    return min(_cache_bytes("2", cpu, root) or _USUAL_BYTES, _MOST_BYTES)


def shared_cache_bytes(cpu: int | None = None, root: str = _SYSTEM) -> int:
    """The size in bytes of the last cache before memory that a core shares with others, within reason; 0 if unknown.

    Args:
        cpu: Which; None: one of those that this thread may use.
        root: Where the system describes its CPUs.
    """
    return min(_cache_bytes("3", cpu, root), _MOST_SHARED_BYTES)


def _cache_bytes(level: str, cpu: int | None, root: str) -> int:
    """The size of the largest cache of a level that a CPU has; 0 where none is told of."""
    cpu = min(os.sched_getaffinity(0)) if cpu is None and hasattr(os, "sched_getaffinity") else cpu or 0
    sizes = [0]
    for cache in Path(root, f"cpu{cpu}", "cache").glob("index*"):
        try:
            its_level, size = (cache / "level").read_text().strip(), (cache / "size").read_text().strip()
            found = re.fullmatch(r"(\d{1,9})([KM]?)", size)
        except (OSError, UnicodeDecodeError):
            continue
        if its_level == level and found is not None:
            sizes.append(int(found[1]) * _UNITS[found[2]])
    return max(sizes)


def weights_evicted(ensemble: Ensemble, device: Device) -> bool:
    """Whether the members of an ensemble evict each other's weights from the caches that cores of a device share."""
    room = device.shared_cache_bytes
    return 0 < room < sum(submodel.memory_bytes for submodel in ensemble.submodels)


class CacheFiller:
    """Fills the caches of the cores that this process computes on; call it before a step.

    Args:
        bytes_per_core: Those that a core has for itself; None: as the system says.
        shared: Those that it shares with others, which may be filled too; 0: they are not.
    """

    def __init__(self, bytes_per_core: int | None = None, *, shared: int = 0) -> None:
        import torch

        size = private_cache_bytes() if bytes_per_core is None else bytes_per_core
        # Torch's own threads, each its part: the ones that a step computes with.
        self._buffer: torch.Tensor = torch.zeros(_TIMES * max(size * torch.get_num_threads(), shared) // 4)

    def __call__(self) -> None:
        """Write to every line of the buffer."""
        self._buffer.add_(1.0)
