"""Views of profiles and of the cost models fitted to them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from esen_lab.common.surroundings import step
from esen_lab.common.units import format_bytes, format_percent, format_seconds, format_spread, format_units, with_marks
from esen_lab.ui.pictures.rows import Curve, Curves
from esen_lab.ui.views.blocks import Block, Details, Progress, Table, View, device_text, one_line, share


def profile(record: Any, models: Mapping[str, Any] | None = None) -> View:
    """A `Profile`, with the cost models fitted to it where they are known."""
    title = f"Profile on {device_text(record.device) or 'this device'}"
    if not record.points and not record.failures:
        return View(title=title, notes=("It has no points.",))
    summary = Table(
        columns=("sub-model", "fastest", "at", "by", "spread", "repeats", "peak memory", "example"),
        rows=tuple(_fastest(record, name) for name in record.names),
        numbers=("fastest", "at", "spread", "repeats", "peak memory"),
    )
    return View(
        title=title,
        blocks=(
            points((*record.points, *record.backend_points), record.failures),
            curves(
                (*record.points, *record.backend_points),
                models or {},
                record.units,
                str(record.device.get("unit", "unit")),
            ),
            summary,
            *map(failure, record.failures),
        ),
        notes=(
            *_point_notes((*record.points, *record.backend_points), record.failures),
            *refusals(record.refusals),
            *record.doubts,
        ),
    )


def _fastest(record: Any, name: str) -> tuple[str, ...]:
    mine = [point for point in (*record.points, *record.backend_points) if point.name == name]
    best = min(mine, key=lambda point: point.median_s)
    return (
        name,
        format_seconds(best.median_s),
        share(best.units, record.units, str(record.device.get("unit", "unit"))),
        best.backend,
        format_spread(best.spread_s, best.median_s),
        str(best.repeats),
        format_bytes(best.peak_memory_bytes),
        record.examples.get(name, ""),
    )


def curves(measured: Sequence[Any], models: Mapping[str, Any], units: int, unit: str) -> Curves:
    """`Point`s and `CostModel`s as latency against share."""
    names = dict.fromkeys((*(point.name for point in measured), *models))
    return Curves(
        curves=tuple(_curve(name, [p for p in measured if p.name == name], models.get(name)) for name in names),
        units=units,
        unit=unit,
    )


def _curve(name: str, measured: Sequence[Any], model: Any) -> Curve:
    fitted = () if model is None else tuple(model.latency_s)
    fastest = {p.units: p for p in sorted(measured, key=lambda p: p.median_s, reverse=True)}
    known = tuple((p.units, p.median_s, p.spread_s) for _, p in sorted(fastest.items()))
    if not known and model is not None:
        known = tuple((units, seconds, 0.0) for units, seconds in model.points)
    # The knee: from here on, more units gain less than 5 %.
    knee = next((k for k, seconds in enumerate(fitted, 1) if seconds <= 1.05 * fitted[-1]), None)
    guessed = () if model is None else tuple(bool(model.unmeasured(k)) for k in range(1, len(fitted) + 1))
    return Curve(name=name, points=known, fitted_s=fitted, knee=knee, guessed=guessed)


def points(measured: Sequence[Any], failures: Sequence[Any] = ()) -> Table:
    """`Point`s and `Failure`s as a matrix of medians: a row per sub-model and backend, a column per share."""
    shares = sorted({p.units for p in (*measured, *failures)})
    names = list(dict.fromkeys(p.name for p in (*measured, *failures)))
    backends = {name: dict.fromkeys(["eager", *(p.backend for p in measured if p.name == name)]) for name in names}
    cells = {(p.name, "eager", p.units): "failed" for p in failures}
    cells |= {
        (p.name, p.backend, p.units): format_seconds(p.median_s)
        + ("" if p.settled else " ?")
        + (" !" if p.loaded else "")
        for p in measured
    }
    columns = ("median at", *(str(units) for units in shares))
    return Table(
        columns=columns,
        rows=tuple(
            (
                name if backend == "eager" else f"{name} by {backend}",
                *(cells.get((name, backend, units), "") for units in shares),
            )
            for name in names
            for backend in backends[name]
        ),
        numbers=columns[1:],
    )


def _point_notes(measured: Sequence[Any], failures: Sequence[Any]) -> tuple[str, ...]:
    notes = []
    reused = sum(p.reused for p in measured)
    if reused:
        notes.append(
            f"{format_units(reused, 'point')} of {len(measured)} reused from the store; "
            f"{step('fresh=True', '--fresh')} measures again."
        )
    preparing: dict[str, float] = {}
    for p in measured:
        if not p.reused and isinstance(p.readings.get("prepare_s"), float):
            preparing[p.backend] = preparing.get(p.backend, 0.0) + p.readings["prepare_s"]
    if preparing:
        told = ", ".join(f"{backend} {format_seconds(seconds)}" for backend, seconds in preparing.items())
        notes.append(f"Preparing took {told}; the next time it is kept.")
    if any(not p.settled for p in measured):
        more = step("budget_s", "--budget")
        notes.append(f"? marks a median that is not known to 2 % yet: a larger {more} settles it.")
    if any(p.loaded for p in measured):
        notes.append("! marks a median that was measured while other programs kept its cores busy.")
    if failures:
        notes.append(f"{format_units(len(failures), 'point')} failed; all others are kept.")
    return tuple(notes)


def refusals(records: Sequence[Any]) -> tuple[str, ...]:
    """`Refusal`s: which backends do not execute which sub-models, a sentence for each reason."""
    named: dict[tuple[str, str], list[str]] = {}
    for record in records:
        named.setdefault((record.backend, record.why), []).append(record.name)
    return tuple(f"Not by {backend}: {', '.join(names)} ({why})." for (backend, why), names in named.items())


def failure(record: Any) -> Details:
    """A `Failure`: one point that could not be measured."""
    parts = [record.worker_traceback.rstrip(), f"It printed:\n{record.log.rstrip()}" if record.log else ""]
    return Details(
        summary=f"{record.name} at {record.units}: {one_line(record.message)}",
        text="\n".join(part for part in parts if part),
    )


def progress(record: Any, models: Mapping[str, Any] | None = None, unit: str = "unit") -> View:
    """A `ProfileProgress`: a running or a finished job; with the `CostModel`s fitted to its points so far."""
    words = [f"{record.done} of {format_units(record.total, 'point')}"]
    for number, what in ((record.reused, "reused"), (record.failed, "failed"), (record.skipped, "skipped")):
        if number:
            words.append(f"{number} {what}")
    if not record.state.over and record.eta_s is not None and math.isfinite(record.eta_s):
        words.append(f"about {_rough(record.eta_s)} left")
    if not record.state.over and record.current:
        words.append(f"now {record.current}")
    blocks: list[Block] = [Progress(done=record.done, total=record.total, words=", ".join(words))]
    if record.points or record.failures:
        measured = (*record.points, *record.backend_points)
        blocks.append(points(measured, record.failures))
        if record.points:
            known = dict(models or {})
            most = max((len(m.latency_s) for m in known.values()), default=max(p.units for p in record.points))
            blocks.append(curves(measured, known, most, unit))
    blocks.extend(map(failure, record.failures))
    # In other states the message only repeats the figures above.
    said = (one_line(record.message),) if str(record.state) in ("waiting", "failed") and record.message else ()
    notes = (
        *said,
        *record.notes,
        *refusals(record.refusals),
        *_point_notes((*record.points, *record.backend_points), record.failures),
    )
    if str(record.state) == "finished" and record.points:
        notes = (*notes, f"Next: `{step('lab.search()', '%esen search')}` proposes a plan.")
    return View(title=f"Profile {record.state}", blocks=tuple(blocks), notes=notes)


def _predicted(model: Any, units: int) -> str:
    return with_marks(format_seconds(model.latency_s[units - 1]), model.unmeasured(units))


def _rough(seconds: float) -> str:
    # To the whole second: a time left that trembles in its third digit is noise, and redraws for nothing.
    whole = max(1, round(seconds))
    return f"{whole} s" if whole < 90 else f"{round(whole / 60)} min"


def cost_model(record: Any) -> View:
    """A `CostModel`."""
    return cost_models({record.name: record})


def cost_models(records: Mapping[str, Any], measured: Any = None) -> View:
    """What `lab.points.fit` returns: a `CostModel` per sub-model; with the `Profile` that they fit, if known."""
    most = max((len(m.latency_s) for m in records.values()), default=0)
    shown = sorted({1, most, *(2**k for k in range(most.bit_length()) if 2**k <= most)}) if most else []
    columns = ("predicted at", *(str(units) for units in shown), "method", "error")
    rows = tuple(
        (
            name,
            *(_predicted(m, k) if k <= len(m.latency_s) else "" for k in shown),
            str(m.method),
            format_percent(m.error),
        )
        for name, m in records.items()
    )
    return View(
        title="Cost models: latency against share",
        blocks=(
            Table(columns=columns, rows=rows, numbers=(*columns[1:-2], "error")),
            curves(
                () if measured is None else (*measured.points, *measured.backend_points),
                records,
                most,
                "unit" if measured is None else str(measured.device.get("unit", "unit")),
            ),
        ),
        notes=(
            *(f"{name}: {note}" for name, m in records.items() for note in m.notes),
            *(() if measured is None else measured.doubts),
            "The error is the mean over points that were left out of the fit; - where too few were measured.",
        ),
    )
