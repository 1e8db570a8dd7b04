"""Members, devices and stages, chosen for an ensemble: brings `search/` its tables, answers and labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esen_lab.choosing.validation import Answers
from esen_lab.errors import UsageError
from esen_lab.fitting import CostModel, fit
from esen_lab.planning import Lane, Plan
from esen_lab.profiling import Profile
from esen_lab.search import (
    Cascade,
    Choice,
    DeviceTables,
    Front,
    Placement,
    Table,
    accuracy_of,
    cascade,
    check_threshold,
    member_front,
    still_open,
    with_reach,
)
from esen_lab.units import format_percent

_MANY = 6
"""With more members than this, each of the many stages of a cascade is searched for a shorter time."""


def tables_of(models: Mapping[str, CostModel]) -> dict[str, Table]:
    """Seconds at 1..units units, for each sub-model; None at shares to avoid."""
    return {name: model.table(model.units) for name, model in models.items()}


def front_of_members(
    models: Mapping[str, CostModel],
    units: int,
    answers: Answers,
    labels: NDArray[np.int64],
    *,
    seed: int = 0,
    stop: Callable[[], bool] = lambda: False,
) -> Front:
    """The front of accuracy on the validation data against predicted JCT, over all subsets of the members."""
    accuracy = accuracy_of(answers.outputs, labels, answers.combined)
    return member_front(tables_of(models), units, accuracy, seed=seed, stop=stop)


def plan_of_choice(choice: Choice, names: Sequence[str], units: int, **known: Any) -> Plan:
    """The plan of one point of a front; the other members of `names` are left out of it."""
    found = choice.allocation
    lanes = tuple(
        Lane(units=share, members=tuple(members), active_units=active)
        for (share, members), active in zip(found.lanes, found.active_units, strict=True)
    )
    left_out = tuple(name for name in names if name not in choice.names)
    notes = (f"accuracy {format_percent(choice.accuracy)} on the validation data", *found.notes)
    if left_out:
        notes = (f"left out: {', '.join(left_out)}", *notes)
    return Plan(
        lanes=lanes,
        units=units,
        searcher="members",
        jct_s=found.jct_s,
        bound_s=found.bound_s,
        left_out=left_out,
        notes=notes,
        **known,
    )


# --- several devices ----------------------------------------------------------------------------------------------


def device_tables(
    devices: int | Mapping[str, Any], models: Mapping[str, CostModel], units: int, quantile: Any
) -> list[DeviceTables]:
    """The devices of a placement, from what a user may give.

    Args:
        devices: How many devices like this one; or, by name, the `Profile` of each (as `lab.measurements`), or its
            latencies: for each sub-model, seconds at 1..units units.
        models: The cost models of this device.
        units: Units of this device.
        quantile: As for `fit`.

    Raises:
        UsageError: It is neither, or a device does not know every sub-model.
    """
    if isinstance(devices, int) and not isinstance(devices, bool):
        if devices < 1:
            raise UsageError("A placement needs at least one device", given=devices)
        tables = tables_of(models)
        return [DeviceTables(name=f"device{k + 1}", units=units, latencies=tables) for k in range(devices)]
    if not isinstance(devices, Mapping) or not devices:
        raise UsageError(
            "Devices are a number of devices like this one, or a profile or latencies by name",
            given=devices if isinstance(devices, (int, str)) else type(devices).__name__,
            hint='Such as 2, or {"big": lab.measurements, "small": {"net": [0.02, 0.01]}}.',
        )
    return [_device(str(name), given, tuple(models), quantile) for name, given in devices.items()]


def _device(name: str, given: Any, names: Sequence[str], quantile: Any) -> DeviceTables:
    if isinstance(given, Profile):
        missing = [one for one in names if one not in given.names]
        if missing:
            raise UsageError(
                "Every device knows every sub-model",
                given=f"{name!r} knows no {', '.join(missing)}",
                hint="Profile the missing ones there.",
            )
        tables = tables_of(fit(given, quantile=quantile))
        return DeviceTables(name=name, units=given.units, latencies={one: tables[one] for one in names})
    if isinstance(given, Mapping) and given and all(isinstance(row, Sequence) for row in given.values()):
        lengths = {len(row) for row in given.values()}
        if len(lengths) > 1 or not min(lengths):
            raise UsageError(
                "A device's tables hold one latency for each share from 1 to its units",
                given=f"{sorted(lengths)} latencies for {name!r}",
            )
        missing = [one for one in names if one not in given]
        if missing:
            raise UsageError("Every device knows every sub-model", given=f"{name!r} knows no {', '.join(missing)}")
        return DeviceTables(name=name, units=lengths.pop(), latencies={one: given[one] for one in names})
    raise UsageError(
        "A device of a placement is given by a Profile, or by latencies for each sub-model",
        given=f"{type(given).__name__} for {name!r}",
    )


def plan_of_placement(found: Placement, **known: Any) -> Plan:
    """The plan of a placement."""
    units = {name: size for (name, _), size in zip(found.devices, found.units, strict=True)}
    lanes = tuple(
        Lane(units=share, members=tuple(names), active_units=active, device=name)
        for name, allocation in found.devices
        if allocation is not None
        for (share, names), active in zip(allocation.lanes, allocation.active_units, strict=True)
    )
    idle = [name for name, allocation in found.devices if allocation is None]
    notes = (f"idle: {', '.join(idle)}",) if idle else ()
    return Plan(
        lanes=lanes,
        units=max(units.values()),
        searcher="placement",
        jct_s=found.jct_s,
        bound_s=found.bound_s,
        devices=units,
        notes=notes,
        **known,
    )


# --- stages -------------------------------------------------------------------------------------------------------


def cascade_of_members(
    models: Mapping[str, CostModel],
    units: int,
    answers: Answers,
    threshold: float,
    *,
    order: Sequence[str] | None = None,
    labels: NDArray[np.int64] | None = None,
    stage_overhead_s: float = 0.0,
) -> Cascade:
    """The best stages for members that are asked until the combined answer is sure enough.

    Args:
        models: The cost models.
        units: Units of the device.
        answers: Of the members, on validation data.
        threshold: The probability of the likeliest class at which an input is done.
        order: Who is asked first; None tries the fastest first and, with labels, the most accurate first.
        labels: The right classes, to say what the early exit costs in accuracy.
        stage_overhead_s: What one more stage costs.

    Raises:
        UsageError: The threshold, or the order, is not possible, or the combine rule gives no scores.
    """
    check_threshold(threshold)
    tables = tables_of(models)
    names = tuple(tables)
    accuracy = None if labels is None else accuracy_of(answers.outputs, labels, answers.combined)
    if order is None:
        orders = {"fastest first": sorted(names, key=lambda name: models[name].latency_s[-1])}
        if accuracy is not None:
            alone = {name: accuracy((name,)) for name in names}
            orders["most accurate first"] = sorted(names, key=lambda name: -alone[name])
    else:
        if sorted(order) != sorted(names):
            raise UsageError(
                "The order of a cascade names every member once", given=f"{', '.join(order)} for {', '.join(names)}"
            )
        orders = {"as told": list(order)}
    options: dict[str, Any] = {"time_limit_s": 0.3} if len(names) > _MANY else {}
    found: dict[str, Cascade] = {}
    for how, asked in orders.items():
        reach = still_open(answers.outputs, asked, threshold, answers.probabilities)
        cut = cascade(tables, units, asked, reach, stage_overhead_s=stage_overhead_s, **options)
        # The reach above asks after every member; a cascade asks after every stage only.
        found[how] = with_reach(cut, _reach(cut, answers, threshold), stage_overhead_s=stage_overhead_s)
    how = min(found, key=lambda one: found[one].expected_s)
    best = found[how]
    notes = [*best.notes, f"asked in this order: {how}; done at a confidence of {threshold:g}"]
    if accuracy is not None and len(best.stages) > 1:
        early, whole = _accuracy(best, answers, threshold, labels), accuracy(names)
        notes.append(f"accuracy {format_percent(early)} with early exit, {format_percent(whole)} with all members")
    return replace(best, notes=tuple(notes), threshold=threshold)


def _exits(found: Cascade, answers: Answers, threshold: float) -> tuple[list[float], NDArray[np.int64]]:
    """For each stage, the fraction of samples that gets there; and the class that each sample leaves with."""
    asked: list[str] = []
    undecided = np.ones(answers.samples, dtype=bool)
    classes = np.zeros(answers.samples, dtype=np.int64)
    reach = []
    for stage in found.stages:
        reach.append(float(undecided.mean()))
        asked += stage.names
        members = {name: answers.outputs[name] for name in answers.ensemble.names if name in asked}
        combined = answers.probabilities(members)
        classes[undecided] = combined.argmax(axis=-1)[undecided]
        undecided &= combined.max(axis=-1) < threshold
    return reach, classes


def _reach(found: Cascade, answers: Answers, threshold: float) -> list[float]:
    return _exits(found, answers, threshold)[0]


def _accuracy(found: Cascade, answers: Answers, threshold: float, labels: NDArray[np.int64] | None) -> float:
    return float(np.mean(_exits(found, answers, threshold)[1] == labels))


def plan_of_cascade(found: Cascade, units: int, **known: Any) -> Plan:
    """The plan of a cascade; its JCT is the expected one."""
    lanes = tuple(
        Lane(units=share, members=tuple(names), active_units=active, stage=number)
        for number, stage in enumerate(found.stages)
        for (share, names), active in zip(stage.allocation.lanes, stage.allocation.active_units, strict=True)
    )
    several = len(found.stages) > 1
    return Plan(
        lanes=lanes,
        units=units,
        searcher="cascade",
        jct_s=found.expected_s,
        reach=tuple(stage.reach for stage in found.stages) if several else (),
        threshold=found.threshold if several else None,
        notes=found.notes,
        **known,
    )
