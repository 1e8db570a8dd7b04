"""Records -> plain rows. No HTML, no IPython, no torch: what is shown can be tested by comparing strings.

A record of another part is read through its public attributes only; each function names the record it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from esen_lab.notebook.pictures.rows import (
    Bar,
    Bars,
    Curve,
    Curves,
    Front,
    History,
    Picture,
    Segment,
    Share,
    Shares,
    Timeline,
)
from esen_lab.trees import tree_spec
from esen_lab.units import format_bytes, format_percent, format_seconds, format_units


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of cells.

    Attributes:
        columns: Headings; empty for a list of facts (label, value).
        rows: One cell per column.
        numbers: The headings whose cells are numbers, and stand to the right.
    """

    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    numbers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A bar: `done` of `total`, and words beside it."""

    done: int
    total: int
    words: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """Long text behind one line: folded where folding is possible, unless it is what was asked for."""

    summary: str
    text: str
    unfolded: bool = False


Block: TypeAlias = Table | Picture | Progress | Details


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Everything shown for one thing: a heading, blocks, remarks."""

    title: str = ""
    blocks: tuple[Block, ...] = ()
    notes: tuple[str, ...] = ()


def facts(*pairs: tuple[str, str]) -> Table:
    """A list of label and value; pairs without a value are left out."""
    return Table(rows=tuple(pair for pair in pairs if pair[1]))


def status(record: Any) -> View:
    """A `Status`."""
    rows = tuple(
        (
            str(row["name"]),
            str(row["class"]),
            f"{row['parameters']:,}",
            str(row["example"]),
            str(record.profiled.get(row["name"], 0) or "-"),
        )
        for row in record.submodels
    )
    columns = ("sub-model", "class", "parameters", "example", "shares measured")
    blocks: list[Block] = [
        facts(
            ("device", device_text(record.device)),
            ("combined by", record.combine if record.submodels else ""),
            ("profile", one_line(record.job)),
            ("plan", "" if record.plan is None else record.plan.describe()),
            ("predicted JCT", "" if record.plan is None else _given(record.plan.jct_s)),
            ("lanes", "warm" if record.running else ""),
        )
    ]
    if rows:
        blocks.insert(0, Table(columns=columns, rows=rows, numbers=("parameters", "shares measured")))
    title = f"Lab with {_count(len(rows), 'sub-model')}" if rows else "Lab without sub-models yet"
    return View(title=title, blocks=tuple(blocks), notes=(*record.device_notes, f"Next: {record.next_step}"))


def device(identity: Mapping[str, Any], notes: Sequence[str]) -> View:
    """A device's identity as plain data, and what limits shares on it."""
    details = tuple((str(key).replace("_", " "), str(value)) for key, value in identity.get("details", {}).items())
    return View(title=device_text(identity), blocks=(facts(*details),) if details else (), notes=tuple(notes))


def offers(records: Sequence[Any], present: View) -> View:
    """`Offer`s, the best first, above the device in use."""
    rows = []
    for offer in records:
        size = "" if offer.units is None else _count(offer.units, offer.unit)
        state = "yes" if offer.available else "no"
        if offer.passed is not None:
            state = "yes, tested" if offer.passed else "fails its test"
        said = "; ".join(offer.missing) if offer.missing else offer.verdict
        rows.append((f"{offer.name}{' (default)' if offer.chosen else ''}", offer.hardware, size, state, said))
    notes = [f"{offer.name}: {offer.how}" for offer in records if offer.how]
    table = Table(
        columns=("device", "hardware", "size", "can be had", "what is missing, what was seen"), rows=tuple(rows)
    )
    return View(
        title=f"In use: {present.title}",
        blocks=(table, *present.blocks),
        notes=(*present.notes, *notes, "`%esen device NAME` goes on with another one."),
    )


def device_change(record: Any) -> View:
    """A `DeviceChange`."""
    return View(title=device_text(record.after), notes=(*record.device_notes, *record.notes))


def left_gpu(moved: Sequence[str]) -> View:
    """What `leave_gpu` moved."""
    what = f"Moved to the CPU: {', '.join(moved)}." if moved else "No registered module of this notebook is on a GPU."
    return View(notes=(what,))


def ensemble(record: Any) -> View:
    """An `Ensemble`."""
    if not record.submodels:
        return View(title="No sub-models yet", notes=("`%esen register NAME` adds the module of that name.",))
    return View(
        title=f"Ensemble of {_count(len(record.submodels), 'sub-model')}, combined by {record.combine.describe()}",
        blocks=(_submodels(record.submodels),),
        notes=tuple(f"{s.name}: {note}" for s in record.submodels for note in s.notes),
    )


def submodel(record: Any) -> View:
    """A `SubModel`."""
    return View(title=f"Sub-model {record.name}", blocks=(_submodels([record]),), notes=tuple(record.notes))


def _submodels(records: Sequence[Any]) -> Table:
    return Table(
        columns=("sub-model", "class", "parameters", "memory", "recipe", "example"),
        rows=tuple(
            (
                s.name,
                s.class_name,
                f"{s.parameters:,}",
                format_bytes(s.memory_bytes),
                s.recipe.describe(),
                str(tree_spec(s.example)),
            )
            for s in records
        ),
        numbers=("parameters", "memory"),
    )


def plan(record: Any) -> View:
    """A `Plan`."""
    unit = str(record.device.get("unit", "unit"))
    predicted = record.predicted_s
    lanes = Table(
        columns=("lane", "share", "sub-models, in order", "predicted"),
        rows=tuple(
            (
                str(number),
                share(lane.units, record.units, unit),
                _members(lane),
                format_seconds(_total(predicted, lane)),
            )
            for number, lane in enumerate(record.lanes, 1)
        ),
        numbers=("predicted",),
    )
    known = facts(
        ("predicted JCT", _given(record.jct_s)),
        ("measured JCT", _given(record.measured_s)),
        ("proven bound", _given(record.bound_s)),
        ("gap to the bound", "" if record.gap is None else format_percent(record.gap)),
        ("found by", record.searcher),
        ("left out", ", ".join(record.left_out)),
        ("inputs that reach each stage", ", ".join(map(format_percent, record.reach))),
        ("combined by", record.combine),
        ("made for", device_text(record.device)),
        ("input profiled", record.example),
        ("made at", record.created_at),
    )
    notes = tuple(record.notes)
    if not all(lane.all_eager for lane in record.lanes):
        notes = (*notes, "Predicted as if every sub-model ran eagerly: `%esen compare x` measures the plan as it is.")
    if record.oversubscribed:
        notes = (*notes, "The shares sum to more than the device: lanes compete for it.")
    title = "Plan: one lane, one after another" if record.is_sequential else f"Plan: {record.describe()}"
    return View(title=title, blocks=(lanes, _shares(record, unit), known), notes=notes)


def _shares(record: Any, unit: str) -> Shares:
    return Shares(
        lanes=tuple(
            Share(
                units=lane.units,
                members=tuple(
                    (name, record.predicted_s.get(name) if lane.mode == "serial" else None) for name in lane.members
                ),
            )
            for lane in record.lanes
        ),
        units=record.units,
        unit=unit,
        bound_s=record.bound_s,
    )


def _members(lane: Any) -> str:
    parts = []
    for name, active, way in zip(lane.members, lane.active_units, lane.mechanisms, strict=True):
        said = [way] * (way != "eager") + [f"on {active}"] * (active != lane.units)
        parts.append(f"{name} ({', '.join(said)})" if said else name)
    how = {"serial": " → ", "threads": " | ", "vmap": " + "}.get(lane.mode, ", ")
    return how.join(parts) + ("" if lane.mode == "serial" else f" ({lane.mode})")


def _total(predicted: Mapping[str, float], lane: Any) -> float | None:
    if lane.mode != "serial" or any(name not in predicted for name in lane.members):
        return None
    return float(sum(predicted[name] for name in lane.members))


def share(units: int, of_units: int, unit: str = "unit") -> str:
    """A share in units and in percent: "2 cores (50 %)"."""
    return f"{_count(units, unit)} ({100 * units / of_units:.0f} %)"


def profile(record: Any, models: Mapping[str, Any] | None = None) -> View:
    """A `Profile`, with the cost models fitted to it where they are known."""
    title = f"Profile on {device_text(record.device) or 'this device'}"
    if not record.points and not record.failures:
        return View(title=title, notes=("It has no points.",))
    summary = Table(
        columns=("sub-model", "fastest", "at", "spread", "repeats", "peak memory", "example"),
        rows=tuple(_fastest(record, name) for name in record.names),
        numbers=("fastest", "at", "spread", "repeats", "peak memory"),
    )
    return View(
        title=title,
        blocks=(
            points(record.points, record.failures),
            curves(record.points, models or {}, record.units, str(record.device.get("unit", "unit"))),
            summary,
            *map(failure, record.failures),
        ),
        notes=_point_notes(record.points, record.failures),
    )


def _fastest(record: Any, name: str) -> tuple[str, ...]:
    best = min(record.of(name), key=lambda point: point.median_s)
    return (
        name,
        format_seconds(best.median_s),
        share(best.units, record.units, str(record.device.get("unit", "unit"))),
        format_percent(best.spread_s / best.median_s) if best.median_s else "-",
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
    known = tuple((p.units, p.median_s, p.spread_s) for p in measured)
    if not known and model is not None:
        known = tuple((units, seconds, 0.0) for units, seconds in model.points)
    # The knee: from here on, more units gain less than 5 %.
    knee = next((k for k, seconds in enumerate(fitted, 1) if seconds <= 1.05 * fitted[-1]), None)
    return Curve(name=name, points=known, fitted_s=fitted, knee=knee)


def points(measured: Sequence[Any], failures: Sequence[Any] = ()) -> Table:
    """`Point`s and `Failure`s as a matrix: a row per sub-model, a column per share, medians in the cells."""
    shares = sorted({p.units for p in (*measured, *failures)})
    names = list(dict.fromkeys(p.name for p in (*measured, *failures)))
    cells = {(p.name, p.units): "failed" for p in failures}
    cells |= {(p.name, p.units): format_seconds(p.median_s) + ("" if p.settled else " ?") for p in measured}
    columns = ("median at", *(str(units) for units in shares))
    return Table(
        columns=columns,
        rows=tuple((name, *(cells.get((name, units), "") for units in shares)) for name in names),
        numbers=columns[1:],
    )


def _point_notes(measured: Sequence[Any], failures: Sequence[Any]) -> tuple[str, ...]:
    notes = []
    reused = sum(p.reused for p in measured)
    if reused:
        notes.append(f"{_count(reused, 'point')} of {len(measured)} reused from the store; --fresh measures again.")
    if any(not p.settled for p in measured):
        notes.append("? marks a median that is not known to 2 % yet: a larger --budget settles it.")
    if failures:
        notes.append(f"{_count(len(failures), 'point')} failed; all others are kept.")
    return tuple(notes)


def failure(record: Any) -> Details:
    """A `Failure`: one point that could not be measured."""
    parts = [record.worker_traceback.rstrip(), f"It printed:\n{record.log.rstrip()}" if record.log else ""]
    return Details(
        summary=f"{record.name} at {record.units}: {one_line(record.message)}",
        text="\n".join(part for part in parts if part),
    )


def progress(record: Any, models: Mapping[str, Any] | None = None) -> View:
    """A `ProfileProgress`: a running or a finished job; with the `CostModel`s fitted to its points so far."""
    words = [f"{record.done} of {_count(record.total, 'point')}"]
    for number, what in ((record.reused, "reused"), (record.failed, "failed"), (record.skipped, "skipped")):
        if number:
            words.append(f"{number} {what}")
    if not record.state.over and record.eta_s is not None:
        words.append(f"about {_rough(record.eta_s)} left")
    if not record.state.over and record.current:
        words.append(f"now {record.current}")
    blocks: list[Block] = [Progress(done=record.done, total=record.total, words=", ".join(words))]
    if record.points or record.failures:
        blocks.append(points(record.points, record.failures))
        if record.points:
            known = dict(models or {})
            most = max((len(m.latency_s) for m in known.values()), default=max(p.units for p in record.points))
            blocks.append(curves(record.points, known, most, "unit"))
    blocks.extend(map(failure, record.failures))
    # In other states the message only repeats the figures above.
    said = (one_line(record.message),) if str(record.state) in ("waiting", "failed") and record.message else ()
    notes = (*said, *record.notes, *_point_notes(record.points, record.failures))
    if str(record.state) == "finished" and record.points:
        notes = (*notes, "Next: `%esen search` proposes a plan.")
    return View(title=f"Profile {record.state}", blocks=tuple(blocks), notes=notes)


def _rough(seconds: float) -> str:
    # To the whole second: a time left that trembles in its third digit is noise, and redraws for nothing.
    whole = max(1, round(seconds))
    return f"{whole} s" if whole < 90 else f"{round(whole / 60)} min"


def cost_model(record: Any) -> View:
    """A `CostModel`."""
    return cost_models({record.name: record})


def cost_models(records: Mapping[str, Any], measured: Any = None) -> View:
    """What `Lab.fit` returns: a `CostModel` per sub-model; with the `Profile` they are fitted to, where it is known."""
    most = max((len(m.latency_s) for m in records.values()), default=0)
    shown = sorted({1, most, *(2**k for k in range(most.bit_length()) if 2**k <= most)}) if most else []
    columns = ("predicted at", *(str(units) for units in shown), "method", "error")
    rows = tuple(
        (
            name,
            *(format_seconds(m.latency_s[k - 1]) if k <= len(m.latency_s) else "" for k in shown),
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
                () if measured is None else measured.points,
                records,
                most,
                "unit" if measured is None else str(measured.device.get("unit", "unit")),
            ),
        ),
        notes=(
            *(f"{name}: {note}" for name, m in records.items() for note in m.notes),
            "The error is the mean over points that were left out of the fit; - where too few were measured.",
        ),
    )


def allocation(record: Any) -> View:
    """An `Allocation`."""
    lanes = Table(
        columns=("lane", "units", "sub-models, in order"),
        rows=tuple((str(i), str(units), " → ".join(names)) for i, (units, names) in enumerate(record.lanes, 1)),
        numbers=("units",),
    )
    known = facts(
        ("JCT", format_seconds(record.jct_s)),
        ("proven bound", format_seconds(record.bound_s)),
        ("bound for any schedule", format_seconds(record.schedule_bound_s)),
        ("gap to the bound", format_percent(record.gap)),
        ("proven optimal", "yes" if record.proven else "no"),
        ("found by", f"{record.searcher}, {record.evaluations:,} plans in {format_seconds(record.elapsed_s)}"),
    )
    return View(title="Allocation", blocks=(lanes, known, *history(record)), notes=tuple(record.notes))


def history(record: Any) -> tuple[Block, ...]:
    """The picture of an `Allocation`'s search; none where there is nothing to see."""
    if len(record.trace) < 2:
        return ()
    exact_s = record.bound_s if record.proven else None
    if record.trace[0][2] == record.trace[-1][2]:  # all its plans come from one examination
        steps = tuple((1e3 * elapsed_s, jct_s) for elapsed_s, jct_s, _ in record.trace)
        return (History(traces=((record.searcher, steps),), exact_s=exact_s, x_label="time (ms)"),)
    found = tuple((float(evaluations), jct_s) for _, jct_s, evaluations in record.trace)
    steps = (*found, (float(record.evaluations), found[-1][1]))
    return (History(traces=((record.searcher, steps),), exact_s=exact_s),)


def front_picture(record: Any) -> Front:
    """The picture of a `Front`: its choices by their number."""
    found = tuple((str(i), c.allocation.jct_s, c.accuracy) for i, c in enumerate(record.choices, 1))
    return Front(points=found, on_front=(True,) * len(found))


def searching(progress: Any, job: Any) -> View:
    """A `SearchJob`, and its snapshot: the best plan so far, and how far the proof is."""
    best = job.best
    reached = None if best is None or not progress.bound_s else max(0.0, best.jct_s / progress.bound_s - 1)
    known = facts(
        ("doing", "" if job.done else progress.message),
        ("proven bound so far", _given(progress.bound_s or None)),
        ("the best is above it by", "" if reached is None else format_percent(reached)),
        ("examined", f"{progress.evaluations:,} in {format_seconds(progress.elapsed_s)}"),
    )
    if job.error is not None:
        return View(title=f"{job.title}: failed", notes=(one_line(job.error),))
    if job.done:
        shown = plan(best)
        return View(title=shown.title, blocks=shown.blocks, notes=shown.notes)
    if best is None:
        return View(title=f"{job.title}: no plan yet", blocks=(known,))
    shown = plan(best)
    told = "In force now; the search goes on in the background and may improve it. `%esen cancel` stops it."
    return View(title=shown.title, blocks=(*shown.blocks[:1], known), notes=(*shown.notes, told))


def refined(record: Any) -> View:
    """A `Refined`: every round, and the plan that is kept."""
    columns = ("round", "plan", "predicted", "measured", "spread", "then")
    rows = tuple(
        (
            f"{number + 1}{' (best)' if number == record.best else ''}",
            one.plan.describe(),
            _given(one.plan.jct_s),
            format_seconds(one.measured_s),
            format_seconds(one.spread_s),
            one.decision,
        )
        for number, one in enumerate(record.rounds)
    )
    shown = plan(record.plan)
    title = f"Refined: {format_percent(record.gain)} faster" if record.best else "Refined: the plan stays"
    rounds = Table(columns=columns, rows=rows, numbers=("predicted", "measured", "spread"))
    return View(title=title, blocks=(rounds, *shown.blocks), notes=(*shown.notes, f"It ended: {record.reason}."))


def front(record: Any) -> View:
    """A `Front`: which members are worth having."""
    rows = tuple(
        (
            str(number),
            format_percent(choice.accuracy),
            format_seconds(choice.allocation.jct_s),
            ", ".join(choice.names),
            " | ".join(f"{units}: {' + '.join(names)}" for units, names in choice.allocation.lanes),
        )
        for number, choice in enumerate(record.choices, 1)
    )
    columns = ("point", "accuracy", "JCT", "members", "lanes")
    how = "Every subset was taken into account" if record.exact else "The best front found by NSGA-II"
    return View(
        title=f"Members: {_count(len(record.choices), 'point')} worth having",
        blocks=(front_picture(record), Table(columns=columns, rows=rows, numbers=("point", "accuracy", "JCT"))),
        notes=(
            f"{how}; {record.evaluations:,} subsets evaluated on the validation data.",
            "`%esen members x y --take 2` puts point 2 in force: from then on only its members run.",
        ),
    )


def placement(record: Any) -> View:
    """A `Placement`."""
    rows = tuple(
        (name, str(units), format_seconds(found.jct_s), f"{share}: {' + '.join(names)}")
        if k == 0
        else ("", "", "", f"{share}: {' + '.join(names)}")
        for (name, found), units in zip(record.devices, record.units, strict=True)
        if found is not None
        for k, (share, names) in enumerate(found.lanes)
    )
    idle = tuple(
        (name, str(units), "idle", "")
        for (name, found), units in zip(record.devices, record.units, strict=True)
        if found is None
    )
    known = facts(
        ("predicted JCT", format_seconds(record.jct_s)),
        ("proven bound", format_seconds(record.bound_s)),
        ("gap to the bound", format_percent(record.gap)),
        ("proven optimal", "yes" if record.proven else "no"),
        ("found by", f"{record.evaluations:,} placements in {format_seconds(record.elapsed_s)}"),
    )
    table = Table(columns=("device", "units", "JCT", "lanes"), rows=(*rows, *idle), numbers=("units", "JCT"))
    return View(
        title=f"Placement over {_count(len(record.devices), 'device')}",
        blocks=(table, known),
        notes=("Planned only: this version runs plans of one device. `--save plan.json` keeps it.",),
    )


def stages(record: Any) -> View:
    """A `Cascade`."""
    rows = tuple(
        (
            str(number),
            format_percent(stage.reach),
            format_seconds(stage.allocation.jct_s),
            " | ".join(f"{units}: {' + '.join(names)}" for units, names in stage.allocation.lanes),
        )
        for number, stage in enumerate(record.stages, 1)
    )
    known = facts(
        ("expected JCT", format_seconds(record.expected_s)),
        ("all at once", format_seconds(record.at_once_s)),
        ("gain", format_percent(record.gain, signed=True)),
    )
    table = Table(columns=("stage", "inputs that get there", "JCT", "lanes"), rows=rows, numbers=("stage", "JCT"))
    notes = record.notes
    if len(record.stages) > 1:
        notes = (*notes, "Planned only: this version runs all members at once. `--save plan.json` keeps it.")
    return View(title=f"Cascade of {_count(len(record.stages), 'stage')}", blocks=(table, known), notes=notes)


def report(record: Any) -> View:
    """A `RunReport`."""
    spans: dict[int, list[Segment]] = {number: [] for number in range(len(record.lanes))}
    predicted: dict[int, list[Segment]] = {number: [] for number in range(len(record.lanes))}
    for span in record.spans:
        segment = Segment(name=span.name, start_s=span.start_s, end_s=span.end_s)
        before = predicted.setdefault(span.lane, [])
        if span.predicted_s is not None:
            # A lane was predicted to begin when it did, and to run its sub-models without a pause.
            start_s = before[-1].end_s if before else span.start_s
            before.append(Segment(name=span.name, start_s=start_s, end_s=start_s + span.predicted_s))
        spans.setdefault(span.lane, []).append(segment)
    shares = {number: f" ({lane.units})" for number, lane in enumerate(record.lanes)}
    timeline = Timeline(
        lanes=tuple((f"lane {number + 1}{shares.get(number, '')}", tuple(bars)) for number, bars in spans.items()),
        total_s=record.jct_s,
        predicted=tuple(tuple(bars) for bars in predicted.values()) if any(predicted.values()) else (),
    )
    ran = Table(
        columns=("sub-model", "lane", "start", "end", "ran for", "predicted"),
        rows=tuple(
            (
                span.name,
                str(span.lane + 1),
                format_seconds(span.start_s),
                format_seconds(span.end_s),
                format_seconds(span.end_s - span.start_s),
                format_seconds(span.predicted_s),
            )
            for span in record.spans
        ),
        numbers=("lane", "start", "end", "ran for", "predicted"),
    )
    known = facts(
        ("predicted JCT", _given(record.predicted_s)),
        ("overhead over the slowest lane", format_seconds(record.overhead_s)),
        ("time with two or more at once", format_percent(record.overlap)),
        ("sub-models at once, mean", f"{record.concurrency:.2f}"),
        ("input", record.batch),
    )
    notes = tuple(record.notes)
    if record.nan and not any("nan" in note.lower() for note in notes):
        notes = (f"NaN in the output of {', '.join(record.nan)}.", *notes)
    return View(title=f"Run: JCT {format_seconds(record.jct_s)}", blocks=(timeline, ran, known), notes=notes)


def comparison(record: Any) -> View:
    """A `Comparison`."""
    baselines = tuple(name for row in record.rows if (name := row.strategy) in _compared_with(record))
    columns = ("strategy", "lanes", "JCT median", "spread", *(f"/ {b}" for b in baselines), "/ bound", "outputs")
    where = ", ".join(part for part in (record.device, record.batch) if part)
    return View(
        title=f"Comparison over {_count(record.rounds, 'interleaved round')}" + (f" ({where})" if where else ""),
        blocks=(
            Table(columns=columns, rows=tuple(_row(row, baselines) for row in record.rows), numbers=columns[2:-1]),
            Bars(
                bars=tuple(
                    Bar(label=r.strategy, median_s=r.median_s, spread_s=r.spread_s, chosen=r is record.rows[-1])
                    for r in record.rows
                    if not r.failed
                ),
                bound_s=record.bound_s,
            ),
        ),
        notes=tuple(note for note in (record.verdict, *record.notes) if note),
    )


def _compared_with(record: Any) -> set[str]:
    # The plan is last; a ratio to it is the inverse of what its own row says, and would only widen the table.
    return {name for row in record.rows[-1:] for name in row.ratio_to}


def _row(row: Any, baselines: Sequence[str]) -> tuple[str, ...]:
    if row.failed:
        return (row.strategy, row.lanes, *("-" for _ in range(3 + len(baselines))), f"failed: {one_line(row.failed)}")
    return (
        row.strategy,
        row.lanes,
        format_seconds(row.median_s),
        format_seconds(row.spread_s),
        *(_ratio(row.ratio_to.get(name)) for name in baselines),
        _ratio(row.ratio_to_bound),
        row.agreement,
    )


def numerics(record: Any) -> View:
    """A `GateVerdict`: who answered as on the whole device, who did not, and what to do then."""
    columns = ("sub-model", "lane", "share", "in force", "executed", "same answer", "furthest off", "rounding allows")
    rows = tuple(
        (
            row.name,
            str(row.lane + 1),
            share(row.units, record.units or row.units, record.unit),
            row.in_force,
            row.mechanism,
            _same_answer(row),
            row.worst.amount,
            row.worst.limit,
        )
        for row in record.rows
    )
    found = "passed" if record.passed else "WRONG ANSWERS" if record.wrong else "not judged for all"
    return View(
        title=f"Numerics: {found}" + (f" (on {record.batch})" if record.batch else ""),
        blocks=(Table(columns=columns, rows=rows, numbers=("furthest off", "rounding allows")),),
        notes=(*record.sentences, *record.notes, *_after_numerics(record)),
    )


def forgotten(shares: Mapping[str, Sequence[int]], unit: str) -> View:
    """What `forget_wrong` lifted."""
    told = [f"{name} with {' or '.join(map(str, units))} {unit}s" for name, units in shares.items()]
    if not told:
        return View(notes=("No check had found wrong answers there.",))
    return View(notes=(f"Searches may use again: {'; '.join(told)}.", "Next: `%esen search`, then `%esen numerics`."))


def _same_answer(row: Any) -> str:
    if row.wrong and not row.repeats:
        return "changes each time"
    return f"{row.runs - row.wrong} of {row.runs} runs" + (", WRONG" if row.wrong else "")


def _after_numerics(record: Any) -> list[str]:
    """What to do next, a sentence each."""
    if record.passed:
        return ["This holds for this batch and these shares: check again after a new plan."]
    told = []
    other = [row.name for row in record.wrong if row.mechanism != "eager"]
    if other:
        told.append(
            f"Have {', '.join(other)} executed eagerly again with `%esen mechanisms --only eager`, then check again."
        )
    eager = [row for row in record.wrong if row.mechanism == "eager"]
    narrow = [row for row in eager if row.units < record.units]
    if narrow:
        least = ",".join(f"{row.name}={row.units + 1}" for row in narrow)
        told.append(f"Look for other shares with `%esen search --min {least}`, then check again.")
    if len(narrow) < len(eager):
        told.append("`%esen search --lanes 1` finds the plan that shares nothing.")
    if record.unsteady:
        told.append(
            "An answer that changes comes from random numbers (such as dropout that stays on) or from a state kept "
            "between calls: without them the share can be judged."
        )
    return told


def mechanisms(record: Any) -> View:
    """A `MechanismTable`: what every way takes, which one is taken, and why."""
    if not record.points:
        return View(
            title="Mechanisms: nothing to choose",
            notes=("The plan's sub-models run together in batched calls, which are always eager.",),
        )
    rows = tuple(
        (
            name,
            share(mine["eager"].units, record.units or mine["eager"].units, record.unit),
            *(_median(mine[each]) for each in record.ways),
            way,
            record.reason(name),
        )
        for name, way in record.chosen.items()
        for mine in [record.of(name)]
    )
    columns = ("sub-model", "share", *record.ways, "taken", "because")
    faster = [name for name, way in record.chosen.items() if way != "eager"]
    if faster:
        title = f"Mechanisms: {len(faster)} of {_count(len(rows), 'sub-model')} faster than eager"
        then = (
            "They are in the plan: the next run starts its lanes anew. "
            "Next: `%esen numerics` checks the answers, `%esen compare x` what it gains."
        )
    else:
        title = "Mechanisms: every sub-model runs eagerly"
        then = "The plan runs them all eagerly."
    return View(
        title=title,
        blocks=(Table(columns=columns, rows=rows, numbers=record.ways),),
        notes=(*record.hindrances, then),
    )


def _median(point: Any) -> str:
    if point.median_s is None:
        return "-"
    return f"{format_seconds(point.median_s)} ± {format_seconds(point.spread_s)}"


def tuning(record: Any) -> View:
    """A `TuningState`."""
    lanes = Table(
        columns=("lane", "share", "", "sub-models, in order", "predicted", ""),
        rows=tuple(
            (
                str(number),
                share(lane.units, record.units, record.unit),
                "pinned" if lane.pinned else "",
                " → ".join(lane.members),
                format_seconds(lane.predicted_s),
                "← limits the JCT" if number - 1 == record.limiting else "",
            )
            for number, lane in enumerate(record.lanes, 1)
        ),
        numbers=("predicted",),
    )
    return View(
        title=f"Tuning: {format_seconds(record.jct_s)} predicted, {format_percent(record.gap)} above the bound",
        blocks=(lanes, tuning_picture(record), facts(*tuning_facts(record))),
        notes=tuning_notes(record),
    )


def tuning_picture(record: Any) -> Shares:
    """The draft of a `TuningState` as bars."""
    return Shares(
        lanes=tuple(
            Share(units=lane.units, members=tuple(zip(lane.members, lane.member_s, strict=True)))
            for lane in record.lanes
        ),
        units=record.units,
        unit=record.unit,
        bound_s=record.bound_s,
    )


def tuning_facts(record: Any) -> tuple[tuple[str, str], ...]:
    """The figures of a `TuningState`: (label, value)."""
    total = share(record.total_units, record.units, record.unit)
    over = record.total_units - record.units
    measured = record.measured
    return (
        ("predicted JCT", format_seconds(record.jct_s)),
        ("proven bound", format_seconds(record.bound_s)),
        ("gap to the bound", format_percent(record.gap)),
        ("limiting lane", f"{record.limiting + 1}: {' → '.join(record.lanes[record.limiting].members)}"),
        ("shares sum to", total + (f", {over} more than there are" if over > 0 else "")),
        ("measured JCT", "" if measured is None else measured_text(measured, record.describe())),
        ("in force", "yes" if record.in_force else "no" if record.can_apply else ""),
    )


def measured_text(record: Any, lanes: str) -> str:
    """A `Measured` beside its prediction; says when it is of other lanes than `lanes`."""
    off = record.median_s / record.predicted_s - 1 if record.predicted_s else None
    words = (
        f"{format_seconds(record.median_s)} ± {format_seconds(record.spread_s)}, "
        f"predicted {format_seconds(record.predicted_s)} ({format_percent(off, signed=True)}), "
        f"{record.repeats} runs"
    )
    return words if record.lanes == lanes else f"{words}, of {record.lanes}"


def tuning_notes(record: Any) -> tuple[str, ...]:
    """What is going on in a `TuningState`, and what to know."""
    notes = [record.message] if record.message else []
    if record.searching is not None:
        best = record.searching.jct_s
        notes.append(f"Searching: best so far {format_seconds(best)}; `%esen tune cancel` stops it.")
    if record.doing:
        notes.append(f"{record.doing.capitalize()} …")
    if record.total_units > record.units:
        notes.append("Oversubscribed: predicted as if lanes did not disturb each other; measure before you believe it.")
    return tuple(notes)


def exported(record: Any) -> View:
    """An `Exported`."""
    return View(
        title=f"Exported to {record.script}",
        blocks=(
            facts(
                ("script", str(record.script)),
                ("beside it", str(record.folder)),
                ("files", ", ".join(str(getattr(file, "name", file)) for file in record.files)),
            ),
        ),
        notes=(f"`python {record.script} --input x.npy --output y.npy --repeat 100` runs it without Jupyter.",),
    )


def one_line(text: object) -> str:
    """Text without line breaks."""
    return " ".join(str(text).split())


def _count(number: int, noun: str) -> str:
    return format_units(number, noun)


def _given(seconds: float | None) -> str:
    return "" if seconds is None else format_seconds(seconds)


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}×"


def device_text(identity: Mapping[str, Any]) -> str:
    """A device's identity in one line."""
    if not identity:
        return ""
    units, unit = identity.get("units"), identity.get("unit", "unit")
    size = f", {_count(units, str(unit))}" if isinstance(units, int) else ""
    label = f"{identity.get('kind', '')}: {identity.get('name', '')}{size}"
    return f"{label} (simulated)" if identity.get("simulated") else label


RECORDS: Mapping[str, Callable[[Any], View]] = {
    "esen_lab.lab.lab.Lab": lambda lab: status(lab.status()),
    "esen_lab.lab.records.Status": status,
    "esen_lab.lab.records.DeviceChange": device_change,
    "esen_lab.ensemble.ensemble.Ensemble": ensemble,
    "esen_lab.ensemble.submodel.SubModel": submodel,
    "esen_lab.profiling.records.Profile": profile,
    "esen_lab.profiling.job.ProfileJob": lambda job: progress(job.snapshot()),
    "esen_lab.profiling.progress.ProfileProgress": progress,
    "esen_lab.fitting.model.CostModel": cost_model,
    "esen_lab.search.allocation.Allocation": allocation,
    "esen_lab.choosing.adaptive.AdaptiveProfileJob": lambda job: progress(job.snapshot()),
    "esen_lab.choosing.refining.Refined": refined,
    "esen_lab.search.members.Front": front,
    "esen_lab.search.placement.Placement": placement,
    "esen_lab.search.cascade.Cascade": stages,
    "esen_lab.search.job.SearchJob": lambda job: searching(job.snapshot(), job),
    "esen_lab.planning.Plan": plan,
    "esen_lab.tuning.state.TuningState": tuning,
    "esen_lab.tuning.tuning.Tuning": lambda tuned: tuning(tuned.state),
    "esen_lab.runtime.report.RunReport": report,
    "esen_lab.runtime.comparison.Comparison": comparison,
    "esen_lab.runtime.gate.GateVerdict": numerics,
    "esen_lab.profiling.mechanisms.MechanismTable": mechanisms,
    "esen_lab.export.export.Exported": exported,
}
"""Class, by its full name -> its view. By name, because showing imports nothing."""
