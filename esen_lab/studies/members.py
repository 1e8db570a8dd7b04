"""Chooses members, devices and stages for an ensemble, from its latencies, its answers and labels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esen_lab.common.units import check_number, format_confidence, format_percent, format_seconds, whole
from esen_lab.common.words import unknown
from esen_lab.cost_model import CostModel, fit
from esen_lab.errors import UsageError
from esen_lab.planner import Allocation, Table
from esen_lab.planner.nodes import NodeLink
from esen_lab.planner.plan import Plan
from esen_lab.profiler import Profile
from esen_lab.studies.batch_times import RowTimes, beyond
from esen_lab.studies.cascade import (
    Cascade,
    cascade,
    check_threshold,
    still_open,
    times_of_stages,
    with_reach,
)
from esen_lab.studies.exits import Exits
from esen_lab.studies.front import Choice, ParetoFront, accuracy_of, member_front
from esen_lab.studies.placement import DevicePlacement, DeviceTables, place
from esen_lab.studies.replicas import Replication, replicate
from esen_lab.studies.validation import Answers

MOST_DEVICES = 4096
"""Like this one, that a placement is looked for over: a plan's file and a table hold no more."""
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
) -> ParetoFront:
    """The front of accuracy on the validation data against predicted JCT, over all subsets of the members.

    Members to which the combine rule gives no weight are in none of them: they change no answer, and take time.
    """
    accuracy, no_weight = accuracy_of(answers.outputs, labels, answers.combined), answers.weightless
    counted = {name: model for name, model in models.items() if name not in no_weight}
    front = member_front(tables_of(counted), units, accuracy, seed=seed)
    choices = (replace(one, allocation=one.allocation.under(models)) for one in front.choices)
    return replace(front, choices=tuple(choices))


def plan_of_choice(choice: Choice, names: Sequence[str], **origin: Any) -> Plan:
    """The plan of one point of a front; the other members of `names` are left out of it."""
    left_out = tuple(name for name in names if name not in choice.names)
    notes = [f"accuracy {format_percent(choice.accuracy)} {choice.judged or 'on the validation data'}"]
    if choice.weights is not None:
        told = ", ".join(f"{name} {weight:.2f}" for name, weight in choice.weights.items())
        notes.append(f"learned weights, by greedy selection with replacement: {told}")
    if left_out:
        notes.insert(0, f"left out: {', '.join(left_out)}")
    if choice.cascade is not None:
        return plan_of_cascade(choice.cascade, left_out=left_out, **origin).with_origin(notes=notes)
    return choice.allocation.plan.with_origin(searcher="members", left_out=left_out, notes=notes, **origin)


# --- several devices ----------------------------------------------------------------------------------------------


def device_tables(
    devices: int | Mapping[str, Any],
    models: Mapping[str, CostModel],
    units: int,
    quantile: Any,
    links: Mapping[str, NodeLink] | None = None,
) -> list[DeviceTables]:
    """The devices of a placement, from what a user may give.

    Args:
        devices: How many devices like this one; or, by name, the `Profile` of each (as `lab.measurements`), or its
            latencies: for each sub-model, seconds at 1..units units.
        models: The cost models of this device.
        units: Units of this device.
        quantile: As for `fit`.
        links: What lies between whoever calls and a device, by its name; nothing where it is not named.

    Raises:
        UsageError: It is neither, a device does not know every sub-model, or a link is of no device.
    """
    return _linked(_unlinked(devices, models, units, quantile), {} if links is None else links)


def _linked(devices: list[DeviceTables], links: Mapping[str, NodeLink]) -> list[DeviceTables]:
    names = [device.name for device in devices]
    if not isinstance(links, Mapping):
        raise UsageError("Links are given by the names of devices, as a dict", given=type(links).__name__)
    for name, link in links.items():
        if name not in names:
            raise unknown("A link is that of a device", name, names, given=repr(name))
        if not isinstance(link, NodeLink):
            raise UsageError(
                "A link is a NodeLink",
                given=f"{type(link).__name__} for {name!r}",
                hint="Such as NodeLink(input_s=0.004, latency_s=0.0002, byte_s=1e-9).",
            )
    return [replace(device, link=links[device.name]) if device.name in links else device for device in devices]


def _unlinked(
    devices: int | Mapping[str, Any], models: Mapping[str, CostModel], units: int, quantile: Any
) -> list[DeviceTables]:
    count = whole(devices)
    if count is not None:
        if not 1 <= count <= MOST_DEVICES:
            raise UsageError(f"A placement is over 1 to {MOST_DEVICES:,} devices", given=devices)
        tables = tables_of(models)
        return [DeviceTables(name=f"device{k + 1}", units=units, latencies=tables, models=models) for k in range(count)]
    if not isinstance(devices, Mapping) or not devices:
        raise UsageError(
            "Devices are a number of devices like this one, or a profile or latencies by name",
            given=devices if isinstance(devices, (int, str)) else type(devices).__name__,
            hint='Such as 2, or {"big": lab.measurements, "small": {"net": [0.02, 0.01]}}.',
        )
    return [_device(str(name), given, tuple(models), quantile) for name, given in devices.items()]


def _device(name: str, given: Any, names: Sequence[str], quantile: Any) -> DeviceTables:
    if isinstance(given, Profile):
        _check_known(name, given.names, names)
        fitted = fit(given, quantile=quantile)
        tables = tables_of(fitted)
        return DeviceTables(name=name, units=given.units, latencies={one: tables[one] for one in names}, models=fitted)
    if isinstance(given, Mapping) and given and all(map(_is_row, given.values())):
        lengths = {len(row) for row in given.values()}
        if len(lengths) > 1 or not min(lengths):
            raise UsageError(
                "A device's tables hold one latency for each share from 1 to its units",
                given=f"{sorted(lengths)} latencies for {name!r}",
            )
        _check_known(name, given, names)
        return DeviceTables(name=name, units=lengths.pop(), latencies={one: tuple(given[one]) for one in names})
    raise UsageError(
        "A device of a placement is given by a Profile, or by latencies for each sub-model",
        given=f"{type(given).__name__} for {name!r}",
    )


def _check_known(device: str, known: Collection[str], names: Sequence[str]) -> None:
    missing = [name for name in names if name not in known]
    if missing:
        raise UsageError(
            "Every device knows every sub-model",
            given=f"{device!r} knows no {', '.join(missing)}",
            hint="Profile the missing ones there, or give their latencies too.",
        )


def _is_row(row: object) -> bool:
    return isinstance(row, Sequence) or (isinstance(row, np.ndarray) and row.ndim == 1)


def placed(devices: Sequence[DeviceTables], output_bytes: Mapping[str, int] | None = None) -> DevicePlacement:
    """The best placement, with what each device's cost models say of the sub-models there."""
    return _described(place(devices, output_bytes=output_bytes), devices)


def replicated(devices: Sequence[DeviceTables], **options: Any) -> Replication:
    """The best replicas, with what each device's cost models say; options as for `replicate`."""
    found = replicate(devices, **options)
    told = (replace(one, placement=_described(one.placement, devices)) for one in found.replicas)
    return replace(found, replicas=tuple(told))


def _described(placement: DevicePlacement, devices: Sequence[DeviceTables]) -> DevicePlacement:
    models = {device.name: device.models for device in devices}
    described = ((name, None if own is None else own.under(models[name])) for name, own in placement.devices)
    return replace(placement, devices=tuple(described))


def plan_of_placement(placement: DevicePlacement, **origin: Any) -> Plan:
    """The plan of a placement."""
    units = {name: size for (name, _), size in zip(placement.devices, placement.units, strict=True)}
    used = {name: own.plan for name, own in placement.devices if own is not None}
    return Plan(
        lanes=tuple(replace(lane, device=name) for name, plan in used.items() for lane in plan.lanes),
        units=max(units.values()),
        searcher="placement",
        jct_s=placement.jct_s,
        bound_s=placement.bound_s,
        devices=units,
        notes=placement.notes,
        **of_members(used.values()),
        **origin,
    )


def of_members(plans: Iterable[Plan]) -> dict[str, Any]:
    """What several plans say of their members, together."""
    plans = tuple(plans)
    return {
        "predicted_s": {name: seconds for plan in plans for name, seconds in plan.predicted_s.items()},
        "unmeasured": {name: word for plan in plans for name, word in plan.unmeasured.items()},
    }


# --- stages -------------------------------------------------------------------------------------------------------


def check_cascade(
    names: Sequence[str],
    no_weight: Collection[str],
    *,
    threshold: float,
    order: Sequence[str] | None,
    stages: Sequence[Sequence[str]] | None,
    stage_overhead_s: float | None,
    deadline_s: float | None,
) -> None:
    """Whether a cascade of these members can be as `cascade_of_members` is asked for: known before any of them runs.

    What one more stage costs may not be known yet: None. The combine rule gives no weight to `no_weight`.

    Raises:
        UsageError: It cannot; the message says which argument it is.
    """
    check_threshold(threshold)
    if stage_overhead_s is not None:
        rule = "What one more stage costs is a number of seconds, at least 0"
        check_number(stage_overhead_s, rule, least=0.0, below=math.inf)
    if deadline_s is not None:
        check_number(deadline_s, "A deadline is a number of seconds above 0", above=0.0, below=math.inf)
    if stages is None and order is None:
        return
    first, asked = _asked(order, stages)
    if sorted(asked) != sorted(names):
        raise UsageError(
            "The order of a cascade names every member once", given=f"{', '.join(asked)} for {', '.join(names)}"
        )
    if first and set(no_weight).issuperset(first):
        raise UsageError(
            "A cascade begins with a member that has weight under the combine rule",
            given=f"{', '.join(first)}, which has none" if len(first) == 1 else f"{', '.join(first)}, which have none",
            hint="Ask another member first.",
        )


def _asked(order: Sequence[str] | None, stages: Sequence[Sequence[str]] | None) -> tuple[Sequence[str], Sequence[str]]:
    """Who is asked first, and who is asked at all.

    Raises:
        UsageError: It is no order, and there are no stages.
    """
    try:
        parts = [[name] for name in order or ()] if stages is None else [list(stage) for stage in stages]
    except TypeError as problem:
        raise UsageError(
            "An order is a list of names, and stages are lists of them",
            given=f"order={order!r}" if stages is None else f"stages={stages!r}",
            hint='Such as [["small"], ["middle", "large"]].',
        ) from problem
    named = [str(name) for part in parts for name in part]
    return next(([str(name) for name in part] for part in parts if part), []), named


def cascade_of_members(
    models: Mapping[str, CostModel],
    units: int,
    answers: Answers,
    threshold: float,
    *,
    order: Sequence[str] | None = None,
    stages: Sequence[Sequence[str]] | None = None,
    labels: NDArray[np.int64] | None = None,
    stage_overhead_s: float = 0.0,
    deadline_s: float | None = None,
    plans: dict[frozenset[str], Allocation] | None = None,
) -> Cascade:
    """The best stages for members that are asked until the combined answer is sure enough.

    Args:
        models: The cost models.
        units: Units of the device.
        answers: Of the members, on validation data.
        threshold: The probability of the likeliest class at which an input is done.
        order: Who is asked first; None tries the fastest first and, with labels, the most accurate first.
        stages: The stages themselves, in the place of an order that is cut where it is best.
        labels: The right classes, to say what the early exit costs in accuracy.
        stage_overhead_s: What one more stage costs.
        deadline_s: When answers are wanted, to say how many are expected later.
        plans: As for `cascade`.

    Raises:
        UsageError: The threshold, the order or the deadline is not possible, or the combine rule gives no scores.
    """
    tables = tables_of(models)
    names, no_weight = tuple(tables), answers.weightless
    check_cascade(
        names,
        no_weight,
        threshold=threshold,
        order=order,
        stages=stages,
        stage_overhead_s=stage_overhead_s,
        deadline_s=deadline_s,
    )
    accuracy = None if labels is None else accuracy_of(answers.outputs, labels, answers.combined)
    ends = None
    if stages is not None:
        # Who is asked first within a stage makes no difference; nothing can be said of members without weight alone.
        order = [name for stage in stages for name in sorted(stage, key=no_weight.__contains__)]
        ends = list(itertools.accumulate(len(stage) for stage in stages))
    if order is None:
        fastest = sorted(names, key=lambda name: (name in no_weight, models[name].latency_s[-1]))
        orders = {"fastest first": fastest}
        if accuracy is not None:
            alone = {name: accuracy((name,)) for name in names if name not in no_weight}
            orders["most accurate first"] = sorted(names, key=lambda name: -alone.get(name, -1.0))
    else:
        orders = {"as given": list(order)}
    options: dict[str, Any] = {"time_limit_s": 0.3} if len(names) > _MANY else {}
    plans = {} if plans is None else plans
    cascades: dict[str, tuple[Cascade, Exits]] = {}
    for how, asked in orders.items():
        reach = still_open(answers.outputs, asked, threshold, answers.probabilities)
        cut = cascade(
            tables,
            units,
            asked,
            reach,
            stage_overhead_s=stage_overhead_s,
            row_times=answers.rows,
            plans=plans,
            ends=ends,
            **options,
        )
        # The reach above asks after every member; a cascade asks after every stage only.
        exits = Exits.of([stage.names for stage in cut.stages], answers, labels)
        reach = exits.reach((threshold,) * (len(cut.stages) - 1))
        cascades[how] = (
            with_reach(cut, reach, stage_overhead_s=stage_overhead_s, row_times=answers.rows),
            exits,
        )
    how = min(cascades, key=lambda one: cascades[one][0].expected_s)
    best, exits = cascades[how]
    described = tuple(replace(one, allocation=one.allocation.under(models)) for one in best.stages)
    best = replace(best, stages=described, notes=(*best.notes, f"asked in this order: {how}"))
    return at_thresholds(best, exits, threshold, answers.rows, stage_overhead_s, deadline_s)


def at_thresholds(
    given: Cascade,
    exits: Exits,
    threshold: float | tuple[float, ...],
    row_times: RowTimes,
    stage_overhead_s: float,
    deadline_s: float | None = None,
) -> Cascade:
    """The same stages with other thresholds: what is then expected on the validation data, at once.

    Args:
        given: A cascade of these stages.
        exits: Of its stages, on validation data.
        threshold: One for all stages, or one for each but the last.
        row_times: What fewer rows take.
        stage_overhead_s: What one more stage costs.
        deadline_s: When answers are wanted, or None.
    """
    count = len(given.stages)
    each = threshold if isinstance(threshold, tuple) else (threshold,) * (count - 1)
    reach = exits.reach(each)
    about = [note for note in given.notes if note.startswith("asked in this order")]
    found = with_reach(given, reach, stage_overhead_s=stage_overhead_s, row_times=row_times)
    early, whole = exits.accuracy(each), exits.whole_accuracy
    notes = [*found.notes, *about]
    late = None
    if count > 1:
        notes.append(f"done at a confidence of {', '.join(map(format_confidence, dict.fromkeys(each)))}")
        notes.append(
            f"answers as all members together for {format_percent(exits.agreement(each))} of validation inputs"
        )
        if early is not None and whole is not None:
            notes.append(f"accuracy {format_percent(early)} with early exit, {format_percent(whole)} with all members")
    if deadline_s is not None:
        late = beyond(times_of_stages(found.stages, row_times, stage_overhead_s), reach, deadline_s)
        notes.append(f"{format_percent(late)} of inputs are expected later than {format_seconds(deadline_s)}")
    return replace(
        found,
        notes=tuple(notes),
        threshold=threshold,
        accuracy=early,
        whole_accuracy=whole,
        agreement=exits.agreement(each),
        deadline_s=deadline_s,
        late=late,
    )


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
        worst_s=stages.worst_s if several else None,
        notes=stages.notes,
        **of_members(plans),
        **origin,
    )
