"""Views of the history: a project's entries, one of them, two of them side by side."""

from __future__ import annotations

from typing import Any

from esen_lab.common.surroundings import step
from esen_lab.common.units import format_percent, format_seconds, format_units
from esen_lab.ui.pictures.rows import Moment, Moments
from esen_lab.ui.views.blocks import Details, Table, View, device_text, facts, given_s, one_line

_COLUMNS = ("no.", "when (UTC)", "kind", "JCT median", "bound", "found by", "changed", "device", "members", "what")
_MOST_WORDS = 60


def past(record: Any) -> View:
    """A `Past`: what there is, oldest first, and whether it is getting better."""
    measured = record.measured
    changed = record.changed
    picture = Moments(
        moments=tuple(
            Moment(
                label=str(entry.number),
                kind=str(entry.kind),
                median_s=entry.jct_s,
                low_s=entry.low_s,
                high_s=entry.high_s,
                bound_s=entry.bound_s,
            )
            for entry in measured
        ),
        marks=tuple((place, ", ".join(words)) for place, words in record.marks),
    )
    table = Table(
        columns=_COLUMNS,
        rows=tuple(_row(entry, changed.get(entry.number, ())) for entry in record.entries),
        numbers=("no.", "JCT median", "bound"),
        wide=("bound", "found by", "device", "members", "what"),
    )
    notes = [record.verdict]
    best = record.best
    if best is not None and best is not record.last:
        pair = (best.number, record.last.number)
        compare = step(f"lab.history.compare{pair}", f"%esen history {pair[0]} {pair[1]}")
        take = step(f"lab.history.take({best.number})", f"%esen history --take {best.number}")
        taking = "" if best.plan is None else f", `{take}` puts that plan in force"
        notes.append(f"`{compare}` says what changed{taking}.")
    notes.append(record.simulated)
    if not record.entries:
        notes.append("Nothing yet: comparisons, plans, finished profiles and runs come here by themselves.")
    if record.others:
        others = [f"{name} ({count})" for name, count in list(record.others.items())[:10]]
        go_on = step("lab.history.project = NAME", "%esen history --project NAME")
        notes.append(f"Other projects: {', '.join(others)}. `{go_on}` goes on with one of them.")
    return View(
        title=f"History of {record.project}: {record.size}",
        blocks=(*([picture] if measured else []), *([table] if record.entries else [])),
        notes=(*(one_line(note) for note in notes if note), *record.notes),
    )


def _row(entry: Any, changed: tuple[str, ...]) -> tuple[str, ...]:
    return (
        str(entry.number),
        entry.when,
        str(entry.kind),
        entry.jct_text,
        given_s(entry.bound_s),
        entry.searcher,
        _short(", ".join(changed)),
        entry.device_name,
        ", ".join(entry.members),
        one_line(entry.what),
    )


def one_entry(record: Any) -> View:
    """An `Entry`, with everything that was kept of it."""
    known = facts(
        ("when (UTC)", record.when),
        ("what", one_line(record.what)),
        ("device", device_text(record.device)),
        ("sub-models", ", ".join(record.members)),
        ("combined by", record.combine),
        ("input", record.batch),
        ("JCT median", record.jct_text),
        ("runs", str(record.runs or "")),
        ("predicted JCT", given_s(record.predicted_s)),
        ("proven bound", given_s(record.bound_s)),
        ("found by", record.searcher),
        ("load by other programs", "" if record.load is None else format_percent(record.load)),
        ("versions", ", ".join(f"{name} {version}" for name, version in record.versions.items())),
    )
    blocks: list[Any] = [known]
    if record.strategies:
        columns = ("strategy", "JCT median", "spread", "answers")
        blocks.append(
            Table(
                columns=columns,
                rows=tuple(
                    (
                        row.name,
                        format_seconds(row.median_s),
                        format_seconds(row.spread_s),
                        "failed" if row.median_s is None else "agree" if row.agrees else "differ",
                    )
                    for row in record.strategies
                ),
                numbers=columns[1:3],
            )
        )
    if record.latency_s:
        shares = sorted({units for curve in record.latency_s.values() for units in curve})
        blocks.append(
            Table(
                columns=("median at", *map(str, shares)),
                rows=tuple(
                    (name, *(given_s(curve.get(units)) for units in shares)) for name, curve in record.latency_s.items()
                ),
                numbers=tuple(map(str, shares)),
            )
        )
    if record.notes:
        blocks.append(Details(summary="What was said with it", text="\n".join(record.notes)))
    return View(title=f"Number {record.number} of the history: {record.kind}", blocks=tuple(blocks))


def changes(record: Any) -> View:
    """A `Changes`: what differs, then what does not."""
    columns = ("", str(record.before.number), str(record.after.number))
    differ = tuple((row.what, row.before, row.after) for row in record.rows if row.differs)
    same = [f"{row.what}: {row.before}" for row in record.rows if not row.differs]
    blocks: list[Any] = [Table(columns=columns, rows=differ)]
    if same:
        blocks.append(Details(summary=f"The same in both: {format_units(len(same), 'thing')}", text="\n".join(same)))
    return View(
        title=f"Number {record.before.number} and number {record.after.number} of the history",
        blocks=tuple(blocks),
        notes=tuple(filter(None, [record.verdict])),
    )


def forgotten_entries(count: int, project: str) -> View:
    """What `%esen history --forget` took out."""
    return View(title=f"{count} forgotten of the history of {project}")


def _short(text: str) -> str:
    return text if len(text) <= _MOST_WORDS else f"{text[: _MOST_WORDS - 1]}…"
