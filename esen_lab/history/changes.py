"""What differs between two entries: who ran, on what, how, and how fast."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from esen_lab.common.display import Shown
from esen_lab.common.records import to_dict
from esen_lab.common.units import format_change, format_percent, format_seconds, format_table, with_marks
from esen_lab.history.entry import Entry

SAME = "="


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One thing of two entries: what it is, what it was before and after, and whether that differs."""

    what: str
    before: str
    after: str
    differs: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes(Shown):
    """Two entries side by side.

    Attributes:
        before: The one.
        after: The other.
        rows: Everything that both or one of them says, what differs first.
        verdict: Which one is faster, and whether that can be told, in words; "" where one of them was not run.
    """

    before: Entry
    after: Entry
    rows: tuple[Change, ...]
    verdict: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        rows = [to_dict(row) for row in self.rows]
        return {"before": self.before.to_dict(), "after": self.after.to_dict(), "rows": rows, "verdict": self.verdict}

    def __str__(self) -> str:
        """A table, and the verdict."""
        rows = [(row.what, row.before, row.after if row.differs else SAME) for row in self.rows]
        table = format_table(("", str(self.before.number), str(self.after.number)), rows)
        return "\n".join(filter(None, [table, self.verdict]))


def changes(before: Entry, after: Entry) -> Changes:
    """Everything of two entries, side by side."""
    rows = [
        Change(what=what, before=old, after=new, differs=old != new)
        for what, old, new in _rows(before, after)
        if old or new
    ]
    rows.sort(key=lambda row: not row.differs)
    return Changes(before=before, after=after, rows=tuple(rows), verdict=_verdict(before, after))


def changed(before: Entry, after: Entry) -> tuple[str, ...]:
    """What changed from one entry to another besides times and weights, a few words each: "+deep", "code of wide"."""
    found = [f"+{name}" for name in after.members if name not in before.members]
    found += [f"-{name}" for name in before.members if name not in after.members]
    found += [f"code of {name}" for name in _in_both(before, after) if _code(before, name) != _code(after, name)]
    if before.device != after.device:
        found.append("device")
    # Engines that one of the plans does not use are no change of the machine.
    both = before.versions.keys() & after.versions.keys()
    found += [
        f"{name} {after.versions[name]}" for name in sorted(both) if before.versions[name] != after.versions[name]
    ]
    if before.batch and after.batch and before.batch != after.batch:
        found.append("batch")
    if before.combine != after.combine:
        found.append("combine rule")
    if before.plan is not None and after.plan is not None and before.plan.lanes != after.plan.lanes:
        found.append("plan")
    return tuple(found)


def _in_both(before: Entry, after: Entry) -> list[str]:
    return [name for name in after.members if name in before.members]


def _code(entry: Entry, name: str) -> str:
    member = entry.members[name]
    return member.code or member.fingerprint


def _rows(before: Entry, after: Entry) -> Iterator[tuple[str, str, str]]:
    """(what, before, after); "" where one of them does not say."""
    for what, say in _SAID.items():
        yield what, say(before), say(after)
    for name in dict.fromkeys((*before.members, *after.members)):
        yield f"sub-model {name}", *_members(before, after, name)
    for name in dict.fromkeys((*before.versions, *after.versions)):
        yield name, before.versions.get(name, ""), after.versions.get(name, "")
    for row in dict.fromkeys((*before.latency_s, *after.latency_s)):
        old, new = before.latency_s.get(row, {}), after.latency_s.get(row, {})
        for units in sorted({*old, *new}):
            yield f"{row} at {units}", _seconds(old.get(units)), _seconds(new.get(units))


def _members(before: Entry, after: Entry, name: str) -> tuple[str, str]:
    """A sub-model before and after: the part of its fingerprint that says what changed of it."""
    old, new = before.members.get(name), after.members.get(name)
    if old is None or new is None:
        return tuple("" if member is None else "there" for member in (old, new))  # type: ignore[return-value]
    if old == new:
        return "there", "there"
    if _code(before, name) != _code(after, name):
        return f"code {_code(before, name)[:8]}", f"code {_code(after, name)[:8]}"
    return f"weights {old.fingerprint[:12]}", f"weights {new.fingerprint[:12]}"


def _device(entry: Entry) -> str:
    units = entry.device.get("units")
    return with_marks(entry.device_name, str(entry.device.get("kind", "")), "" if units is None else f"{units} units")


def _other(entry: Entry) -> str:
    other = entry.best_other
    return "" if other is None else f"{other.name} {format_seconds(other.median_s)}"


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else format_seconds(seconds)


_SAID: Mapping[str, Callable[[Entry], str]] = {
    "when": lambda entry: entry.at,
    "kind": lambda entry: str(entry.kind),
    "JCT median": lambda entry: entry.jct_text,
    "runs": lambda entry: str(entry.runs or ""),
    "predicted": lambda entry: _seconds(entry.predicted_s),
    "proven bound": lambda entry: _seconds(entry.bound_s),
    "fastest other": _other,
    "found by": lambda entry: entry.searcher,
    "lanes": lambda entry: "" if entry.plan is None else entry.plan.describe(),
    "combine rule": lambda entry: entry.combine,
    "batch": lambda entry: entry.batch,
    "device": _device,
    "load by other programs": lambda entry: "" if entry.load is None else format_percent(entry.load),
}
"""What entries are compared by, and what each says of it; "" where it does not."""


def _verdict(before: Entry, after: Entry) -> str:
    """Which one is faster, as far as the intervals of their medians tell."""
    if before.jct_s is None or after.jct_s is None:
        return ""
    said = f"{after.number} is {format_change(after.jct_s / before.jct_s)} than {before.number}"
    bounds = (before.low_s, before.high_s, after.low_s, after.high_s)
    if None in bounds:
        said += ", but there were too few runs to say how sure that is"
    elif before.low_s <= after.high_s and after.low_s <= before.high_s:  # type: ignore[operator]
        said = (
            f"{after.number} and {before.number} cannot be told apart: their medians' intervals overlap "
            f"({format_change(after.jct_s / before.jct_s)})"
        )
    if before.batch != after.batch or before.device != after.device:
        said += "; they are of another batch or device, so this says nothing of the plan"
    elif before.members.keys() != after.members.keys():
        said += "; they are of other sub-models, so this says nothing of the plan"
    return said + "."
