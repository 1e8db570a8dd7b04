"""Views of runs: the report, the comparison, the check of answers, ways of execution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from esen_lab.notebook.pictures.rows import Bar, Bars, Segment, Timeline
from esen_lab.notebook.views.blocks import Table, View, facts, given_s, one_line, ratio_text, share
from esen_lab.units import format_percent, format_seconds, format_units


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
        ("predicted JCT", given_s(record.predicted_s)),
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
        title=f"Comparison over {format_units(record.rounds, 'interleaved round')}" + (f" ({where})" if where else ""),
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
        *(ratio_text(row.ratio_to.get(name)) for name in baselines),
        ratio_text(row.ratio_to_bound),
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
        title = f"Mechanisms: {len(faster)} of {format_units(len(rows), 'sub-model')} faster than eager"
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
