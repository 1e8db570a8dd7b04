"""The state in which a lane's sub-models find the caches of its cores: full of what ran before.

In a plan, a sub-model runs once, then others of its lane do, then the lane waits. A loop over one sub-model alone finds
its weights and code where the last round left them, in the caches that a core has for itself, and small networks are
then up to twice as fast as in any plan. So before each timed step these caches are filled with something else.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_USUAL_BYTES = 2 * 2**20
_MOST_BYTES = 16 * 2**20  # of one core
_TIMES = 2  # a buffer of the size of a cache leaves parts of what was there before
_UNITS = {"K": 2**10, "M": 2**20, "": 1}


def private_cache_bytes(cpu: int | None = None, root: str = "/sys/devices/system/cpu") -> int:
    """The size in bytes of the largest cache that a core does not share with other cores; a usual one if unknown.

    Args:
        cpu: Which; None: one of those that this thread may use.
        root: Where the system describes its CPUs.
    """
    cpu = min(os.sched_getaffinity(0)) if cpu is None and hasattr(os, "sched_getaffinity") else cpu or 0
    sizes = []
    for cache in Path(root, f"cpu{cpu}", "cache").glob("index*"):
        try:
            level, size = (cache / "level").read_text().strip(), (cache / "size").read_text().strip()
            found = re.fullmatch(r"(\d{1,9})([KM]?)", size)
        except (OSError, UnicodeDecodeError):
            continue
        if level == "2" and found is not None:
            sizes.append(int(found[1]) * _UNITS[found[2]])
    return min(max(sizes, default=_USUAL_BYTES), _MOST_BYTES)


class CacheFiller:
    """Fills the private caches of the cores that this process computes on; call it before a step.

    Args:
        bytes_per_core: None: as the system says.
    """

    def __init__(self, bytes_per_core: int | None = None) -> None:
        import torch

        size = private_cache_bytes() if bytes_per_core is None else bytes_per_core
        # Torch's own threads, each its part: the ones that a step computes with.
        self._buffer: torch.Tensor = torch.zeros(_TIMES * size * torch.get_num_threads() // 4)

    def __call__(self) -> None:
        """Write to every line of the buffer."""
        self._buffer.add_(1.0)
