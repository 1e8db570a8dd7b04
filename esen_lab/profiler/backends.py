"""Which backend is fastest for each sub-model at its share: measured in a worker of that share."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from esen_lab.common.display import Shown
from esen_lab.common.units import BACKENDS, backend_parts, check_backend, format_percent, format_seconds, format_table
from esen_lab.devices import Device
from esen_lab.ensemble import SubModel
from esen_lab.errors import ModelError, WorkerDied, WorkerTimeout
from esen_lab.lanes import ForkServer, Worker
from esen_lab.lanes.plain import as_answer
from esen_lab.lanes.settings import Settings
from esen_lab.profiler.backend_trials import WORTH
from esen_lab.profiler.records import Point
from esen_lab.profiler.timing import Timing, as_point

_MEASURE = "esen_lab.profiler.timing:measure"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendPoint:
    """One sub-model executed one way.

    Attributes:
        name: The sub-model.
        units: The share it was measured at.
        backend: The backend (see `check_backend`).
        median_s: Median latency in seconds, or None where it could not be run.
        spread_s: Its interquartile range in seconds, or None.
        prepare_s: What building, converting, compiling and comparing took before, in seconds, or None.
        why: Why it could not be run, or answered differently; else "".
        chosen: Whether it is the one to take.
    """

    name: str
    units: int
    backend: str
    median_s: float | None = None
    spread_s: float | None = None
    prepare_s: float | None = None
    why: str = ""
    chosen: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendTable(Shown):
    """All that was measured.

    Attributes:
        points: Every sub-model with every way, a sub-model's points side by side.
        units: All that the device has.
        unit: What a unit is, such as "core".
        measured: Those of them that could be measured, with all their figures.
    """

    points: tuple[BackendPoint, ...]
    units: int = 0
    unit: str = "unit"
    measured: tuple[Point, ...] = ()

    @property
    def chosen(self) -> Mapping[str, str]:
        """For each sub-model the way to take."""
        return {point.name: point.backend for point in self.points if point.chosen}

    @property
    def ways(self) -> tuple[str, ...]:
        """The ways that a sub-model could be measured with, eager first."""
        return tuple(dict.fromkeys(point.backend for point in self.points if point.median_s is not None))

    @property
    def hindrances(self) -> tuple[str, ...]:
        """Why ways could not be taken, a sentence each; names no sub-model where it is so for all of them."""
        found: dict[tuple[str, str], list[str]] = {}
        for point in self.points:
            if point.why:
                found.setdefault((point.backend, point.why), []).append(point.name)
        everyone = len(self.chosen)
        return tuple(
            f"No {way}{'' if len(names) == everyone else ' for ' + ', '.join(names)}: {why.rstrip('.')}."
            for (way, why), names in found.items()
        )

    @property
    def preparing(self) -> str:
        """A sentence about how long the ways took to be ready, all sub-models together; "" where that is not known."""
        taken: dict[str, float] = {}
        for point in self.points:
            if point.prepare_s is not None and point.backend != "eager":
                taken[point.backend] = taken.get(point.backend, 0.0) + point.prepare_s
        told = ", ".join(f"{way} {format_seconds(seconds)}" for way, seconds in taken.items())
        return f"Preparing took: {told}." if told else ""

    def of(self, name: str) -> Mapping[str, BackendPoint]:
        """The points of one sub-model by way; empty where it was not measured."""
        return {point.backend: point for point in self.points if point.name == name}

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
        if taken.backend != "eager":
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
                *(format_seconds(mine[way].median_s if way in mine else None) for way in self.ways),
                way,
                self.reason(name),
            )
            for name, way in self.chosen.items()
            for mine in [self.of(name)]
        ]
        table = format_table(("sub-model", "share", *self.ways, "taken", "because"), rows)
        return "\n".join(filter(None, [table, *self.hindrances, self.preparing]))


def measure_backends(
    submodels: Sequence[tuple[SubModel, int]],
    device: Device,
    fork_server: ForkServer,
    *,
    backends: Sequence[str] = BACKENDS,
    more: Mapping[str, Sequence[str]] | None = None,
    refused: Mapping[str, Mapping[str, str]] | None = None,
    budget_s: float = 0.5,
    timeout_s: float = 300.0,
    settings: Settings | None = None,
    evicted: bool = False,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> BackendTable:
    """Measure each sub-model with every backend, alone on the device, and choose the fastest that answers alike.

    Args:
        submodels: Each with its share in units.
        device: Where.
        fork_server: Starts the workers.
        backends: Which backends; "eager" is always among them, and another precision only where it is named
            ("openvino@bf16").
        more: For each sub-model which others, such as the precisions that were checked.
        refused: For each sub-model those that are not measured, and why.
        budget_s: Seconds of repeats for each point; preparing comes on top.
        timeout_s: Deadline for loading one, preparing included.
        settings: What all is measured under, whatever the session sets meanwhile; None: what it has set by then.
        evicted: Whether sub-models evict each other's weights: see `caches.weights_evicted`.
        on_progress: Called with (done, all, what is going on).

    Raises:
        UsageError: There is no such backend.
        EsenError: A sub-model cannot be run eagerly either, or there is no worker.
    """
    asked = [check_backend(way) for way in backends if way != "eager"]
    by_name = {}
    for submodel, _ in submodels:
        mine = dict.fromkeys([*asked, *(more or {}).get(submodel.name, ())])
        by_name[submodel.name] = ["eager", *sorted(mine, key=lambda way: BACKENDS.index(backend_parts(way)[0]))]
    steps = sum(map(len, by_name.values()))
    step = 0
    points: list[BackendPoint] = []
    figures: list[Point] = []
    for submodel, units in submodels:
        worker: Worker | None = None
        measured: list[BackendPoint] = []
        try:
            for way in by_name[submodel.name]:
                if on_progress is not None:
                    patience = ", which takes a while" if way.startswith("inductor") else ""
                    on_progress(step, steps, f"{submodel.name}: {way}{patience}")
                step += 1
                why = (refused or {}).get(submodel.name, {}).get(way, "")
                if why:
                    measured.append(BackendPoint(name=submodel.name, units=units, backend=way, why=why))
                    continue
                if worker is None or not worker.alive:
                    place, label = device.place([units])[0], f"backends of {submodel.name}"
                    worker = fork_server.worker(place, label=label, settings=settings)
                measured.append(_measured(submodel, units, way, worker, budget_s, timeout_s, figures, evicted=evicted))
        finally:
            if worker is not None:
                worker.close()
        points += choose(measured)
    return BackendTable(points=tuple(points), units=device.units, unit=device.identity.unit, measured=tuple(figures))


def _measured(
    submodel: SubModel,
    units: int,
    way: str,
    worker: Worker,
    budget_s: float,
    timeout_s: float,
    figures: list[Point],
    *,
    evicted: bool,
) -> BackendPoint:
    from esen_lab.lanes.backends import note_end, refusal, why_not, wrapped_submodel

    where = worker.in_force.torch_device
    point = BackendPoint(name=submodel.name, units=units, backend=way)
    if why := why_not(way, where):
        return replace(point, why=why)
    payload = wrapped_submodel(submodel, way)
    try:
        began = time.perf_counter()
        worker.load(submodel.name, payload, submodel.example, traits=submodel.traits, timeout_s=timeout_s)
        prepare_s = time.perf_counter() - began
        answer = worker.call(
            _MEASURE, submodel.name, timeout_s=timeout_s, budget_s=budget_s, load=True, before=True, evicted=evicted
        )
        found = as_answer(answer, Timing)
    except (ModelError, WorkerDied, WorkerTimeout) as problem:
        if way == "eager":
            raise
        note_end(submodel, way, problem, where)
        return replace(point, why=refusal(problem))
    figures.append(as_point(found, submodel, units, budget_s, way))
    return replace(point, median_s=found.median_s, spread_s=found.spread_s, prepare_s=prepare_s)


def choose(points: Sequence[BackendPoint]) -> tuple[BackendPoint, ...]:
    """The points of one sub-model with the one to take marked: the fastest, or eager where nothing is clearly faster.

    Another precision is taken where it is clearly faster than what is taken without it.

    Args:
        points: All of one sub-model; the eager one has a median.
    """
    eager = next(point for point in points if point.backend == "eager")
    own = [point for point in points if point is not eager and not backend_parts(point.backend)[1]]
    lower = [point for point in points if backend_parts(point.backend)[1]]
    best = _better(_better(eager, own), lower)
    return tuple(replace(point, chosen=point is best) for point in points)


def _better(point: BackendPoint, others: Sequence[BackendPoint]) -> BackendPoint:
    """The fastest of the others where that is clearly faster, else the point itself."""
    assert point.median_s is not None
    medians = [(other.median_s, index) for index, other in enumerate(others) if other.median_s is not None]
    if not medians or min(medians)[0] > WORTH * point.median_s:
        return point
    return others[min(medians)[1]]
