"""Views of a plan, of the plan editor, and of an export."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from esen_lab.common.surroundings import step
from esen_lab.common.units import format_change, format_confidence, format_percent, format_seconds, format_units, marked
from esen_lab.ui.pictures.rows import Share, Shares
from esen_lab.ui.views.blocks import Table, View, device_text, facts, given_s, share

_LONGEST_TITLE = 160  # letters


def plan(record: Any) -> View:
    """A `Plan`."""
    unit = str(record.device.get("unit", "unit"))
    predicted = record.predicted_s
    where = tuple(name for name, has in (("stage", record.staged), ("device", bool(record.devices))) if has)
    lanes = Table(
        columns=("lane", *where, "share", "sub-models, in order", "predicted"),
        rows=tuple(
            (
                str(number),
                *({"stage": str(lane.stage + 1), "device": lane.device}[name] for name in where),
                share(lane.units, _units_at(record, lane), unit),
                _members(lane, record.unmeasured),
                marked(format_seconds(total_s(predicted, lane)), _of_lane(record, lane)),
            )
            for number, lane in enumerate(record.lanes, 1)
        ),
        numbers=("predicted",),
    )
    known = facts(
        ("predicted JCT", record.predicted_text()),
        ("measured JCT", given_s(record.measured_s)),
        ("proven bound", given_s(record.bound_s)),
        ("gap to the bound", "" if record.gap is None else format_percent(record.gap)),
        ("found by", record.searcher),
        ("left out", ", ".join(record.left_out)),
        ("inputs that reach each stage", ", ".join(map(format_percent, record.reach))),
        ("an input is done at", ", ".join(map(format_confidence, dict.fromkeys(record.thresholds)))),
        ("worst case, nobody leaves", given_s(record.worst_s)),
        ("combined by", record.combine),
        ("made for", device_text(record.device)),
        ("input profiled", record.example),
        ("made at", record.created_at),
    )
    notes = tuple(record.notes)
    if record.oversubscribed:
        notes = (*notes, "The shares sum to more than the device: lanes compete for it.")
    return View(title=f"Plan: {_described(record)}", blocks=(lanes, _shares(record, unit), known), notes=notes)


def _described(record: Any) -> str:
    """The lanes in few words; of many long names only how many they are: the table has them."""
    if record.is_sequential:
        return "one lane, one after another"
    every: str = record.describe()
    if len(every) <= _LONGEST_TITLE:
        return every
    # Not by `names`, which refuses those of a record that is none of a lab's.
    names = {name for step in record.steps for name in step.partition(" ")[0].split("+")}
    return f"{format_units(len(record.lanes), 'lane')} for {format_units(len(names), 'sub-model')}"


def _units_at(record: Any, lane: Any) -> int:
    """The units that a lane has its share of: those of its own device, where the plan has several."""
    return int(record.devices.get(lane.device, record.units))


def _shares(record: Any, unit: str) -> Shares:
    return Shares(
        lanes=tuple(
            Share(
                units=lane.units,
                of_units=_units_at(record, lane),
                place=_place(record, lane),
                after_s=_after_s(record, lane),
                members=tuple(
                    (name, record.predicted_s.get(name) if lane.mode == "serial" else None) for name in lane.members
                ),
                unmeasured=tuple(record.unmeasured.get(name, "") for name in lane.members),
            )
            for lane in record.lanes
        ),
        units=record.units,
        unit=unit,
        bound_s=None
        if record.staged
        else record.bound_s,  # of a cascade it bounds what is expected, not the worst case
    )


def _place(record: Any, lane: Any) -> str:
    """What lanes share a device's units with at one time, in words; "" where all lanes do."""
    return ", ".join(filter(None, [lane.device, f"stage {lane.stage + 1}" if record.staged else ""]))


def _after_s(record: Any, lane: Any) -> float:
    """When a lane begins at the latest: after the stages before, on the whole batch."""
    return sum(record.stage_s(stage) or 0.0 for stage in range(lane.stage))


def _of_lane(record: Any, lane: Any) -> dict[str, str]:
    return {name: word for name, word in record.unmeasured.items() if name in lane.members}


def _members(lane: Any, unmeasured: Mapping[str, str]) -> str:
    parts = []
    for name, active, way in zip(lane.members, lane.active_units, lane.backends, strict=True):
        said = [way] * (way != "eager") + [f"on {active}"] * (active != lane.units)
        said += [unmeasured[name]] if unmeasured.get(name) else []
        parts.append(f"{name} ({', '.join(said)})" if said else name)
    how = {"serial": " → ", "threads": " | ", "async": " | ", "vmap": " + "}.get(lane.mode, ", ")
    return how.join(parts) + ("" if lane.mode == "serial" else f" ({lane.mode})")


def total_s(predicted: Mapping[str, float], lane: Any) -> float | None:
    """What a lane is predicted to take, in seconds; None where nobody knows, or its sub-models run side by side."""
    if lane.mode != "serial" or any(name not in predicted for name in lane.members):
        return None
    return float(sum(predicted[name] for name in lane.members))


def editor(record: Any) -> View:
    """An `EditorState`."""
    lanes = Table(
        columns=("lane", "share", "", "sub-models, in order", "predicted", ""),
        rows=tuple(
            (
                str(number),
                share(lane.units, record.units, record.unit),
                "pinned" if lane.pinned else "",
                " → ".join(lane.members),
                lane.predicted_text,
                "← limits the JCT" if number - 1 == record.limiting else "",
            )
            for number, lane in enumerate(record.lanes, 1)
        ),
        numbers=("predicted",),
    )
    return View(
        title=f"Plan editor: {record.predicted_text} predicted, {format_percent(record.gap)} above the bound",
        blocks=(lanes, editor_picture(record), facts(*editor_facts(record))),
        notes=editor_notes(record),
    )


def editor_picture(record: Any) -> Shares:
    """The draft of an `EditorState` as bars."""
    return Shares(
        lanes=tuple(
            Share(
                units=lane.units,
                members=tuple(zip(lane.members, lane.member_s, strict=True)),
                unmeasured=lane.unmeasured,
            )
            for lane in record.lanes
        ),
        units=record.units,
        unit=record.unit,
        bound_s=record.bound_s,
    )


def editor_facts(record: Any) -> tuple[tuple[str, str], ...]:
    """The figures of an `EditorState`: (label, value)."""
    total = share(record.total_units, record.units, record.unit)
    over = record.total_units - record.units
    measured = record.measured
    return (
        ("predicted JCT", record.predicted_text),
        ("proven bound", format_seconds(record.bound_s)),
        ("gap to the bound", format_percent(record.gap)),
        ("limiting lane", f"{record.limiting + 1}: {' → '.join(record.lanes[record.limiting].members)}"),
        ("shares sum to", total + (f", {over} more than there are" if over > 0 else "")),
        ("measured JCT", "" if measured is None else measured_text(measured, record.describe())),
        ("in force", "yes" if record.in_force else "no" if record.can_apply else ""),
    )


def measured_text(record: Any, lanes: str) -> str:
    """A `Measurement` beside its prediction; says when it is of other lanes than `lanes`."""
    off = format_change(record.median_s / record.predicted_s) if record.predicted_s else "-"
    predicted = "nothing predicted" if off == "-" else f"predicted {format_seconds(record.predicted_s)} ({off})"
    unsteady = ", unsteady" if record.spread_s > record.median_s else ""
    words = (
        f"{format_seconds(record.median_s)} ± {format_seconds(record.spread_s)}{unsteady}, {predicted}, "
        f"{record.repeats} runs"
    )
    return words if record.lanes == lanes else f"{words}, of {record.lanes}"


def editor_notes(record: Any) -> tuple[str, ...]:
    """What is going on in an `EditorState`, and what to know."""
    notes = [record.message] if record.message else []
    if record.searching is not None:
        best = record.searching.jct_s
        stop = step("lab.tune().cancel()", "%esen tune cancel")
        notes.append(f"Searching: best so far {format_seconds(best)}; `{stop}` stops it.")
    if record.measured is not None and record.measured.lanes == record.describe():
        notes += record.measured.far
    if record.doing:
        notes.append(f"{record.doing.capitalize()} …")
    if record.total_units > record.units:
        notes.append("Oversubscribed: predicted as if lanes did not disturb each other; measure before you believe it.")
    return tuple(notes)


def repository(record: Any) -> View:
    """A `TritonRepository`."""
    start = shlex.quote(f"{record.folder}/start.sh")
    how = f"`{start}` starts the server, where `tritonserver` is on PATH."
    rows = ("clients ask", record.name), ("models", ", ".join(record.models)), ("files", str(len(record.files)))
    return View(title=f"Exported for Triton to {record.folder}", blocks=(facts(*rows),), notes=(how, *record.notes))


def application(record: Any) -> View:
    """A `RayServeApplication`."""
    how = f"`cd {shlex.quote(str(record.folder))} && serve run serve.yaml` starts it, where Ray is installed."
    rows = ("clients ask", record.name), ("cores of a replica", str(record.units)), ("files", str(len(record.files)))
    return View(title=f"Exported for Ray Serve to {record.folder}", blocks=(facts(*rows),), notes=(how, *record.notes))


def exported(record: Any) -> View:
    """An `Exported`."""
    script = shlex.quote(str(record.script))
    how = f"`python {script} --input x.npy --output y.npy --repeat 100` runs it without Jupyter."
    files = ", ".join(str(getattr(file, "name", file)) for file in record.files)
    rows = ("script", str(record.script)), ("beside it", str(record.folder)), ("files", files)
    return View(title=f"Exported to {record.script}", blocks=(facts(*rows),), notes=(how, *record.notes))
