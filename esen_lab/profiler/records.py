"""Records of profiling: a measured point, a failed point, a profile. Plain data, no torch.

s   units of the share that was measured (1..device units)
n   repeats that count, after the warm-up
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from typing import Annotated, Any

from msgspec import Meta

from esen_lab.common.display import Shown
from esen_lab.common.records import to_frame
from esen_lab.common.surroundings import step
from esen_lab.common.units import (
    OLD_DAYS,
    days_since,
    format_percent,
    format_seconds,
    format_table,
    simulated_line,
)
from esen_lab.devices.cpu.contention import LOADED
from esen_lab.files.schemas import Count, Latency, Name, Seconds, Text, Units, plain

_SWITCHES = "switches"
_MOST_SWITCHES = 2000  # characters of a reading


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What the timed steps of one sub-model came to, whoever measured them.

    Attributes:
        median_s: Median latency of one step (inputs ready, forward, outputs written), in seconds.
        spread_s: Interquartile range of the latency, in seconds.
        quantile_90_s: 90th percentile of the latency, in seconds.
        repeats: How many timed steps the figures come from.
        warmups: How many steps ran before they were stable.
        settled: Whether the median is known to 2 % (95 % confidence); else the time budget ended first.
        readings: What else was read while it ran, a number or the reason why there is none: "load" (what other programs
            took, see `load`); by another backend than eager "prepare_s" (converting, compiling, checking); on a GPU
            "events_median_s" (its own clock), "sm_percent", "occupancy_percent", "tensor_percent" and "dram_percent"
            (GPM, of the whole GPU, around a steady loop of this sub-model alone), "answers_error" (the largest
            difference from the answers of the whole device, relative to the largest). Where the session had set what
            changes latencies, "switches" says what.
    """

    median_s: Latency
    spread_s: Seconds
    quantile_90_s: Seconds
    repeats: Count
    warmups: Count
    settled: bool
    readings: Annotated[Mapping[Name, float | Text], Meta(max_length=64)] = field(default_factory=dict)

    def figures(self) -> dict[str, Any]:
        """These fields by name, to make another record of them."""
        return {one.name: getattr(self, one.name) for one in fields(Figures)}

    @property
    def load(self) -> float | None:
        """The part of the time, 0 to 1, in which its cores did other programs' work; None where that was not read."""
        load = self.readings.get("load")
        if isinstance(load, (int, float)) and not isinstance(load, bool) and 0 <= load <= 1:
            return float(load)
        return None

    @property
    def loaded(self) -> bool:
        """Whether other programs took so much meanwhile that the figures are not those of a quiet machine."""
        return is_loaded(self.load)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point(Figures):
    """The measured latency of one sub-model at one share: as it is measured, and as the store keeps it.

    Attributes:
        name: The sub-model.
        units: The share it was measured at, in device units.
        peak_memory_bytes: Weights plus the largest growth of the process while it ran; None where it can't be read.
        measured_at: When, as UTC ISO 8601.
        reused: Whether it came from the store and was not measured in this job.
        budget_s: The time budget it was measured under, in seconds; 0 where nobody knows.
        backend: What executed it (see `check_backend`).
    """

    name: Name
    units: Units
    peak_memory_bytes: Count | None
    measured_at: Text
    reused: bool = False
    budget_s: Seconds = 0.0
    backend: Name = "eager"

    def age_days(self, now: datetime | None = None) -> float | None:
        """Days since it was measured, negative where it says that it will be; None where it does not tell when.

        Args:
            now: None for the present.
        """
        return days_since(self.measured_at, now)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a backend does not execute a sub-model here.

    Attributes:
        name: The sub-model.
        backend: The backend.
        why: As a sentence without its full stop.
    """

    name: Name
    backend: Name
    why: Text


def is_loaded(load: float | None) -> bool:
    """Whether a load makes latencies that are not those of a quiet machine; one that is not known does not."""
    return load is not None and load > LOADED


def wrong_shares(failures: Iterable[Failure]) -> dict[str, set[int]]:
    """For each sub-model, the shares at which its answers were wrong."""
    wrong: dict[str, set[int]] = {}
    for failure in failures:
        if failure.wrong_answers:
            wrong.setdefault(failure.name, set()).add(failure.units)
    return wrong


def curves_of(points: Iterable[Point], figure: str = "median_s") -> dict[str, dict[int, float]]:
    """For each sub-model, seconds by share in units: all that models and plans are made from.

    Args:
        points: Of several sub-models, with one backend; of two at one share, the later one counts.
        figure: Which attribute of a point, in seconds.
    """
    curves: dict[str, dict[int, float]] = {}
    for point in points:
        curves.setdefault(point.name, {})[point.units] = getattr(point, figure)
    return curves


def curves_by_backend(points: Iterable[Point], figure: str = "median_s") -> dict[str, dict[str, dict[int, float]]]:
    """For each sub-model and backend, seconds by share in units; see `curves_of`."""
    curves: dict[str, dict[str, dict[int, float]]] = {}
    for point in points:
        curves.setdefault(point.name, {}).setdefault(point.backend, {})[point.units] = getattr(point, figure)
    return curves


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile(Shown):
    """All points of one ensemble on one device.

    Attributes:
        device: The device's identity (see `DeviceIdentity.to_dict`), as it was when measuring.
        units: Units of the device.
        points: Executed eagerly, sorted by sub-model (in order of registration), then units.
        failures: Points that could not be measured.
        examples: For each sub-model, what its example looks like ("float32[1, 64]").
        fingerprints: For each sub-model, the fingerprint it was measured under.
        backend_points: Executed by other backends, sorted alike. Where a backend was clearly behind at one share, other
            shares were not measured with it.
        refusals: Which backends do not execute which sub-model.
    """

    device: Mapping[str, Any]
    units: int
    points: tuple[Point, ...]
    failures: tuple[Failure, ...] = ()
    examples: Mapping[str, str] = field(default_factory=dict)
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    backend_points: tuple[Point, ...] = ()
    refusals: tuple[Refusal, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The sub-models that have at least one point, in order."""
        return tuple(dict.fromkeys(point.name for point in self.points))

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why latencies predicted from it may be off: see `doubts_about`."""
        return doubts_about((*self.points, *self.backend_points))

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return plain(self)

    def recorded(self) -> dict[str, Any]:
        """The medians as plain data that `FakeDevice.load` reads from JSON, to plan for this device on any machine.

        What the device was, the examples and when it was measured go along, for people.
        """
        return {
            "name": str(self.device.get("name", "unknown device")),
            "units": self.units,
            "unit": str(self.device.get("unit", "unit")),
            "latency_s": {
                name: {str(units): curve[units] for units in sorted(curve)}
                for name, curve in curves_of(self.points).items()
            },
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
        points = (*self.points, *self.backend_points)
        return to_frame([{"name": point.name, "units": point.units, **asdict(point)} for point in points])

    def __str__(self) -> str:
        """The medians by sub-model and share, for a terminal."""
        shares = sorted({point.units for point in self.points})
        cells = {
            (point.name, point.backend, point.units): format_seconds(point.median_s)
            for point in (*self.points, *self.backend_points)
        }
        rows = [
            (name if backend == "eager" else f"  by {backend}", *(cells.get((name, backend, k), "") for k in shares))
            for name in self.names
            for backend in ("eager", *self.backends_of(name))
        ]
        failed = [f"{failure.name} at {failure.units} failed: {failure.message}" for failure in self.failures]
        table = format_table(("median at", *map(str, shares)), rows)
        return "\n".join([table, *simulated_line(self.device), *failed, *self.doubts])

    def of(self, name: str, backend: str = "eager") -> tuple[Point, ...]:
        """The points of one sub-model with one backend, by ascending share."""
        points = self.points if backend == "eager" else self.backend_points
        return tuple(sorted((p for p in points if p.name == name and p.backend == backend), key=lambda p: p.units))

    def backends_of(self, name: str) -> tuple[str, ...]:
        """The backends besides eager that one sub-model was measured with."""
        return tuple(dict.fromkeys(point.backend for point in self.backend_points if point.name == name))


def doubts_about(points: Iterable[Point], now: datetime | None = None) -> tuple[str, ...]:
    """Why latencies predicted from these points may be off, a sentence for each kind of reason; () where none is known.

    Args:
        points: Measured ones.
        now: The time that ages are counted to; None for the present.
    """
    points = tuple(points)
    doubts = []
    loaded = [point for point in points if point.loaded]
    if loaded:
        most = max(point.load or 0.0 for point in loaded)
        doubts.append(
            f"Measured while other programs took up to {format_percent(most)} of its cores' time: {_named(loaded)}. "
            "Close them and profile again: that measures these points anew."
        )
    ages = [(point.age_days(now), point) for point in points]
    old = [(age, point) for age, point in ages if age is not None and age > OLD_DAYS]
    if old:
        oldest = max(age for age, _ in old)
        named, anew = _named([point for _, point in old]), step("lab.profile(fresh=True)", "%esen profile --fresh")
        doubts.append(f"Measured up to {oldest:.0f} days ago: {named}. {anew} measures them anew.")
    ahead = [point for age, point in ages if age is not None and age < -1 / 24]
    if ahead:
        doubts.append(f"Dated in the future, so a clock was wrong and their age is not known: {_named(ahead)}.")
    return tuple(doubts)


def with_switches(point: Point, unusual: Sequence[str]) -> Point:
    """A point that says what the session had set that changes latencies (see `Settings.unusual`), where it had any."""
    return replace(point, readings={**point.readings, _SWITCHES: _words(unusual)}) if unusual else point


def _words(unusual: Sequence[str]) -> str:
    return ", ".join(unusual)[:_MOST_SWITCHES]


def under_other_switches(points: Iterable[Point], unusual: Sequence[str]) -> tuple[str, ...]:
    """That points were measured while other switches were set than now, a sentence; () where none was.

    Args:
        points: Measured ones.
        unusual: What is set now.
    """
    now = _words(unusual)
    of = [(point, str(point.readings.get(_SWITCHES, ""))) for point in points]
    others = [point for point, then in of if then != now]
    if not others:
        return ()
    then = " or ".join(sorted({then or "none" for _, then in of if then != now}))
    return (
        f"Measured while other switches were set ({then}; now {now or 'none'}): {_named(others)}. "
        "Profile again: that measures what is missing.",
    )


def _named(points: Iterable[Point]) -> str:
    """Points in words: "wide at 1 and 2, deep at 1"; beyond four sub-models, only how many points."""
    shares: dict[str, set[int]] = {}
    for point in points:
        shares.setdefault(point.name, set()).add(point.units)
    if len(shares) > 4:
        return f"{sum(map(len, shares.values()))} points of {len(shares)} sub-models"
    return ", ".join(f"{name} at {' and '.join(map(str, sorted(units)))}" for name, units in shares.items())
