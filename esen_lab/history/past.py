"""Entries of one project in their order, and what changed on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from esen_lab.common.display import Shown
from esen_lab.common.records import to_frame
from esen_lab.common.units import format_seconds, format_table
from esen_lab.errors import UsageError
from esen_lab.history.changes import changed
from esen_lab.history.entry import Entry, EntryKind

_MOST_RUNS = 20
_ALIKE = "these sub-models, batch and device"


@dataclass(frozen=True, slots=True, kw_only=True)
class Past(Shown):
    """The entries of a project that are listed, and what is to be said of them among all of it.

    Attributes:
        project: Its name.
        entries: Those that are listed, oldest first.
        unlisted: The others of the project, oldest first.
        others: The other projects, each with how many entries it has.
        notes: What the reader should know.
    """

    project: str
    entries: tuple[Entry, ...]
    unlisted: tuple[Entry, ...] = ()
    others: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def entry(self, number: int) -> Entry:
        """The entry of that number.

        Raises:
            UsageError: There is none.
        """
        known = self.all
        for entry in known:
            if entry.number == number:
                return entry
        numbers = _ranges([entry.number for entry in known])
        raise UsageError(
            "An entry of the history is named by its number",
            given=number,
            hint=f"Numbers of this project: {numbers}."
            if numbers
            else "This project has none yet: profile, search or compare first.",
        )

    @property
    def all(self) -> tuple[Entry, ...]:
        """All entries of the project, oldest first, whether listed or not."""
        return tuple(sorted((*self.entries, *self.unlisted), key=lambda entry: entry.number))

    @property
    def measured(self) -> tuple[Entry, ...]:
        """Those listed that were run, oldest first."""
        return tuple(entry for entry in self.entries if entry.jct_s is not None)

    @property
    def last(self) -> Entry | None:
        """The last of the project that was run, whether listed or not."""
        return next((entry for entry in reversed(self.all) if entry.jct_s is not None), None)

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
        for entry in self.all:
            if entry.kind is EntryKind.PROFILE:
                continue
            if before is not None:
                found[entry.number] = changed(before, entry)
            before = entry
        return found

    @property
    def best(self) -> Entry | None:
        """The fastest of the project's that were run with the sub-models, the batch and the device of the last one."""
        ran, last = [entry for entry in self.all if entry.jct_s is not None], self.last
        alike = [entry for entry in ran if last and _alike(entry) == _alike(last)]
        return min(alike, key=lambda entry: entry.jct_s or 0.0, default=None)

    @property
    def verdict(self) -> str:
        """Whether it is getting better, in words; "" where nothing was run."""
        best, last = self.best, self.last
        if best is None or best.jct_s is None or last is None or last.jct_s is None:
            return ""
        if best is last:
            return f"The last measured JCT, {format_seconds(last.jct_s)}, is the best of {_ALIKE}."
        if best.high_s is not None and last.low_s is not None and last.low_s <= best.high_s:
            return f"The last measured JCT is as good as the best of {_ALIKE}, number {best.number}."
        return (
            f"The best of {_ALIKE} is number {best.number}: {format_seconds(best.jct_s)}, "
            f"against {format_seconds(last.jct_s)} now."
        )

    @property
    def simulated(self) -> str:
        """That some of those listed are of a simulated device, a sentence that names them; "" where none is."""
        numbers = [entry.number for entry in self.entries if entry.device.get("simulated")]
        what = "number" if len(numbers) == 1 else "numbers"
        return f"Simulated, and not measured: {what} {_ranges(numbers)}." if numbers else ""

    @property
    def size(self) -> str:
        """How many are listed, in words, and of how many where that is not all."""
        count = len(self.all)
        whole = "1 entry" if count == 1 else f"{count} entries"
        return f"{len(self.entries)} of {whole}" if self.unlisted else whole

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "project": self.project,
            "entries": [entry.to_dict() for entry in self.entries],
            "kept": len(self.all),
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
        rows = [(str(e.number), e.when, str(e.kind), e.jct_text, e.searcher, e.what[:60]) for e in self.entries]
        table = format_table(("number", "when (UTC)", "kind", "JCT median", "found by", "what"), rows)
        return "\n".join(
            filter(None, [f"History of {self.project}: {self.size}", table, self.verdict, self.simulated, *self.notes])
        )


def _alike(entry: Entry) -> tuple[Any, ...]:
    """What two entries have in common whose times can be compared: others are faster for having less to do."""
    return entry.batch, entry.device, entry.members.keys()


def _ranges(numbers: Sequence[int]) -> str:
    """Rising numbers, for people: "1 to 4, 6, 9 to 12"; of very many with gaps the last ones."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    told = [", ".join(map(str, dict.fromkeys(run))) if run[1] - run[0] < 2 else f"{run[0]} to {run[1]}" for run in runs]
    return ", ".join([*(["..."] if len(told) > _MOST_RUNS else []), *told[-_MOST_RUNS:]])
