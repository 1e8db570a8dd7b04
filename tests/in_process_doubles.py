"""A device double whose lanes live in this process on the CPU: no limits, no streams; it notes what is let go."""

from __future__ import annotations

from collections.abc import Sequence

from esen_lab.devices import DeviceIdentity, InForce


class PlaceDouble:
    """A place without a limit."""

    def __init__(self, device: InProcessDouble, lane: int, units: int) -> None:
        self._device = device
        self.lane = lane
        self.units = units

    def apply(self) -> InForce:
        if self.lane in self._device.refuses:
            from esen_lab.errors import DeviceError

            raise DeviceError("The double opens a lane", given="one that it was told to refuse")
        self._device.applied.append(self.lane)
        return InForce(units=self.units, description="a double: no limit")

    def use(self, active_units: int) -> None:
        """Nothing to switch."""

    def release(self) -> None:
        self._device.released.append(self.lane)


class InProcessDouble:
    """A device of 4 units."""

    units = 4
    notes = ()
    identity = DeviceIdentity(kind="double", name="double of the tests", units=4, unit="unit")

    def __init__(self, refuses: frozenset[int] = frozenset()) -> None:
        self.refuses = refuses
        self.applied: list[int] = []
        self.released: list[int] = []

    def place(self, shares: Sequence[int]) -> tuple[PlaceDouble, ...]:
        return tuple(PlaceDouble(self, lane, share) for lane, share in enumerate(shares))
