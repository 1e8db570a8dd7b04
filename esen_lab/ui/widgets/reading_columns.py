"""Readings as plain columns for plots: from a sampler's samples and the marks of a lab. No widget, no bokeh."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from esen_lab.common.units import format_bytes
from esen_lab.terminal import visible_line
from esen_lab.ui.colours import COLOURS, NEUTRAL, stroke

TITLES = {
    "utilization": "Utilization (%)",
    "nodes": "Utilization of nodes (%)",
    "lanes": "CPU per lane (%, 100 is one core)",
    "memory": "Memory (GB)",
    "bandwidth": "Memory bandwidth (%)",
    "power": "Power (W)",
    "requests": "Requests (a second)",
    "queue": "Requests that wait",
    "batches": "Rows of a batch",
    "batches_run": "Batches (a second)",
}
"""Group -> the heading of its plot."""

OF_A_HUNDRED = frozenset({"utilization", "nodes"})
"""Groups whose axis is always 0 to 100."""
Members: TypeAlias = Sequence[Sequence[str]]
"""What each lane of the plan in force runs."""
_LANE = re.compile(r"lane (\d+)(?!\d)")
_MOST_LETTERS = 22  # of a lane's members in a legend: it stands beside the plot


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Samples column by column.

    Attributes:
        channels: (key, label, unit, group) of each channel; bytes have become GB.
        keys: Their keys.
        strokes: The colour of each one's line, by key: of a lane that of its first member, as in every picture.
        first: The number of the first sample in the columns.
        number: That of the last; `first - 1` when there are none.
        columns: "t" in milliseconds since the epoch, then one per channel; None where there is no reading.
        marks: "t" and "what".
        marks_to: How many marks there have been.
        said: What a reader must know, such as readings that the device does not give.
    """

    channels: tuple[tuple[str, str, str, str], ...]
    keys: tuple[str, ...]
    strokes: Mapping[str, str]
    first: int
    number: int
    columns: dict[str, list[float | None]]
    marks: dict[str, list[Any]]
    marks_to: int
    said: str

    @property
    def layout(self) -> tuple[object, ...]:
        """What plots are laid out by: when it changes, they are anew."""
        return self.channels, tuple(self.strokes.values())


class PlotReadings:
    """A sampler's samples with a lab's marks.

    Args:
        sampler: The lab's `Sampler`.
        marks: The lab's `MarkLog`.
        members: Says what each lane runs.
    """

    def __init__(self, sampler: Any, marks: Any, members: Callable[[], Members] = tuple) -> None:
        self._sampler = sampler
        self._marks = marks
        self._members = members

    @classmethod
    def of(cls, lab: Any, sampler: Any) -> PlotReadings:
        """Those of a lab."""
        return cls(sampler, lab.readings.marks, lambda: members_in(lab))

    @property
    def interval_s(self) -> float:
        """Seconds between samples."""
        return float(self._sampler.interval_s)

    @property
    def most(self) -> int:
        """How many samples are kept."""
        return max(2, int(self._sampler.history_s / self._sampler.interval_s))

    @property
    def number(self) -> int:
        """The newest sample's number."""
        last = self._sampler.last
        return 0 if last is None else int(last.number)

    def wait(self, after: int, timeout_s: float) -> bool:
        """Wait for a sample beyond `after`."""
        return bool(self._sampler.wait(after, timeout_s))

    def whole(self) -> Columns:
        """Everything that is kept."""
        return self.after(0, 0)

    def after(self, number: int, marks: int) -> Columns:
        """The samples beyond `number`, and the marks beyond the first `marks`."""
        samples = self._sampler.samples(after=max(0, number))
        channels = self._sampler.channels
        last = self._sampler.last
        keys = tuple(channel.key for channel in channels)
        columns: dict[str, list[float | None]] = {"t": [round(sample.at_s * 1000) for sample in samples]}
        for channel in channels:
            scale = 1e-9 if channel.unit == "B" else 1.0
            columns[channel.key] = [_short(sample.values.get(channel.key), scale) for sample in samples]
        marks_to, fresh = self._marks.since(marks)
        texts = [mark_text(mark.what, mark.phase) for mark in fresh]
        newest = samples[-1].number if samples else self.number
        members = self._members()
        return Columns(
            channels=tuple(
                (c.key, plot_text(label_of(c, members)), "GB" if c.unit == "B" else c.unit, plot_text(c.group))
                for c in channels
            ),
            keys=keys,
            strokes=strokes_of(channels, members),
            first=samples[0].number if samples else newest + 1,
            number=newest,
            columns=columns,
            marks={"t": [round(mark.at_s * 1000) for mark in fresh], "what": texts},
            marks_to=marks_to,
            said=said_of(channels, last, self._sampler.problem),
        )


def members_in(lab: Any) -> Members:
    """What the lanes of the plan in force run."""
    return [] if lab.plan is None else [lane.members for lane in lab.plan.lanes]


def label_of(channel: Any, members: Members) -> str:
    """A channel's label, with what runs in the lane that it is of."""
    own = " + ".join(_run_in(channel, members))
    short = own if len(own) <= _MOST_LETTERS else own[: _MOST_LETTERS - 1] + "…"
    return _LANE.sub(lambda lane: f"{lane[0]} ({short})", channel.label, count=1) if own else str(channel.label)


def strokes_of(channels: Sequence[Any], members: Members) -> dict[str, str]:
    """The colour of each channel's line, by key: a lane's is that of the sub-model that it runs first."""
    found: dict[str, str] = {}
    plain: dict[str, int] = {}
    for channel in channels:
        own = _run_in(channel, members)
        number = plain.get(channel.group, 0)
        found[channel.key] = stroke(COLOURS.of(own[0])) if own else NEUTRAL[number % len(NEUTRAL)]
        plain[channel.group] = number + (not own)
    return found


def _run_in(channel: Any, members: Members) -> Sequence[str]:
    lane = _LANE.match(channel.label)
    number = int(lane[1]) if lane else 0
    return members[number - 1] if 0 < number <= len(members) else ()


def _short(value: float | None, scale: float) -> float | None:
    """Four digits: a plot shows no more, and messages stay small."""
    return None if value is None else float(f"{value * scale:.4g}")


def mark_text(what: str, phase: str) -> str:
    """Such as "profile begins"."""
    return plot_text({"begin": f"{what} begins", "end": f"{what} ends"}.get(phase, what))


def plot_text(text: str) -> str:
    """Text as BokehJS shows it and nothing more: it would typeset what stands between the signs of TeX."""
    return re.sub(r"\$(?=\$)|\\(?=[()\[\]])", lambda sign: f"{sign[0]} ", visible_line(text))


def said_of(channels: Sequence[Any], last: Any, problem: str) -> str:
    """Which readings are missing and why, or ""."""
    if problem:
        return visible_line(f"Readings fail at present: {problem}")
    if last is None:
        return "Waiting for the first reading."
    labels = {channel.key: channel.label for channel in channels}
    by_reason: dict[str, list[str]] = {}
    for key, reason in last.reasons.items():
        by_reason.setdefault(reason, []).append(labels.get(key, key))
    return " ".join(f"No {', '.join(names)}: {reason}." for reason, names in by_reason.items())


def reading_text(value: float, unit: str) -> str:
    """A reading for people."""
    if unit == "B":
        return format_bytes(int(value))
    return f"{value:.1f} {unit}" if unit in ("/s", "rows") else f"{value:.0f} {unit}"
