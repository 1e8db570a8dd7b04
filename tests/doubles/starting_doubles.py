"""A device double whose lanes can only start side by side. On the CPU, without limits."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esen_lab.devices import CpuDevice, InForce, Placement
from esen_lab.errors import DeviceError


@dataclass(frozen=True, kw_only=True)
class WaitsForTheOthers(Placement):
    """A double of a lane's place: it is in force once as many lanes have come to where they start, or never."""

    folder: str
    lanes: int
    own: int
    refuses: bool = False
    units: int = 1

    def apply(self) -> InForce:
        (Path(self.folder) / str(self.own)).touch()
        until = time.monotonic() + 60
        while len(list(Path(self.folder).iterdir())) < self.lanes:
            if time.monotonic() > until:
                raise DeviceError("Lanes start side by side", given="one at a time")
            time.sleep(0.005)
        if self.refuses:
            raise DeviceError("The double opens a lane", given="one that it was told to refuse")
        return InForce(units=1, description="a double: no limit")

    def use(self, active_units: int) -> None:
        """Nothing to switch."""


class SideBySide(CpuDevice):
    """A double of a device with such places."""

    def __init__(self, folder: Path, refuses: int = -1) -> None:
        super().__init__(cores=[(0,), (0,), (0,)])
        self.folder = folder
        self.refuses = refuses

    def place(self, shares: Sequence[int]) -> Any:
        count = len(shares)
        return tuple(
            WaitsForTheOthers(folder=str(self.folder), lanes=count, own=own, refuses=own == self.refuses)
            for own in range(count)
        )
