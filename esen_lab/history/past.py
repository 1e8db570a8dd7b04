"""Entries of one project in their order, and what changed on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from esen_lab.common.display import Shown
from esen_lab.common.tables import to_frame
from esen_lab.common.units import format_seconds, format_table
from esen_lab.errors import UsageError
from esen_lab.history.changes import changed
from esen_lab.history.entry import Entry, EntryKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Past(Shown):
    """Some entries of a project.

    Attributes:
        project: Its name.
        entries: Oldest first.
        others: The other projects, each with how many entries it has.
        notes: What the reader should know.
    """

    project: str
    entries: tuple[Entry, ...]
    others: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def entry(self, number: int) -> Entry:
        """The entry of that number.

        Raises:
            UsageError: There is none.
        """
        for entry in self.entries:
            if entry.number == number:
                return entry
        numbers = ", ".join(str(entry.number) for entry in self.entries[-20:])
        known = f"Numbers of this project: {numbers}."
        raise UsageError(
            "An entry of the history is named by its number",
            given=number,
            hint=known if numbers else "This project has none yet: profile, search or compare first.",
        )

    @property
    def measured(self) -> tuple[Entry, ...]:
        """Those that were run, oldest first."""
        return tuple(entry for entry in self.entries if entry.jct_s is not None)

    @property
    def marks(self) -> tuple[tuple[int, tuple[str, ...]], ...]:
        """(place among `measured`, what changed since the one before), where something did."""
        ran = self.measured
        found = [(place, changed(ran[place - 1], ran[place])) for place in range(1, len(ran))]
        return tuple((place, words) for place, words in found if words)

    @property
    def changed(self) -> dict[int, tuple[str, ...]]:
        """What changed at an entry since the last one that says something of the same, by number."""
        found: dict[int, tuple[str, ...]] = {}
        before: Entry | None = None
        for entry in self.entries:
            if entry.kind is EntryKind.PROFILE:
                continue
            if before is not None:
                found[entry.number] = changed(before, entry)
            before = entry
        return found

    @property
    def best(self) -> Entry | None:
        """The fastest of those that were run on the batch and the device of the last one."""
        ran = self.measured
        alike = [entry for entry in ran if (entry.batch, entry.device) == (ran[-1].batch, ran[-1].device)]
        return min(alike, key=lambda entry: entry.jct_s or 0.0, default=None)

    @property
    def verdict(self) -> str:
        """Whether it is getting better, in words; "" where nothing was run."""
        best = self.best
        if best is None or best.jct_s is None:
            return ""
        last = self.measured[-1]
        if best is last or last.jct_s is None:
            return f"The last measured JCT, {format_seconds(last.jct_s)}, is the best of this batch and device."
        if best.high_s is not None and last.low_s is not None and last.low_s <= best.high_s:
            return f"The last measured JCT is as good as the best of this batch and device, number {best.number}."
        return (
            f"The best of this batch and device is number {best.number}: {format_seconds(best.jct_s)}, "
            f"against {format_seconds(last.jct_s)} now."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "project": self.project,
            "entries": [entry.to_dict() for entry in self.entries],
            "others": dict(self.others),
            "notes": list(self.notes),
        }

    def to_frame(self) -> Any:
        """A pandas table with a row per entry; times in seconds.

        Raises:
            UsageError: pandas is not installed.
        """
        kept = ("number", "at", "kind", "jct_s", "low_s", "high_s", "runs", "load", "batch")
        told = ("device_name", "predicted_s", "bound_s", "searcher", "what")
        return to_frame(
            [
                {**{k: entry.to_dict()[k] for k in kept}, **{k: getattr(entry, k) for k in told}}
                for entry in self.entries
            ]
        )

    def __str__(self) -> str:
        """A table, and the verdict."""
        rows = [(str(e.number), when(e.at), str(e.kind), e.jct_text, e.searcher, e.what[:60]) for e in self.entries]
        table = format_table(("number", "when", "kind", "JCT median", "found by", "what"), rows)
        return "\n".join(filter(None, [f"History of {self.project}", table, self.verdict, *self.notes]))


def when(at: str) -> str:
    """A time of the file for people: "2026-11-29 02:10" (UTC)."""
    return at[:16].replace("T", " ")
