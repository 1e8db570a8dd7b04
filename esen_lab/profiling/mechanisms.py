"""Which way to execute each sub-model is fastest at its share: measured in a worker of that share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from esen_lab.devices import Device
from esen_lab.ensemble import SubModel
from esen_lab.errors import ModelError, WorkerDied, WorkerTimeout
from esen_lab.profiling.timing import Timing
from esen_lab.showing import Shown
from esen_lab.units import format_seconds, format_table
from esen_lab.workers import LaneWorker, Nursery

MECHANISMS = ("eager", "compile", "graph")
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
    """All that was measured."""

    points: tuple[MechanismPoint, ...]

    @property
    def chosen(self) -> Mapping[str, str]:
        """For each sub-model the way to take."""
        return {point.name: point.mechanism for point in self.points if point.chosen}

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"points": [asdict(point) for point in self.points]}

    def __str__(self) -> str:
        """For a terminal."""
        rows = [
            (
                point.name,
                str(point.units),
                point.mechanism,
                "" if point.median_s is None else format_seconds(point.median_s),
                "" if point.spread_s is None else format_seconds(point.spread_s),
                "taken" if point.chosen else point.why,
            )
            for point in self.points
        ]
        return format_table(("sub-model", "share", "executed", "median", "spread", ""), rows)


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
        on_progress: Called with (points measured, all, what is measured now).

    Raises:
        EsenError: A sub-model cannot be run eagerly either, or there is no worker.
    """
    ways = ["eager", *(way for way in mechanisms if way != "eager")]
    points: list[MechanismPoint] = []
    for number, (submodel, units) in enumerate(submodels):
        worker: LaneWorker | None = None
        measured: list[MechanismPoint] = []
        try:
            for place, way in enumerate(ways):
                if on_progress is not None:
                    on_progress(number * len(ways) + place, len(submodels) * len(ways), f"{submodel.name}, {way}")
                if worker is None or not worker.alive:
                    worker = nursery.worker(device.place([units])[0], label=f"mechanisms of {submodel.name}")
                measured.append(_measured(submodel, units, way, worker, budget_s, timeout_s))
        finally:
            if worker is not None:
                worker.close()
        points += choose(measured)
    return MechanismTable(points=tuple(points))


def _measured(
    submodel: SubModel, units: int, way: str, worker: LaneWorker, budget_s: float, timeout_s: float
) -> MechanismPoint:
    from esen_lab.workers.mechanisms import why_not, wrapped

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
        return replace(point, why=problem.rule)
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
