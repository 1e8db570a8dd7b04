"""The page of `make bench-peers`: figures between two marks of docs/benchmarks.md, and plots beside it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from marked_page import Marks
from peer_rows import BF16, EAGER, OURS, PLAN

from esen_lab.common.units import format_percent, format_seconds
from esen_lab.ui.colours import PALETTE
from esen_lab.ui.pictures.drawing import FAINT, Axis, Drawing

Row = Mapping[str, Any]

MARKS = Marks(name="figures", title="Benchmarks against peers")
LOSES = 1.03  # times the best alternative
SEQUENTIAL = "sequential"
_GOAL_ENGINE, _GOAL_SEQUENTIAL, _GOAL_BOUND = 1.15, 2.0, 1.10


def reasons(path: Path) -> dict[tuple[str, int], str]:
    """The words for rows that a plan loses, by ensemble and batch.

    Raises:
        SystemExit: A line is not "ensemble, batch: words".
    """
    found = {}
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("#"):
            row, colon, words = line.partition(":")
            name, _, batch = row.rpartition(",")
            if not (colon and name and batch.strip().isdecimal() and words.strip()):
                raise SystemExit(f"{path}, line {number}: a line is 'ensemble, batch: words', not {line!r}")
            found[name.strip(), int(batch)] = words.strip()
    return found


def write_page(rows: Sequence[Row], page: Path, words: Mapping[tuple[str, int], str]) -> None:
    """Put the figures between the marks of the page, which is made where there is none, and the plots beside it."""
    batches = sorted({row["batch"] for row in rows})
    plots = []
    for batch in batches:
        name = f"{page.stem}_batch_{batch}.svg"
        page.with_name(name).write_text(plot([row for row in rows if row["batch"] == batch], batch), encoding="utf-8")
        plots.append(f"![JCT relative to sequential eager running, batch {batch}]({name})")
    parts = [
        _origins(rows),
        _goals(rows),
        "## Every row",
        overview(rows),
        "\n\n".join(plots),
        "## Where we lose, and why",
        where_we_lose(rows, words),
        "## Every strategy",
        *(strategies(row) for row in rows),
    ]
    figures = "\n\n".join(part for part in parts if part)
    MARKS.write(page, figures)


def _origins(rows: Sequence[Row]) -> str:
    """What the rows were measured on: a line for each machine with its versions, by its letter where there are more."""
    letters = _letters(rows)
    lines = []
    for letter, on in letters:
        theirs = [row for row in rows if row["on"] == on]
        versions = ", ".join(f"{name} {version}" for name, version in on["versions"].items())
        commits = ", ".join(sorted({row["commit"] for row in theirs}))
        made = f"**{letter}**: made" if len(letters) > 1 else "Made"
        lines.append(
            f"{made} by `make bench-peers` on {on['machine']}, {on['cores']} logical CPUs: {versions}; "
            f"commits {commits}. {len(theirs)} rows."
        )
    if len(letters) > 1:
        lines.append("Times of different letters are of different machines or versions: only ratios can be compared.")
    if any(row["quick"] for row in rows):
        lines.append("**Quick rows are among them: no figures.**")
    return "\n\n".join(lines)


def _letters(rows: Sequence[Row]) -> list[tuple[str, Mapping[str, Any]]]:
    """What rows were measured on, each under a letter, in the order of the rows."""
    found: list[Mapping[str, Any]] = []
    for row in rows:
        if row["on"] not in found:
            found.append(row["on"])
    return [(chr(ord("A") + number), on) for number, on in enumerate(found)]


def _goals(rows: Sequence[Row]) -> str:
    compared = [row["compared"][PLAN] for row in rows if PLAN in row["compared"]]
    if not compared:
        return ""
    worst = max(compared, key=lambda found: found["ratio"])
    over_bound = [
        row["strategies"][PLAN]["median_s"] / row["bound_s"]
        for row in rows
        if row["bound_s"] and PLAN in row["compared"]
    ]
    engines = [found for row in rows if (found := _best_engine(row)) is not None]
    lines = [
        "| goal | where it stands |",
        "|---|---|",
        f"| never more than 3 % slower than the best alternative | {sum(f['ratio'] > LOSES for f in compared)} of "
        f"{len(compared)} rows are; worst: {worst['ratio']:.2f} times the time of {worst['against']} |",
        f"| {_GOAL_ENGINE} times faster than the best single engine, geometric mean | {_geometric(engines)} |",
        f"| {_GOAL_SEQUENTIAL:g} times faster than sequential eager, geometric mean | "
        f"{_geometric([1 / found['sequential']['ratio'] for found in compared])} |",
        f"| within {format_percent(_GOAL_BOUND - 1)} of the bound | "
        f"{sum(over <= _GOAL_BOUND for over in over_bound)} of {len(over_bound)} rows are |",
    ]
    return "\n".join(lines)


def _best_engine(row: Row) -> float | None:
    """How many times faster the plan is than the best alternative in which one engine executes everything."""
    from esen_lab.run import PEERS

    times = [
        found["median_s"]
        for name, found in row["strategies"].items()
        if name in PEERS and found["median_s"] and found["agrees"]
    ]
    ours = row["strategies"][PLAN]["median_s"]
    return min(times) / ours if times and ours else None


def _geometric(values: Sequence[float]) -> str:
    return f"{math.exp(statistics.fmean(map(math.log, values))):.2f}" if values else "-"


def _ratio(found: Mapping[str, Any] | None) -> str:
    """A paired ratio with its interval."""
    if found is None:
        return "-"
    interval = f" ({found['low']:.2f} to {found['high']:.2f})" if found["low"] is not None else ""
    return f"{found['ratio']:.2f}{interval}"


def overview(rows: Sequence[Row]) -> str:
    """A line for each row: medians of the plans, of sequential running and of the best alternative; paired ratios."""
    letters = _letters(rows)
    lines = [
        "| ensemble | batch | sequential eager | plan, eager alone | plan | plan, bf16 | best alternative | "
        "plan / best (95 %) | plan / sequential (95 %) | plan / bound |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    if len(letters) > 1:
        lines = [lines[0] + " on |", lines[1] + "---|"]
    for row in rows:
        found = row["compared"].get(PLAN)
        best = "-" if found is None else f"{found['against']}, {_median(row, found['against'])}"
        bound = row["strategies"][PLAN]["median_s"] / row["bound_s"] if row["bound_s"] and found else None
        lines.append(
            f"| {row['ensemble']} | {row['batch']} | {_median(row, SEQUENTIAL)} | {_median(row, EAGER)} | "
            f"{_median(row, PLAN)} | {_median(row, BF16)} | {best} | {_ratio(found)} | "
            f"{_ratio(found and found['sequential'])} | {'-' if bound is None else f'{bound:.2f}'} |"
            + "".join(f" {letter} |" for letter, on in letters if on == row["on"] and len(letters) > 1)
        )
    return "\n".join(lines)


def _median(row: Row, name: str) -> str:
    found = row["strategies"].get(name)
    return "-" if found is None else format_seconds(found["median_s"])


def where_we_lose(rows: Sequence[Row], words: Mapping[tuple[str, int], str]) -> str:
    """A line for each row whose plan is more than 3 % slower than the best alternative."""
    lines = []
    for row in rows:
        found = row["compared"].get(PLAN)
        if found is None or found["ratio"] <= LOSES:
            continue
        last = row["last_run"]
        seen = f"{format_seconds(last['overhead_s'])} of {format_seconds(last['jct_s'])} beyond the slowest lane"
        if row["predicted_s"]:
            seen += f"; predicted {format_seconds(row['predicted_s'])}"
        told = words.get((row["ensemble"], row["batch"]), "nobody has looked yet")
        lines.append(
            f"- **{row['ensemble']}, batch {row['batch']}**: {_ratio(found)} times the time of {found['against']}. "
            f"{told[0].upper()}{told[1:].rstrip('.')}. (One run: {seen}.)"
        )
    return "\n".join(lines) or "On no row is the plan more than 3 % slower than the best alternative."


def strategies(row: Row) -> str:
    """All strategies of one row."""
    lines = [
        f"### {row['ensemble']}, batch {row['batch']}",
        "",
        f"{', '.join(row['members'])}; {row['rounds']} rounds; profile and backends took {row['prepared_s']:.0f} s.",
        "",
        "| strategy | median | p99 | spread | answers | how |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in row["strategies"].items():
        how = found["setting"] or found["lanes"]
        if found["fallen_back"]:
            how += f"; eagerly: {', '.join(found['fallen_back'])}"
        cells = (
            f"**{name}**" if name in OURS else name,
            *(format_seconds(found[key]) for key in ("median_s", "p99_s", "spread_s")),
            found["outputs"],
            how,
        )
        lines.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    return "\n".join(lines)


def plot(rows: Sequence[Row], batch: int) -> str:
    """For each ensemble the plans and the best alternative, as parts of the time that sequential running takes."""
    bars = [(row["ensemble"], _parts(row)) for row in rows]
    line, left, gap = 14.0, 110.0, 10.0
    height = sum(line * len(parts) + gap for _, parts in bars) + 60
    drawing = Drawing(height, f"JCT relative to sequential eager running, batch {batch}")
    most = max([part for _, parts in bars for _, part, _ in parts] + [1.0])
    x = Axis(0, most, left, drawing.width - 190)
    top = 8.0
    for name, parts in bars:
        drawing.text(left - 6, top + line * len(parts) / 2 + 4, name, anchor="end")
        for label, part, fill in parts:
            drawing.rect(left, top + 1, x(part) - left, line - 3, fill=fill)
            drawing.text(x(part) + 5, top + line - 4, f"{part:.2f} {label}")
            top += line
        top += gap
    for tick in x.ticks(6):
        drawing.line(x(tick), 4, x(tick), top, stroke=FAINT)
        drawing.text(x(tick), top + 14, f"{tick:g}", anchor="middle")
    drawing.line(x(1.0), 4, x(1.0), top, dash="4 3")
    drawing.text(left, top + 32, f"JCT / JCT of sequential eager running, batch {batch}; shorter is better")
    return str(drawing.svg())


def _parts(row: Row) -> list[tuple[str, float, str]]:
    """(label, part of sequential running's time, colour) of what is drawn of a row."""
    known = row["strategies"]
    sequential_s = known[SEQUENTIAL]["median_s"]
    best = row["compared"].get(PLAN, {}).get("against")
    drawn = ((EAGER, PALETTE[6]), (PLAN, PALETTE[1]), (BF16, PALETTE[5]), (best, PALETTE[0]))
    return [
        (name, known[name]["median_s"] / sequential_s, fill)
        for name, fill in drawn
        if name in known and known[name]["median_s"] and known[name]["agrees"]
    ]
