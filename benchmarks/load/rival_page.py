"""What `bench_rivals.py` found, as tables between two marks of docs/load.md."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from load_generator import finite
from marked_page import Marks

from esen_lab.common.units import format_seconds
from esen_lab.load import LoadRow
from esen_lab.planner.rate.queue import latencies
from esen_lab.planner.rate.service import ServiceTimes

MARKS = Marks(name="rivals", title="Servers under the same load")
OURS = "esen_lab"
_GOAL_RATE, _GOAL_P99, _GOAL_ADDED_S = 1.3, 2.0, 0.0005
_APART = 1.03  # what is nearer is the scatter of measurements

Found = Mapping[str, Any]
"""The JSON file."""


def reasons(path: Path) -> dict[str, str]:
    """Why a way beats ours, by its name: lines of "way: words".

    Raises:
        SystemExit: A line is none.
    """
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found = {}
    for number, line in enumerate(lines, 1):
        name, colon, why = line.partition(":")
        if line.strip() and not line.startswith("#"):
            if not colon or not why.strip():
                raise SystemExit(f'{path}, line {number}: a line is "way: words"')
            found[name.strip()] = why.strip().rstrip(".")
    return found


def write_page(found: Found, page: Path, words: Mapping[str, str]) -> None:
    """Put the tables between the marks of the page."""
    MARKS.write(page, text_of(found, words))


def text_of(found: Found, words: Mapping[str, str]) -> str:
    """As it stands on the page: Markdown."""
    if not found["measured"]:
        return "Nothing was measured.\n\n" + _left_out(found)
    return "\n\n".join([_origin(found), _ways(found), _rates(found), _goals(found), _lost(found, words)])


def _origin(found: Found) -> str:
    asked, measured = found["asked"], found["measured"]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(found["versions"].items()))
    commits = ", ".join(sorted({one["commit"] for one in measured}))
    dates = " to ".join(
        sorted({one["date"] for one in measured})[:: max(1, len({one["date"] for one in measured}) - 1)]
    )
    load = [one for each in measured for one in each["load"]]
    jct = "" if found["jct_s"] is None else f", and `lab.run` takes {format_seconds(found['jct_s'])}"
    return (
        f"{dates}, {found['machine']}, {found['cores']} logical CPUs, load average {min(load):.1f} to {max(load):.1f} "
        f"(the benchmark's own included), commit {commits}: {versions}. Requests of one row, open loop, "
        f"{asked['rounds']} times {asked['seconds']:g} s at each rate, medians of the rounds; within "
        f"{format_seconds(asked['p99_s'])} is in time. Without a server one process answers "
        f"{asked['base_per_s']:.0f} a second{jct}. The answers of all servers are those of the networks, within "
        f"{max(one['difference'] for one in measured):.0e}."
    )


def _ways(found: Found) -> str:
    limit = format_seconds(found["asked"]["p99_s"])
    lines = [f"| way | one at a time, median | highest rate with p99 within {limit} | how |", "|---|---|---|---|"]
    for name in _names(found):
        rounds = _rounds(found, name)
        held = _held(found, name)
        alone = format_seconds(statistics.median(one["alone_s"] for one in rounds))
        how = rounds[-1]["setting"].replace("|", "&#124;")
        if name in found["chosen"]:
            how += f" (the best of {len(found['chosen'][name]['tried'])} that were tried)"
        lines.append(f"| {name} | {alone} | {f'{held:.0f}/s' if held else 'none'} | {how} |")
    return "\n".join([*lines, *_left_out(found).splitlines()])


def _left_out(found: Found) -> str:
    return "\n".join(f"| {name} | - | - | {why.replace('|', '&#124;')} |" for name, why in found["missing"].items())


def _rates(found: Found) -> str:
    names = _names(found)
    lines = ["p50 / p99 / in time a second:", "", f"| rate | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for rate in sorted({row["rate_per_s"] for one in found["measured"] for row in one["rows"]}):
        rows = [_row(found, name, rate) for name in names]
        lines.append(f"| {rate:.0f}/s | {' | '.join('-' if row is None else cell(row) for row in rows)} |")
    return "\n".join(lines)


def _goals(found: Found) -> str:
    if OURS not in _names(found):
        return "Ours was not measured."
    held = _held(found, OURS)
    most = max((_held(found, name) for name in _names(found) if name != OURS), default=0.0)
    alone_s = statistics.median(one["alone_s"] for one in _rounds(found, OURS))
    rates = [row["rate_per_s"] for row in _rounds(found, OURS)[0]["rows"] if row["rate_per_s"] <= 0.6 * held]
    near = _row(found, OURS, max(rates)) if rates else None
    p99 = "-" if near is None else f"{near.p99_s / alone_s:.1f} times, at {near.rate_per_s:.0f}/s"
    least = _least(found, near.rate_per_s) if near is not None else "-"
    added = "-" if found["jct_s"] is None else format_seconds(max(alone_s - found["jct_s"], 0.0))
    lines = [
        "| goal | here |",
        "|---|---|",
        f"| the highest rate is {_GOAL_RATE} times that of the best other | "
        f"{f'{held / most:.2f} times' if most else '-'} |",
        f"| p99 at no more than 60 % of it is at most {_GOAL_P99:g} times a request alone | {p99} |",
        f"| the same of a server that takes no time itself, by the queue model | {least} |",
        f"| the server and a client add at most {format_seconds(_GOAL_ADDED_S)} to a run | {added} |",
    ]
    return "\n".join(lines)


def _least(found: Found, rate_per_s: float) -> str:
    """The 99th percentile that is left where nothing but the plan's own runs takes time, beside one of them alone."""
    samples_s = {int(rows): tuple(values) for rows, values in found.get("batches_s", {}).items()}
    if not samples_s:
        return "-"
    service = ServiceTimes.of(samples_s)
    p99_s = min(latencies(service, rate_per_s, most).p99_s for most in samples_s)
    return f"{p99_s / statistics.median(samples_s[1]):.1f} times"


def _lost(found: Found, words: Mapping[str, str]) -> str:
    """Where another way is better, and why, in the words of whoever looked."""
    lines = []
    for name in _names(found):
        lost = _lost_to(found, name) if name != OURS and OURS in _names(found) else []
        if lost:
            lines.append(f"- **{name}**: {'; '.join(lost)}. {words.get(name, 'Nobody has looked into it yet')}.")
    if not lines:
        return "No other way has the lower p50 or p99 at any rate, or the higher rate within the limit."
    return "\n".join(["Where ours loses, by more than 3 %:", "", *lines])


def _lost_to(found: Found, name: str) -> list[str]:
    lost = []
    rates = [row["rate_per_s"] for row in _rounds(found, OURS)[0]["rows"]]
    for what in ("p50", "p99"):
        at = []
        for rate in rates:
            own, other = _row(found, OURS, rate), _row(found, name, rate)
            if own and other and getattr(other, f"{what}_s") * _APART < getattr(own, f"{what}_s"):
                at.append(f"{rate:.0f}/s")
        if at:
            lost.append(f"the lower {what} at {', '.join(at)}")
    if _held(found, name) > _APART * _held(found, OURS):
        lost.append("the higher rate within the limit")
    return lost


def _names(found: Found) -> list[str]:
    """Those that were measured, as they come in the table."""
    return list(dict.fromkeys(one["name"] for one in sorted(found["measured"], key=lambda one: one["round"])))


def _rounds(found: Found, name: str) -> list[Mapping[str, Any]]:
    return [one for one in found["measured"] if one["name"] == name]


def _held(found: Found, name: str) -> float:
    return statistics.median(one["held_per_s"] for one in _rounds(found, name))


def _row(found: Found, name: str, rate_per_s: float) -> LoadRow | None:
    """All rounds of a way at a rate as one row: medians."""
    rows = [
        LoadRow(**finite(row)) for one in _rounds(found, name) for row in one["rows"] if row["rate_per_s"] == rate_per_s
    ]
    if not rows:
        return None
    middle = {
        what: statistics.median(getattr(row, what) for row in rows)
        for what in ("p50_s", "p90_s", "p95_s", "p99_s", "goodput_per_s")
    }
    return LoadRow(
        name=name,
        rate_per_s=rate_per_s,
        requests=sum(row.requests for row in rows),
        unanswered=sum(row.unanswered for row in rows),
        late=sum(row.late for row in rows),
        **middle,
    )


def cell(row: LoadRow) -> str:
    """Its p50, its p99, and how many requests a second were answered in time."""
    p50, p99 = ("never" if math.isinf(s) else format_seconds(s) for s in (row.p50_s, row.p99_s))
    return f"{p50} / {p99} / {row.goodput_per_s:.0f}"
