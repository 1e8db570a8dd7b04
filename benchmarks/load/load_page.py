"""What `bench_rivals.py` came to: as a file of JSON, and as tables between two marks of docs/load.md."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from esen_lab.common.units import format_seconds
from esen_lab.load import LoadRow

BEGIN, END = "<!-- rivals: begin -->", "<!-- rivals: end -->"
OURS = "esen_lab"
_GOAL_RATE, _GOAL_P99, _GOAL_ADDED_S = 1.3, 2.0, 0.0005


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All of one measurement.

    Attributes:
        rows: A row for each way and rate.
        settings: For each way what it was told.
        versions: Of what served.
        missing: Ways that did not serve, and why.
        alone_s: For each way the median latency of requests one after another.
        jct_s: That of `lab.run` with the same plan, without a server.
        base_per_s: What one process answers by the members one after another, without a server.
        p99_s: The limit on the 99th percentile.
        seconds: For how long requests were due, at each rate.
        machine: Where.
        load: The load average before and after.
        date: When.
    """

    rows: tuple[LoadRow, ...]
    settings: Mapping[str, str]
    versions: Mapping[str, str]
    missing: Mapping[str, str]
    alone_s: Mapping[str, float]
    jct_s: float
    base_per_s: float
    p99_s: float
    seconds: float
    machine: str
    load: tuple[float, float]
    date: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data; None for a percentile that was never reached."""
        data = asdict(self)
        for row in data["rows"]:
            row.update({key: None for key, value in row.items() if value == math.inf})
        return data

    @classmethod
    def read(cls, path: Path) -> Report:
        """What was written before."""
        data = json.loads(path.read_text(encoding="utf-8"))
        never = ("p50_s", "p90_s", "p95_s", "p99_s")
        rows = [
            LoadRow(**{key: math.inf if value is None and key in never else value for key, value in row.items()})
            for row in data["rows"]
        ]
        return cls(**{**data, "rows": tuple(rows), "load": tuple(data["load"])})

    def held_per_s(self, name: str) -> float:
        """The highest rate that a way was sent and held: all answered, 99 % of them within the limit; 0.0 for none."""
        fine = [row.rate_per_s for row in self.rows if row.name == name and row.p99_s <= self.p99_s]
        return max(fine, default=0.0)

    def text(self, words: Mapping[str, str]) -> str:
        """As it stands on the page: Markdown."""
        versions = ", ".join(f"{name} {version}" for name, version in sorted(self.versions.items()))
        origin = (
            f"{self.date}, {self.machine}, load average {self.load[0]:.1f} before and {self.load[1]:.1f} after (the "
            f"benchmark's own included): {versions}. Requests of one row, open loop, for {self.seconds:.0f} s at each "
            f"rate; within {format_seconds(self.p99_s)} is in time. Without a server one process answers "
            f"{self.base_per_s:.0f} a second, and `lab.run` takes {format_seconds(self.jct_s)}."
        )
        return "\n\n".join([origin, self._ways(), self._table(), self._goals(), self._lost(words)])

    def _ways(self) -> str:
        lines = ["| way | one at a time, median | highest rate held | how |", "|---|---|---|---|"]
        for name, setting in self.settings.items():
            if name in self.missing:
                lines.append(f"| {name} | - | - | {self.missing[name]} |")
                continue
            held = self.held_per_s(name)
            alone = format_seconds(self.alone_s.get(name))
            lines.append(f"| {name} | {alone} | {f'{held:.0f}/s' if held else 'none'} | {setting} |")
        return "\n".join(lines)

    def _table(self) -> str:
        names = [name for name in self.settings if name not in self.missing]
        lines = [
            "p50 / p99 / in time a second:",
            "",
            f"| rate | {' | '.join(names)} |",
            f"|---|{'---|' * len(names)}",
        ]
        for rate in sorted({row.rate_per_s for row in self.rows}):
            cells = []
            for name in names:
                row = next((one for one in self.rows if (one.name, one.rate_per_s) == (name, rate)), None)
                cells.append("-" if row is None else _cell(row))
            lines.append(f"| {rate:.0f}/s | {' | '.join(cells)} |")
        return "\n".join(lines)

    def _goals(self) -> str:
        held = self.held_per_s(OURS)
        others = [self.held_per_s(name) for name in self.settings if name not in self.missing and name != OURS]
        most = max(others, default=0.0)
        at = [row for row in self.rows if row.name == OURS and held and row.rate_per_s <= 0.6 * held]
        near = max(at, key=lambda row: row.rate_per_s, default=None)
        alone_s = self.alone_s.get(OURS)
        p99 = (
            "-" if near is None or alone_s is None else f"{near.p99_s / alone_s:.1f} times, at {near.rate_per_s:.0f}/s"
        )
        added = "-" if alone_s is None else format_seconds(max(alone_s - self.jct_s, 0.0))
        lines = [
            "| goal | here |",
            "|---|---|",
            f"| the highest rate held is {_GOAL_RATE} times that of the best other | "
            f"{f'{held / most:.2f}' if most else '-'} times |",
            f"| p99 at 60 % of it is at most {_GOAL_P99:g} times a request alone | {p99} |",
            f"| the server and a client add at most {format_seconds(_GOAL_ADDED_S)} to a run | {added} |",
        ]
        return "\n".join(lines)

    def _lost(self, words: Mapping[str, str]) -> str:
        lines = []
        for name in self.settings:
            if name in self.missing or name == OURS:
                continue
            lost = [
                f"{row.rate_per_s:.0f}/s"
                for row in self.rows
                if row.name == name and any(_is_ours(own, row) and row.p99_s < own.p99_s for own in self.rows)
            ]
            if lost:
                lines.append(
                    f"- **{name}** has the lower p99 at {', '.join(lost)}: {words.get(name, 'not looked into')}."
                )
        return "\n".join(["Where we lose:", "", *lines]) if lines else "At no rate has another way the lower p99."


def _is_ours(own: LoadRow, row: LoadRow) -> bool:
    return own.name == OURS and own.rate_per_s == row.rate_per_s


def _cell(row: LoadRow) -> str:
    p50, p99 = ("never" if math.isinf(s) else format_seconds(s) for s in (row.p50_s, row.p99_s))
    return f"{p50} / {p99} / {row.goodput_per_s:.0f}"


def write_page(report: Report, page: Path, words: Mapping[str, str]) -> None:
    """Put the tables between the marks of the page.

    Raises:
        SystemExit: The page has no marks.
    """
    text = page.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise SystemExit(f"{page} has no marks to put the tables between: {BEGIN} and {END}")
    before, _, rest = text.partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{report.text(words)}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
