"""Views of runs: the report, the comparison, the numerics check, the choices of backends and of a precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from esen_lab.common.surroundings import step
from esen_lab.common.units import format_bytes, format_percent, format_seconds, format_units, marked, with_marks
from esen_lab.ui.pictures.rows import Bar, Bars, LoadCurves, Segment, Timeline
from esen_lab.ui.views.blocks import Table, View, facts, given_s, one_line, ratio_text, share

_CHECK = ("lab.check_numerics()", "%esen numerics")
_BACKENDS = ("lab.lanes.choose_backends()", "%esen backends")
_MOST_RATIOS = 2  # columns; with more to compare, ratios to sequential running and to the fastest


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
            guessed = bool(span.unmeasured)
            before.append(Segment(name=span.name, start_s=start_s, end_s=start_s + span.predicted_s, guessed=guessed))
        spans.setdefault(span.lane, []).append(segment)
    for number, segment in _unfinished(record):
        spans.setdefault(number, []).append(segment)
    shares = {
        number: f" ({lane.device}: {lane.units})" if lane.device else f" ({lane.units})"
        for number, lane in enumerate(record.lanes)
    }
    timeline = Timeline(
        lanes=tuple((f"lane {number + 1}{shares.get(number, '')}", tuple(bars)) for number, bars in spans.items()),
        total_s=record.jct_s,
        predicted=tuple(tuple(bars) for bars in predicted.values()) if any(predicted.values()) else (),
        late_s=record.late_s,
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
                with_marks(format_seconds(span.predicted_s), span.unmeasured),
            )
            for span in record.spans
        )
        + _missing_rows(record),
        numbers=("lane", "start", "end", "ran for", "predicted"),
    )
    known = facts(
        ("predicted JCT", marked(given_s(record.predicted_s), record.unmeasured)),
        ("overhead over the slowest lane", format_seconds(record.overhead_s)),
        ("time with two or more at once", format_percent(record.overlap)),
        ("sub-models at once, mean", f"{record.concurrency:.2f}"),
        ("worst case, nobody leaves", given_s(record.worst_s)),
        ("input", record.batch),
    )
    left = (*(_stages(record.stages) if record.stages else ()), *(_nodes(record.nodes) if record.nodes else ()))
    notes: tuple[str, ...] = (*filter(None, [record.late_text]), *record.notes)
    if record.nan and not any("nan" in note.lower() for note in notes):
        notes = (f"NaN in the output of {', '.join(record.nan)}.", *notes)
    title = f"Run: JCT {format_seconds(record.jct_s)}"
    if record.answered is not None:
        notes = (*record.answered.sentences, *notes)
        of = len(record.answered.names) + len(record.answered.missing)
        title += f", {len(record.answered.names)} of {of} members"
    return View(title=title, blocks=(timeline, *left, ran, known), notes=notes)


def _nodes(nodes: Sequence[Any]) -> tuple[Table]:
    """Of a plan for several nodes: what each took, and its way there and back."""
    rows = tuple(
        (
            node.name,
            ", ".join(node.members),
            format_seconds(node.took_s),
            format_seconds(node.network_s),
            format_bytes(node.sent_bytes),
            format_bytes(node.received_bytes),
        )
        for node in nodes
    )
    columns = ("node", "sub-models", "took", "network", "sent", "received")
    return (Table(columns=columns, rows=rows, numbers=("took", "network", "sent", "received")),)


def _stages(stages: Sequence[Any]) -> tuple[Table]:
    """Of a plan in stages: how many rows came to each stage and left, beside what was planned."""
    cells = [{"stage": str(number), **stage.cells} for number, stage in enumerate(stages, 1)]
    columns = tuple(cells[0])
    rows = tuple(tuple(one[column] for column in columns) for one in cells)
    return (Table(columns=columns, rows=rows, numbers=("stage", "rows came", "planned", "left", "time")),)


def _unfinished(record: Any) -> list[tuple[int, Segment]]:
    """For each lane that was at work when nobody waited any more, what it was at, hollow."""
    if record.answered is None:
        return []
    late = {missing.name: missing.why for missing in record.answered.missing if missing.why != "failed"}
    found = []
    for number, lane in enumerate(record.lanes):
        at = [name for name in lane.members if name in late]
        begun_s = max([span.end_s for span in record.spans if span.lane == number], default=lane.start_s)
        if at and begun_s < lane.end_s:
            name = f"{at[0]} ({late[at[0]]})"
            found.append((number, Segment(name=name, start_s=begun_s, end_s=lane.end_s, guessed=True)))
    return found


def _missing_rows(record: Any) -> tuple[tuple[str, ...], ...]:
    """A row for each member that an answer was made without."""
    if record.answered is None:
        return ()
    lanes = {name: str(number + 1) for number, lane in enumerate(record.lanes) for name in lane.members}
    return tuple(
        (missing.name, lanes.get(missing.name, "-"), "-", "-", missing.why, "-") for missing in record.answered.missing
    )


def comparison(record: Any) -> View:
    """A `Comparison`."""
    baselines = tuple(name for row in record.rows if (name := row.strategy) in _compared_with(record))
    # What matters first: a narrow page shows the beginning of each row.
    columns = ("strategy", "JCT median", "spread", *(f"/ {b}" for b in baselines), "/ bound", "outputs", "lanes")
    where = ", ".join(part for part in (record.device, record.batch) if part)
    return View(
        title=f"Comparison over {format_units(record.rounds, 'interleaved round')}" + (f" ({where})" if where else ""),
        blocks=(
            Table(
                columns=columns,
                rows=tuple(_row(row, baselines) for row in record.rows),
                numbers=columns[1:-2],
                wide=("lanes",),
                below=(*record.settings, f"plan: {record.rows[-1].lanes}"),
            ),
            Bars(
                bars=tuple(
                    Bar(label=r.strategy, median_s=r.median_s, spread_s=r.spread_s, chosen=r is record.rows[-1])
                    for r in record.rows
                    if not r.failed
                ),
                bound_s=record.bound_s,
            ),
            facts(("the plan's prediction", marked(given_s(record.predicted_s), record.unmeasured))),
        ),
        notes=tuple(note for note in (record.verdict, *map(one_line, record.reasons), *record.notes) if note),
    )


def _compared_with(record: Any) -> set[str]:
    # The plan is last; a ratio to it is the inverse of what its own row says, and would only widen the table.
    names = {name for row in record.rows[-1:] for name in row.ratio_to}
    if len(names) <= _MOST_RATIOS:
        return names
    right = [row for row in record.rows[:-1] if row.strategy in names and row.agrees]
    return {"sequential", *(row.strategy for row in sorted(right, key=lambda row: row.median_s)[:1])}


def _row(row: Any, baselines: Sequence[str]) -> tuple[str, ...]:
    cells = row.cells
    ratios = (*(row.ratio_to.get(name) for name in baselines), row.ratio_to_bound)
    return (
        *(cells[column] for column in ("strategy", "JCT median", "spread")),
        *map(ratio_text, ratios),
        one_line(cells["outputs"]),
        cells["lanes"],
    )


def numerics(record: Any) -> View:
    """A `NumericsVerdict`: who answered as on the whole device, who did not, and what to do then."""
    columns = ("sub-model", "lane", "share", "in force", "executed", "same answer", "furthest off", "rounding allows")
    rows = tuple(
        tuple(
            {**row.cells, "share": share(row.units, record.units or row.units, record.unit)}[name] for name in columns
        )
        for row in record.rows
    )
    verdict = "passed" if record.passed else "WRONG ANSWERS" if record.wrong else "not judged for all"
    return View(
        title=f"Numerics: {verdict}" + (f" (on {record.batch})" if record.batch else ""),
        blocks=(Table(columns=columns, rows=rows, numbers=("furthest off", "rounding allows")),),
        notes=(*record.sentences, *record.notes, *_after_numerics(record)),
    )


def forgotten(shares: Mapping[str, Sequence[int]], unit: str) -> View:
    """What `forget_wrong` lifted."""
    told = [
        f"{name} with {' or '.join([*map(str, units[:-1]), format_units(units[-1], unit)])}"
        for name, units in shares.items()
    ]
    if not told:
        return View(notes=("No check had found wrong answers there.",))
    then = f"Next: `{step('lab.search()', '%esen search')}`, then `{step(*_CHECK)}`."
    return View(notes=(f"Searches may use again: {'; '.join(told)}.", then))


def _after_numerics(record: Any) -> list[str]:
    """What to do next, a sentence each."""
    if record.passed:
        return ["This holds for this batch and these shares: check again after a new plan."]
    told = []
    if record.unlike:
        told.append("Lanes and notebook must answer alike first: register again, or restart the kernel.")
    other = [row.name for row in record.wrong if row.backend != "eager"]
    if other:
        eagerly = step("lab.lanes.choose_backends(backends=['eager'])", "%esen backends --only eager")
        told.append(f"Have {', '.join(other)} executed eagerly again with `{eagerly}`, then check again.")
    eager = [row for row in record.wrong if row.backend == "eager"]
    narrow = [row for row in eager if row.units < record.units]
    if narrow:
        least = {row.name: row.units + 1 for row in narrow}
        listed = ",".join(f"{name}={units}" for name, units in least.items())
        again = step(f"lab.search(limits={{'min_units': {least}}})", f"%esen search --min {listed}")
        told.append(f"Look for other shares with `{again}`, then check again.")
    if len(narrow) < len(eager):
        alone = step("lab.search(limits={'max_lanes': 1})", "%esen search --lanes 1")
        told.append(f"`{alone}` finds the plan that shares nothing.")
    if record.unsteady:
        told.append(
            "An answer that changes comes from random numbers (such as dropout that stays on) or from a state kept "
            "between calls: without them the share can be judged."
        )
    return told


def backends(record: Any) -> View:
    """A `BackendTable`: what each sub-model takes with every backend, which one is chosen, and why."""
    if not record.points:
        return View(
            title="Backends: nothing to choose",
            notes=("The plan's sub-models run together in batched calls, which are always eager.",),
        )
    rows = tuple(
        (
            name,
            share(mine["eager"].units, record.units or mine["eager"].units, record.unit),
            *(_median(mine.get(each)) for each in record.ways),
            way,
            record.reason(name),
        )
        for name, way in record.chosen.items()
        for mine in [record.of(name)]
    )
    columns = ("sub-model", "share", *record.ways, "taken", "because")
    faster = [name for name, way in record.chosen.items() if way != "eager"]
    if faster:
        title = f"Backends: {len(faster)} of {format_units(len(rows), 'sub-model')} faster than eager"
        then = (
            "They are in the plan: the next run starts its lanes anew. "
            f"Next: `{step(*_CHECK)}` checks the answers, `{step('lab.compare(x)', '%esen compare x')}` what it gains."
        )
    else:
        title = "Backends: every sub-model runs eagerly"
        then = "The plan runs them all eagerly."
    return View(
        title=title,
        blocks=(Table(columns=columns, rows=rows, numbers=record.ways),),
        notes=(*record.hindrances, *filter(None, [record.preparing]), then),
    )


def _median(point: Any) -> str:
    if point is None or point.median_s is None:
        return "-"
    return f"{format_seconds(point.median_s)} ± {format_seconds(point.spread_s)}"


def precision(record: Any) -> View:
    """A `PrecisionTable`: how far each sub-model is off in another precision, what stays, what may be taken."""
    if record is None:
        return View(
            title="Precision: fp32",
            notes=(
                "Every sub-model computes in its own precision. "
                f"`{step(*_BACKENDS)}` measures which backend is fastest.",
            ),
        )
    columns = record.columns
    allowed = [name for name, variants in record.allowed.items() if variants]
    title = f"Precision: {record.precision} for {len(allowed)} of {format_units(len(record.names), 'sub-model')}"
    then = (
        f"Next: `{step(*_BACKENDS)}` measures these at the plan's shares, and takes what is clearly faster."
        if allowed
        else "All of them stay in their own precision."
    )
    return View(
        title=title,
        blocks=(Table(columns=columns, rows=tuple(map(record.cells, record.points)), numbers=columns[2:-1]),),
        notes=(*record.sentences, then),
    )


def load_table(record: Any) -> View:
    """A `LoadTable`, whole or as far as it is."""
    ways: dict[str, list[tuple[float, float, float]]] = {}
    for row in record.rows:
        ways.setdefault(row.name, []).append((row.rate_per_s, row.p50_s, row.p99_s))
    picture = LoadCurves(ways=tuple((name, tuple(found)) for name, found in ways.items()), deadline_s=record.deadline_s)
    table = Table(
        columns=_LOAD_COLUMNS,
        rows=tuple((*row.cells, format_seconds(row.predicted_p99_s), str(row.unanswered)) for row in record.rows),
        numbers=_LOAD_COLUMNS[1:],
    )
    return View(title="Load", blocks=(picture, table), notes=(record.describe(), *record.notes))


_LOAD_COLUMNS = (
    "way",
    "rate",
    "p50",
    "p90",
    "p95",
    "p99",
    "in time",
    "queue",
    "compute",
    "rows",
    "p99 by the queue model",
    "never answered",
)


def server(record: Any) -> View:
    """A `ServerStatus`: where clients find it, how it stands, what it has answered."""
    if record.state == "ended":
        return View(title=f"{record.name} is served no longer", blocks=(facts(*record.facts()),))
    stop = step("lab.serve(None)", "%esen serve --stop")
    return View(
        title=f"{record.name} is served",
        blocks=(facts(*record.facts()),),
        notes=(f"`curl {record.url.removesuffix('/infer')}` says what it takes.", f"`{stop}` ends it."),
    )
