"""The locks under which a device is measured: one measurement at a time on this machine, whoever does it.

A CPU is measured alone: whatever else is measured, on a GPU too, needs the CPU. GPUs may be measured side by side, each
by one at a time. What is simulated disturbs nobody: there, one store's points are measured once.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from esen_lab.devices import Device
from esen_lab.files.lock_files import machine_lock_paths
from esen_lab.files.machine_lock import MachineLock, MachineLocks


def measuring_locks(device: Device, store: Path) -> MachineLocks:
    """The locks to hold while a point of `device` is measured."""
    identity = device.identity
    if identity.simulated:
        digest = hashlib.sha256(identity.key.encode()).hexdigest()[:16]
        return MachineLocks([MachineLock(store.with_name(f"measuring-{digest}"))])
    if not device.hardware:
        return MachineLocks([MachineLock(*machine_lock_paths("measuring"))])
    part = re.sub(r"[^A-Za-z0-9-]", "-", device.hardware)
    return MachineLocks(
        [
            MachineLock(*machine_lock_paths("measuring"), shared=True),
            MachineLock(*machine_lock_paths(f"measuring-{part}")),
        ]
    )
