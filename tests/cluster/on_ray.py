"""Makes the contract's checks of a cluster of Ray, in a process of its own, and writes what came of each as JSON.

python on_ray.py RESULT
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path

import contract
from local_ray import LocalRay

from esen_lab.cluster import PlanOnNodes, RayReach


class OnRay:
    """See `contract.Cluster`."""

    pace = 2.5

    def __init__(self, ray: LocalRay) -> None:
        self._ray = ray
        self.reach = RayReach(ray.address)

    def kill_worker(self, running: PlanOnNodes, node: str) -> None:
        os.kill(running.loaded[node].pid, signal.SIGKILL)

    def kill_node(self, running: PlanOnNodes, node: str) -> None:
        os.kill(self._ray.raylet(node), signal.SIGKILL)


def main(result: Path) -> None:
    """Make all checks; what is left behind is one of them."""
    found: dict[str, str] = {}
    shared = set(os.listdir("/dev/shm"))
    begun = time.monotonic()
    with LocalRay("left", "right") as ray:
        print(f"two nodes are up after {time.monotonic() - begun:.0f} s", flush=True)
        cluster = OnRay(ray)
        for check in contract.CHECKS:
            begun = time.monotonic()
            try:
                check(cluster)
                found[check.__name__] = ""
            except BaseException:  # told, not raised: the others are made too
                found[check.__name__] = traceback.format_exc()
            print(f"{check.__name__}: {time.monotonic() - begun:.1f} s {found[check.__name__]}", flush=True)
            result.write_text(json.dumps(found))
        folder = ray.folder
    left = [f"{process.pid} {' '.join(process.cmdline())[:80]}" for process in ray.processes()]
    left += [name for name in set(os.listdir("/dev/shm")) - shared if "plasma" in name or "esen" in name]
    left += [str(folder)] if folder.exists() else []
    found["nothing_is_left_behind"] = "; ".join(left)
    result.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
