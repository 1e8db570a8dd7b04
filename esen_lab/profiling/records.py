"""The nouns of profiling: one measured point, one failed point, a profile. Plain data, no torch.

s   units of the share that was measured (1..device units)
n   repeats that count, after the warm-up
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from esen_lab.frames import to_frame
from esen_lab.showing import Shown
from esen_lab.units import format_seconds, format_table


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """The measured latency of one sub-model at one share.

    Attributes:
        name: The sub-model.
        units: The share it was measured at, in device units.
        median_s: Median latency of one step (inputs ready, forward, outputs written), in seconds.
        spread_s: Interquartile range of the latency, in seconds.
        quantile_90_s: 90th percentile of the latency, in seconds.
        repeats: How many timed steps the figures come from.
        warmups: How many steps ran before they were stable.
        settled: Whether the median is known to 2 % (95 % confidence); else the time budget ended first.
        peak_memory_bytes: Weights plus the largest growth of the process while it ran; None where it can't be read.
        measured_at: When, as UTC ISO 8601.
        reused: Whether it came from the store and was not measured in this job.
        budget_s: The time budget it was measured under, in seconds; 0 where nobody knows.
        readings: What else was read while it ran on a GPU, a number or the reason why there is none:
            "events_median_s" (the GPU's own clock), "sm_percent", "occupancy_percent", "tensor_percent" and
            "dram_percent" (GPM, of the whole GPU, around a steady loop of this sub-model alone), "answers_error" (the
            largest difference from the answers of the whole device, relative to the largest answer).
    """

    name: str
    units: int
    median_s: float
    spread_s: float
    quantile_90_s: float
    repeats: int
    warmups: int
    settled: bool
    peak_memory_bytes: int | None
    measured_at: str
    reused: bool = False
    budget_s: float = 0.0
    readings: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A point that could not be measured, and why.

    Attributes:
        name: The sub-model.
        units: The share.
        message: For people.
        worker_traceback, log: What the worker left.
        wrong_answers: Its answers were not those of the whole device: no plan may use this share for it.
    """

    name: str
    units: int
    message: str
    worker_traceback: str = ""
    log: str = ""
    wrong_answers: bool = False


def wrong_shares(failures: Iterable[Failure]) -> dict[str, set[int]]:
    """For each sub-model, the shares at which its answers were wrong."""
    found: dict[str, set[int]] = {}
    for failure in failures:
        if failure.wrong_answers:
            found.setdefault(failure.name, set()).add(failure.units)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile(Shown):
    """All points of one ensemble on one device.

    Attributes:
        device: The device's identity (see `DeviceIdentity.to_dict`), as it was when measuring.
        units: Units of the device.
        points: Sorted by sub-model (in order of registration), then units.
        failures: Points that could not be measured.
        examples: For each sub-model, what its example looks like ("float32[1, 64]").
        fingerprints: For each sub-model, the fingerprint it was measured under.
    """

    device: Mapping[str, Any]
    units: int
    points: tuple[Point, ...]
    failures: tuple[Failure, ...] = ()
    examples: Mapping[str, str] = field(default_factory=dict)
    fingerprints: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The sub-models that have at least one point, in order."""
        return tuple(dict.fromkeys(point.name for point in self.points))

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "device": dict(self.device),
            "units": self.units,
            "points": [asdict(point) for point in self.points],
            "failures": [asdict(failure) for failure in self.failures],
            "examples": dict(self.examples),
            "fingerprints": dict(self.fingerprints),
        }

    def recorded(self) -> dict[str, Any]:
        """The medians as plain data that `FakeDevice.load` reads from JSON, to plan for this device on any machine.

        What the device was, the examples and when it was measured go along, for people.
        """
        return {
            "name": str(self.device.get("name", "unknown device")),
            "units": self.units,
            "unit": str(self.device.get("unit", "unit")),
            "latency_s": {name: {str(p.units): p.median_s for p in self.of(name)} for name in self.names},
            "measured": {
                "device": dict(self.device),
                "examples": dict(self.examples),
                "until": max((point.measured_at for point in self.points), default=""),
            },
        }

    def to_frame(self) -> Any:
        """A pandas table with a row per measured point.

        Raises:
            UsageError: pandas is not installed.
        """
        return to_frame([asdict(point) for point in self.points])

    def __str__(self) -> str:
        """The medians by sub-model and share, for a terminal."""
        shares = sorted({point.units for point in self.points})
        cells = {(point.name, point.units): format_seconds(point.median_s) for point in self.points}
        rows = [(name, *(cells.get((name, units), "") for units in shares)) for name in self.names]
        failed = [f"{failure.name} at {failure.units} failed: {failure.message}" for failure in self.failures]
        return "\n".join([format_table(("median at", *map(str, shares)), rows), *failed])

    def of(self, name: str) -> tuple[Point, ...]:
        """The points of one sub-model, by ascending share."""
        return tuple(sorted((p for p in self.points if p.name == name), key=lambda p: p.units))
