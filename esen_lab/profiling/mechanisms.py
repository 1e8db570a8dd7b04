"""Which way to execute each sub-model is fastest at its share: measured in a worker of that share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from esen_lab.devices import Device
from esen_lab.ensemble import SubModel
from esen_lab.errors import ModelError, UsageError, WorkerDied, WorkerTimeout
from esen_lab.profiling.timing import Timing
from esen_lab.showing import Shown
from esen_lab.units import MECHANISMS, format_percent, format_seconds, format_table
from esen_lab.workers import LaneWorker, Nursery

WORTH = 0.97  # another way than eager is taken when it needs at most this part of the time
_MEASURE = "esen_lab.profiling.timing:measure"


@dataclass(frozen=True, slots=True, kw_only=True)
class MechanismPoint:
    """One sub-model executed one way.

    Attributes:
        name: The sub-model.
        units: The share it was measured at.
        mechanism: "eager", "compile" or "graph".
        median_s: Median latency in seconds, or None where it could not be run.
        spread_s: Its interquartile range in seconds, or None.
        why: Why it could not be run, or answered differently; else "".
        chosen: Whether it is the one to take.
    """

    name: str
    units: int
    mechanism: str
    median_s: float | None = None
    spread_s: float | None = None
    why: str = ""
    chosen: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MechanismTable(Shown):
    """All that was measured.

    Attributes:
        points: Every sub-model with every way, a sub-model's points side by side.
        units: All that the device has.
        unit: What a unit is, such as "core".
    """

    points: tuple[MechanismPoint, ...]
    units: int = 0
    unit: str = "unit"

    @property
    def chosen(self) -> Mapping[str, str]:
        """For each sub-model the way to take."""
        return {point.name: point.mechanism for point in self.points if point.chosen}

    def part(self, name: str) -> float:
        """The time that the way taken needs, as a part of the eager one; `name` is one of `chosen`."""
        mine = self.of(name)
        taken, eager = mine[self.chosen[name]].median_s, mine["eager"].median_s
        assert taken is not None
        assert eager is not None
        return taken / eager

    @property
    def ways(self) -> tuple[str, ...]:
        """The ways that were tried, eager first."""
        return tuple(dict.fromkeys(point.mechanism for point in self.points))

    @property
    def hindrances(self) -> tuple[str, ...]:
        """Why ways could not be taken, a sentence each; names no sub-model where it is so for all of them."""
        found: dict[tuple[str, str], list[str]] = {}
        for point in self.points:
            if point.why:
                found.setdefault((point.mechanism, point.why), []).append(point.name)
        everyone = len(self.chosen)
        return tuple(
            f"No {way}{'' if len(names) == everyone else ' for ' + ', '.join(names)}: {why.rstrip('.')}."
            for (way, why), names in found.items()
        )

    def of(self, name: str) -> Mapping[str, MechanismPoint]:
        """The points of one sub-model by way; empty where it was not measured."""
        return {point.mechanism: point for point in self.points if point.name == name}

    def reason(self, name: str) -> str:
        """Why a sub-model's way was taken, in a few words.

        Args:
            name: One of `chosen`.
        """
        mine = self.of(name)
        taken = mine[self.chosen[name]]
        others = {way: point.median_s for way, point in mine.items() if point is not taken and point.median_s}
        if taken.median_s is None or not others:
            return "no other way could be taken" if len(mine) > 1 else "no other way was asked for"
        if taken.mechanism != "eager":
            return f"takes {format_percent(1 - taken.median_s / others['eager'])} less time than eager"
        best = min(others, key=lambda way: others[way])
        part = others[best] / taken.median_s
        if part >= 1:
            return f"{best} takes {part:.2f}× as long"
        return f"{best} takes only {format_percent(1 - part)} less time, too little to count"

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"points": [asdict(point) for point in self.points], "units": self.units, "unit": self.unit}

    def __str__(self) -> str:
        """For a terminal."""
        rows = [
            (
                name,
                str(mine["eager"].units),
                *(format_seconds(mine[way].median_s) for way in self.ways),
                way,
                self.reason(name),
            )
            for name, way in self.chosen.items()
            for mine in [self.of(name)]
        ]
        table = format_table(("sub-model", "share", *self.ways, "taken", "because"), rows)
        return "\n".join([table, *self.hindrances])


def measure_mechanisms(
    submodels: Sequence[tuple[SubModel, int]],
    device: Device,
    nursery: Nursery,
    *,
    mechanisms: Sequence[str] = MECHANISMS,
    budget_s: float = 0.5,
    timeout_s: float = 300.0,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> MechanismTable:
    """Measure every way to execute each sub-model, alone on the device, and choose the fastest that answers alike.

    Args:
        submodels: Each with its share in units.
        device: Where.
        nursery: Starts the workers.
        mechanisms: Which ways; "eager" is always among them.
        budget_s: Seconds of repeats for each point; compiling comes on top.
        timeout_s: Deadline for loading one, compiling included.
        on_progress: Called with (done, all, what is going on).

    Raises:
        UsageError: There is no such mechanism.
        EsenError: A sub-model cannot be run eagerly either, or there is no worker.
    """
    unknown = [way for way in mechanisms if way not in MECHANISMS]
    if unknown:
        raise UsageError(f"A mechanism is one of {', '.join(MECHANISMS)}", given=", ".join(unknown))
    ways = [way for way in MECHANISMS if way == "eager" or way in mechanisms]
    points: list[MechanismPoint] = []
    for number, (submodel, units) in enumerate(submodels):
        worker: LaneWorker | None = None
        measured: list[MechanismPoint] = []
        try:
            for step, way in enumerate(ways, number * len(ways)):
                if on_progress is not None:
                    patience = ", which takes a while" if way == "compile" else ""
                    on_progress(step, len(submodels) * len(ways), f"{submodel.name}: {way}{patience}")
                if worker is None or not worker.alive:
                    worker = nursery.worker(device.place([units])[0], label=f"mechanisms of {submodel.name}")
                measured.append(_measured(submodel, units, way, worker, budget_s, timeout_s))
        finally:
            if worker is not None:
                worker.close()
        points += choose(measured)
    return MechanismTable(points=tuple(points), units=device.units, unit=device.identity.unit)


def _measured(
    submodel: SubModel, units: int, way: str, worker: LaneWorker, budget_s: float, timeout_s: float
) -> MechanismPoint:
    from esen_lab.workers.mechanisms import refusal, why_not, wrapped

    where = getattr(worker.in_force, "torch_device", "cpu")
    point = MechanismPoint(name=submodel.name, units=units, mechanism=way)
    if why := why_not(way, where):
        return replace(point, why=why)
    try:
        worker.load(submodel.name, wrapped(submodel.payload(), way), submodel.example, timeout_s=timeout_s)
        found = worker.call(_MEASURE, submodel.name, timeout_s=timeout_s, budget_s=budget_s)
    except (ModelError, WorkerDied, WorkerTimeout) as problem:
        if way == "eager":
            raise
        return replace(point, why=refusal(problem))
    assert isinstance(found, Timing)
    return replace(point, median_s=found.median_s, spread_s=found.spread_s)


def choose(points: Sequence[MechanismPoint]) -> tuple[MechanismPoint, ...]:
    """The points of one sub-model with the one to take marked: the fastest, or eager where nothing is clearly faster.

    Args:
        points: All of one sub-model; the eager one has a median.
    """
    eager = next(point for point in points if point.mechanism == "eager")
    assert eager.median_s is not None
    best = eager
    for point in points:
        if point.median_s is None or point is eager:
            continue
        if point.median_s <= WORTH * eager.median_s and (best is eager or point.median_s < (best.median_s or 0)):
            best = point
    return tuple(replace(point, chosen=point is best) for point in points)
