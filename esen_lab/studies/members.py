"""Chooses members, devices and stages for an ensemble, from its latencies, its answers and labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esen_lab.common.units import format_percent
from esen_lab.cost_model import CostModel, fit
from esen_lab.errors import UsageError
from esen_lab.planner import Table
from esen_lab.planner.plan import Plan
from esen_lab.profiler import Profile
from esen_lab.studies.cascade import Cascade, cascade, check_threshold, still_open, with_reach
from esen_lab.studies.front import Choice, ParetoFront, accuracy_of, member_front
from esen_lab.studies.placement import DevicePlacement, DeviceTables, place
from esen_lab.studies.validation import Answers

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
) -> ParetoFront:
    """The front of accuracy on the validation data against predicted JCT, over all subsets of the members."""
    accuracy = accuracy_of(answers.outputs, labels, answers.combined)
    front = member_front(tables_of(models), units, accuracy, seed=seed, stop=stop)
    choices = (replace(one, allocation=one.allocation.under(models)) for one in front.choices)
    return replace(front, choices=tuple(choices))


def plan_of_choice(choice: Choice, names: Sequence[str], **origin: Any) -> Plan:
    """The plan of one point of a front; the other members of `names` are left out of it."""
    left_out = tuple(name for name in names if name not in choice.names)
    notes = [f"accuracy {format_percent(choice.accuracy)} on the validation data"]
    if left_out:
        notes.insert(0, f"left out: {', '.join(left_out)}")
    return choice.allocation.plan.with_origin(searcher="members", left_out=left_out, notes=notes, **origin)


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
        return [
            DeviceTables(name=f"device{k + 1}", units=units, latencies=tables, models=models) for k in range(devices)
        ]
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
        fitted = fit(given, quantile=quantile)
        tables = tables_of(fitted)
        return DeviceTables(name=name, units=given.units, latencies={one: tables[one] for one in names}, models=fitted)
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


def placed(devices: Sequence[DeviceTables]) -> DevicePlacement:
    """The best placement, with what each device's cost models say of the sub-models there."""
    placement = place(devices)
    models = {device.name: device.models for device in devices}
    described = ((name, None if own is None else own.under(models[name])) for name, own in placement.devices)
    return replace(placement, devices=tuple(described))


def plan_of_placement(placement: DevicePlacement, **origin: Any) -> Plan:
    """The plan of a placement."""
    units = {name: size for (name, _), size in zip(placement.devices, placement.units, strict=True)}
    used = {name: own.plan for name, own in placement.devices if own is not None}
    idle = [name for name in units if name not in used]
    return Plan(
        lanes=tuple(replace(lane, device=name) for name, plan in used.items() for lane in plan.lanes),
        units=max(units.values()),
        searcher="placement",
        jct_s=placement.jct_s,
        bound_s=placement.bound_s,
        devices=units,
        notes=(f"idle: {', '.join(idle)}",) if idle else (),
        **_of_members(used.values()),
        **origin,
    )


def _of_members(plans: Iterable[Plan]) -> dict[str, Any]:
    """What several plans say of their members, together."""
    plans = tuple(plans)
    return {
        "predicted_s": {name: seconds for plan in plans for name, seconds in plan.predicted_s.items()},
        "unmeasured": {name: word for plan in plans for name, word in plan.unmeasured.items()},
    }


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
        orders = {"as given": list(order)}
    options: dict[str, Any] = {"time_limit_s": 0.3} if len(names) > _MANY else {}
    cascades: dict[str, Cascade] = {}
    for how, asked in orders.items():
        reach = still_open(answers.outputs, asked, threshold, answers.probabilities)
        cut = cascade(tables, units, asked, reach, stage_overhead_s=stage_overhead_s, **options)
        # The reach above asks after every member; a cascade asks after every stage only.
        cascades[how] = with_reach(cut, _exits(cut, answers, threshold)[0], stage_overhead_s=stage_overhead_s)
    how = min(cascades, key=lambda one: cascades[one].expected_s)
    best = cascades[how]
    notes = [*best.notes, f"asked in this order: {how}; done at a confidence of {threshold:g}"]
    if accuracy is not None and len(best.stages) > 1:
        early, whole = float(np.mean(_exits(best, answers, threshold)[1] == labels)), accuracy(names)
        notes.append(f"accuracy {format_percent(early)} with early exit, {format_percent(whole)} with all members")
    stages = (replace(one, allocation=one.allocation.under(models)) for one in best.stages)
    return replace(best, stages=tuple(stages), notes=tuple(notes), threshold=threshold)


def _exits(stages: Cascade, answers: Answers, threshold: float) -> tuple[list[float], NDArray[np.int64]]:
    """For each stage, the fraction of samples that gets there; and the class that each sample leaves with."""
    asked: list[str] = []
    undecided = np.ones(answers.samples, dtype=bool)
    classes = np.zeros(answers.samples, dtype=np.int64)
    reach = []
    for stage in stages.stages:
        reach.append(float(undecided.mean()))
        asked += stage.names
        members = {name: answers.outputs[name] for name in answers.ensemble.names if name in asked}
        combined = answers.probabilities(members)
        classes[undecided] = combined.argmax(axis=-1)[undecided]
        undecided &= combined.max(axis=-1) < threshold
    return reach, classes


def plan_of_cascade(stages: Cascade, **origin: Any) -> Plan:
    """The plan of a cascade; its JCT is the expected one."""
    plans = [stage.allocation.plan for stage in stages.stages]
    several = len(plans) > 1
    return Plan(
        lanes=tuple(replace(lane, stage=number) for number, plan in enumerate(plans) for lane in plan.lanes),
        units=plans[0].units,
        searcher="cascade",
        jct_s=stages.expected_s,
        reach=tuple(stage.reach for stage in stages.stages) if several else (),
        threshold=stages.threshold if several else None,
        notes=stages.notes,
        **_of_members(plans),
        **origin,
    )
