"""The table of devices by name, and the choice among them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from esen_lab.devices.base import Device
from esen_lab.devices.cpu import CpuDevice
from esen_lab.devices.fake import FakeDevice
from esen_lab.errors import UsageError

DEVICES: Mapping[str, Callable[[], Device]] = {"cpu": CpuDevice}


def open_device(which: str | Device | None = None) -> Device:
    """The device called `which`; None takes the best one that this machine has.

    "fake:FILE" is a simulated device that replays the latencies recorded in FILE (see `FakeDevice.load`).

    Raises:
        UsageError: No device has that name.
        StoreError: The file of a simulated device cannot be used.
    """
    if which is None:
        which = "cpu"
    if not isinstance(which, str):
        return which
    if which.startswith("fake:"):
        return FakeDevice.load(which.removeprefix("fake:"))
    if which not in DEVICES:
        raise UsageError(f"A device is one of: {', '.join(DEVICES)}, fake:FILE", given=which)
    return DEVICES[which]()
