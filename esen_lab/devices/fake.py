"""A simulated device: plans for a GPU can be tried on a laptop, in the time that was recorded on the GPU.

The networks really run (on one CPU thread each), so answers are real; each then waits until as much time has passed as
was recorded for its share. Every name, report and plan says that it is simulated.

    L(s)    recorded latency at share s, on the running minimum over shares, interpolated in 1/s between recorded ones
    f       how many times the lanes' shares exceed the device, at least 1
    wait    until L(s) x f x slowdown has passed since the sub-model began

f is a plain model of contention (time-sharing without loss or gain). It keeps "all at once without limits" from
looking like a device of its own for each lane; it is no measurement.
"""

from __future__ import annotations

import bisect
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from esen_lab.common.units import MOST_UNITS, check_units
from esen_lab.devices.base import Device, DeviceIdentity, InForce, Placement
from esen_lab.devices.recorded import not_a_record, read_record, write_record
from esen_lab.errors import UsageError

Latencies = Mapping[str, Mapping[int, float]]
_MOST_SLOWDOWN = 1e6
_MOST_FIGURES = 50_000  # latencies of all sub-models at all shares: read, filled in and saved in half a second
NOTE = "Simulated: times are replayed from recorded latencies, nothing here is measured."


@dataclass(frozen=True, slots=True, kw_only=True)
class FakePlacement(Placement):
    """One lane's place on a simulated device.

    Attributes:
        share: Its units.
        unit: What one unit is called.
        waits_s: For each sub-model, how long it takes with 1..share units, in seconds.
    """

    paced = True

    share: int
    unit: str
    waits_s: Mapping[str, tuple[float, ...]]

    @property
    def units(self) -> int:
        """The lane's share."""
        return self.share

    def apply(self) -> InForce:
        """Nothing is limited here but the CPU threads that compute the answers."""
        import torch

        torch.set_num_threads(1)
        return InForce(units=self.share, description=f"simulated: {self.share} {self.unit}")

    def use(self, active_units: int) -> None:
        """Nothing to switch: `pace` is told."""

    def knows(self, name: str) -> None:
        """Make sure that there are latencies of a sub-model.

        Raises:
            UsageError: There are none.
        """
        if name not in self.waits_s:
            raise UsageError(
                f"A simulated device has recorded latencies of {', '.join(self.waits_s)}",
                given=name,
                hint="Register the sub-model under one of these names.",
            )

    def pace(self, name: str, active_units: int, began_ns: int) -> None:
        """Wait until the sub-model that began at `began_ns` (`time.perf_counter_ns`) has taken its recorded time."""
        until = began_ns / 1e9 + self.waits_s[name][active_units - 1]
        while (left := until - time.perf_counter()) > 0:
            # Sleeping overshoots by some tenths of a millisecond; the last of it is spent awake.
            if left > 0.001:
                time.sleep(left - 0.0005)


class FakeDevice(Device):
    """A device that replays recorded latencies.

    Args:
        latencies: For each sub-model, seconds by share in units: `{"resnet": {30: 0.021, 60: 0.012, 100: 0.009}}`.
            Between recorded shares they are interpolated in 1/share; below the smallest they grow as 1/share.
        units: How many units the device has.
        name: What it stands for, such as "NVIDIA A100". "(simulated)" is added.
        unit: What one unit is called.
        slowdown: Times are this many times as long as recorded, at least 1. Networks that take longer on this CPU
            than on the recorded device need it, or their real time shows instead.

    Raises:
        UsageError: A latency is not above 0, a share is not on the device, or there is nothing recorded.
    """

    def __init__(
        self,
        latencies: Latencies,
        *,
        units: int = 100,
        name: str = "recorded device",
        unit: str = "percent",
        slowdown: float = 1.0,
    ) -> None:
        if not latencies:
            raise UsageError("A simulated device replays at least one sub-model's latencies", given="none")
        if not (isinstance(slowdown, (int, float)) and 1 <= slowdown <= _MOST_SLOWDOWN):
            raise UsageError("The slowdown of a simulated device is a number of at least 1", given=slowdown)
        units = check_units(units, MOST_UNITS, "the size of a simulated device")
        if units * len(latencies) > _MOST_FIGURES:
            raise UsageError(
                f"A simulated device replays at most {_MOST_FIGURES:,} latencies",
                given=f"{len(latencies)} sub-models at {units} shares",
            )
        self._curves = {who: _filled(who, curve, units) for who, curve in latencies.items()}
        self._slowdown = slowdown
        self._identity = DeviceIdentity(
            kind="simulated",
            name=f"{name.removesuffix(' (simulated)')} (simulated)",
            units=units,
            unit=unit,
            details={"slowdown": f"{slowdown:g}"},
            simulated=True,
        )

    @classmethod
    def load(cls, path: str | Path, *, slowdown: float = 1.0) -> FakeDevice:
        """Read what `save` wrote.

        Raises:
            StoreError: The file cannot be read, or is not such a file.
        """
        record = read_record(path)
        try:
            return cls(record.latency_s, units=record.units, name=record.name, unit=record.unit, slowdown=slowdown)
        except UsageError as problem:
            raise not_a_record(path, problem) from problem

    def save(self, path: str | Path) -> Path:
        """Write the curves as JSON that `load` reads, in the place of another record or of nothing.

        Raises:
            UsageError: The name is taken by something else.
            StoreError: The file cannot be written.
        """
        return write_record(
            path,
            {
                "name": self._identity.name.removesuffix(" (simulated)"),
                "units": self.units,
                "unit": self._identity.unit,
                "latency_s": {
                    who: {str(share): seconds for share, seconds in enumerate(curve, start=1)}
                    for who, curve in self._curves.items()
                },
            },
        )

    @property
    def identity(self) -> DeviceIdentity:
        """What it stands for; `simulated` is true."""
        return self._identity

    @property
    def units(self) -> int:
        """Units of the device it stands for."""
        return self._identity.units

    @property
    def notes(self) -> tuple[str, ...]:
        """That nothing is measured, and the slowdown."""
        slow = () if self._slowdown == 1 else (f"Times are {self._slowdown:g} times as long as recorded.",)
        return (NOTE, *slow)

    @property
    def latency_s(self) -> Mapping[str, tuple[float, ...]]:
        """For each sub-model, the latency replayed at 1..units units, in seconds, without the slowdown."""
        return dict(self._curves)

    def place(self, shares: Sequence[int]) -> tuple[FakePlacement, ...]:
        """Places for lanes that run at the same time; beyond the device's units all of them slow down alike."""
        for share in shares:
            check_units(share, self.units)
        factor = max(1.0, sum(shares) / self.units) * self._slowdown
        return tuple(
            FakePlacement(
                share=share,
                unit=self._identity.unit,
                waits_s={who: tuple(s * factor for s in curve[:share]) for who, curve in self._curves.items()},
            )
            for share in shares
        )


def _filled(who: str, curve: Mapping[int, float], units: int) -> tuple[float, ...]:
    """Latencies at 1..units from those recorded."""
    if not curve:
        raise UsageError("A simulated sub-model has at least one recorded latency", given=f"none of {who!r}")
    for share, seconds in curve.items():
        check_units(share, units)
        if not (math.isfinite(seconds) and seconds > 0):
            raise UsageError("A latency is a number of seconds above 0", given=f"{seconds} of {who!r} at {share}")
    best = math.inf
    known = []
    for share in sorted(curve):
        best = min(best, curve[share])
        known.append((share, best))
    shares = [share for share, _ in known]
    return tuple(_between(known, bisect.bisect_left(shares, share), share) for share in range(1, units + 1))


def _between(known: Sequence[tuple[int, float]], place: int, share: int) -> float:
    """Linear in 1/share between neighbours; as 1/share below the first; constant above the last.

    Args:
        known: (share, seconds), by share.
        place: The first of them whose share is not below `share`.
        share: Where to read.
    """
    if place == len(known):
        return known[-1][1]
    (high, fast) = known[place]
    if high == share:
        return fast
    if place == 0:
        return fast * high / share
    low, slow = known[place - 1]
    return fast + (slow - fast) * (1 / share - 1 / high) / (1 / low - 1 / high)
