"""A device double whose lanes live in this process on the CPU: no limits, no streams; it notes what is let go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from esen_lab.devices import Device, DeviceIdentity, InForce, Placement


class PlaceDouble(Placement):
    """A place without a limit."""

    in_process = True

    def __init__(self, device: InProcessDouble, lane: int, units: int) -> None:
        self._device = device
        self.lane = lane
        self._units = units

    @property
    def units(self) -> int:
        return self._units

    def apply(self) -> InForce:
        if self.lane in self._device.refuses:
            from esen_lab.errors import DeviceError

            raise DeviceError("The double opens a lane", given="one that it was told to refuse")
        self._device.applied.append(self.lane)
        where = self._device.torch_device
        return InForce(units=self.units, description="a double: no limit", torch_device=where)

    @property
    def stream(self) -> Any:
        """The lane's stream, where the double stands for a GPU."""
        return self._device.streams[self.lane] if self._device.streams else None

    def cuda(self) -> Any:
        """What stands for `torch.cuda`."""
        return self._device.cuda

    def use(self, active_units: int) -> None:
        """Nothing to switch."""

    def release(self) -> None:
        self._device.released.append(self.lane)


class InProcessDouble(Device):
    """A device of 4 units."""

    units = 4
    notes = ()
    identity = DeviceIdentity(kind="double", name="double of the tests", units=4, unit="unit")

    def __init__(self, refuses: frozenset[int] = frozenset(), cuda: Any = None) -> None:
        self.refuses = refuses
        self.cuda = cuda
        self.torch_device = "cpu" if cuda is None else "cpu:0"
        self.streams = [] if cuda is None else [cuda.Stream() for _ in range(4)]
        self.applied: list[int] = []
        self.released: list[int] = []

    def place(self, shares: Sequence[int]) -> tuple[PlaceDouble, ...]:
        return tuple(PlaceDouble(self, lane, share) for lane, share in enumerate(shares))
