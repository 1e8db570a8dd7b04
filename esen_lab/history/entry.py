"""One comparison, plan, profile or series of runs, as the history keeps it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Annotated, Any

from msgspec import Meta

from esen_lab.common.display import Shown
from esen_lab.common.records import to_dict
from esen_lab.common.units import format_seconds, format_units
from esen_lab.errors import EsenError
from esen_lab.files import MOST_SUBMODELS, Name, Seconds, Text, Units, converted, decode_json
from esen_lab.files.schemas import Count, Fraction, Latency, plain
from esen_lab.planner.plan import Plan

MOST_TEXT = 200_000
"""Characters of an entry in the file; what is longer is kept without the latencies of its profile."""
_Few = Meta(max_length=MOST_SUBMODELS)
_Label = Annotated[str, Meta(min_length=1, max_length=200)]
_Curve = Annotated[Mapping[Units, Latency], Meta(max_length=5000)]


class EntryKind(StrEnum):
    """What an entry is of."""

    COMPARISON = "comparison"
    PLAN = "plan"  # one that was put in force
    PROFILE = "profile"
    RUNS = "runs"  # all runs of one plan with inputs of one shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """What a sub-model was: fingerprints with and without the values of its tensors."""

    fingerprint: Text
    code: Text = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """One row of a comparison; `median_s` is None where it could not run."""

    name: _Label
    median_s: Latency | None = None
    spread_s: Seconds | None = None
    agrees: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Shown):
    """One thing that was found out or decided.

    Attributes:
        kind: What it is of.
        at: When, as UTC ISO 8601.
        number: Its number in its project, from 1; 0 before it is in one.
        device: The device's identity as plain data.
        versions: Of this package, of Python, torch and the engines that the plan uses.
        members: What each registered sub-model was.
        combine: The combine rule, for people.
        batch: What the input looked like, or "".
        plan: The plan that was in force, or None.
        jct_s: Measured median JCT in seconds, or None where nothing was run.
        low_s: Where the true median lies at least, with 95 % confidence; None where there were too few runs.
        high_s: Where it lies at most.
        runs: How many runs the median is taken from.
        strategies: Of a comparison, its rows.
        latency_s: Of a profile, for each sub-model ("wide", "wide by openvino") its medians in seconds by share.
        load: What other programs took of the cores' time meanwhile, 0 to 1; None where that is not known.
        notes: What the user was told with it.
    """

    kind: EntryKind
    at: Text
    number: Count = 0
    device: Annotated[Mapping[Text, Any], Meta(max_length=64)] = field(default_factory=dict)
    versions: Annotated[Mapping[Name, Text], Meta(max_length=64)] = field(default_factory=dict)
    members: Annotated[Mapping[Name, Member], _Few] = field(default_factory=dict)
    combine: Text = ""
    batch: Text = ""
    plan: Plan | None = None
    jct_s: Latency | None = None
    low_s: Latency | None = None
    high_s: Latency | None = None
    runs: Count = 0
    strategies: Annotated[tuple[Strategy, ...], Meta(max_length=100)] = ()
    latency_s: Annotated[Mapping[_Label, _Curve], Meta(max_length=4 * MOST_SUBMODELS)] = field(default_factory=dict)
    load: Fraction | None = None
    notes: Annotated[tuple[Text, ...], Meta(max_length=100)] = ()

    @property
    def when(self) -> str:
        """When, for people: "2026-11-29 02:10" (UTC)."""
        return self.at[:16].replace("T", " ")

    @property
    def predicted_s(self) -> float | None:
        """The JCT that its plan predicted, in seconds."""
        return None if self.plan is None else self.plan.jct_s

    @property
    def bound_s(self) -> float | None:
        """The bound that was proven with its plan, in seconds."""
        return None if self.plan is None else self.plan.bound_s

    @property
    def searcher(self) -> str:
        """Who found its plan, or ""."""
        return "" if self.plan is None else self.plan.searcher

    @property
    def device_name(self) -> str:
        """The device in a few words."""
        return str(self.device.get("name", ""))

    @property
    def best_other(self) -> Strategy | None:
        """Of a comparison, the fastest of the strategies that are not the plan and answer as it does."""
        right = [row for row in self.strategies if row.agrees and row.median_s is not None and row.name != "plan"]
        return min(right, key=lambda row: row.median_s or 0.0, default=None)

    @property
    def jct_text(self) -> str:
        """The JCT with its interval: "4.50 ms (4.41 to 4.62)"; a prediction says that it is one; "-" without."""
        if self.jct_s is None:
            return "-" if self.predicted_s is None else f"{format_seconds(self.predicted_s)} predicted"
        if self.low_s is None or self.high_s is None:
            return format_seconds(self.jct_s)
        return f"{format_seconds(self.jct_s)} ({format_seconds(self.low_s)} to {format_seconds(self.high_s)})"

    @property
    def what(self) -> str:
        """What it says, in a line."""
        if self.kind is EntryKind.PROFILE:
            points = sum(map(len, self.latency_s.values()))
            return f"{format_units(points, 'point')} of {format_units(len(self.latency_s), 'row')}"
        lanes = "" if self.plan is None else self.plan.describe()
        if self.kind is EntryKind.RUNS:
            return f"{format_units(self.runs, 'run')} of {lanes}"
        other = self.best_other
        if other is not None and other.median_s and self.jct_s:
            return f"{other.median_s / self.jct_s:.2f}× as fast as {other.name}; {lanes}"
        return lanes

    def to_dict(self) -> dict[str, Any]:
        """Plain data; absent figures are None."""
        return {**to_dict(replace(self, plan=None)), "plan": None if self.plan is None else self.plan.to_dict()}

    def __str__(self) -> str:
        """A line, and the notes."""
        first = f"{self.number}: {self.kind} of {self.at} on {self.device_name}: {self.what}, JCT {self.jct_text}"
        return "\n".join([first, *self.notes])

    # --- in the file ---------------------------------------------------------------------------------------------

    def written(self) -> str:
        """What the file holds of it, as JSON.

        Raises:
            ValueError: It holds what no file does, or is too long.
        """
        data = plain(replace(self, plan=None)) | {"plan": None if self.plan is None else self.plan.to_dict()}
        del data["number"]
        try:
            text = json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
            if len(text) > MOST_TEXT and self.latency_s:
                return replace(self, latency_s={}).written()
            read = Entry.read(text, self.number)
        except (TypeError, RecursionError, EsenError, UnicodeError) as problem:
            raise ValueError(f"an entry that no file holds: {problem}") from problem
        if read is None or len(text.encode()) > 4 * MOST_TEXT or len(text) > MOST_TEXT:
            raise ValueError("an entry that no file holds")
        return text

    @staticmethod
    def read(text: object, number: int) -> Entry | None:
        """The entry in a row of the file; None where it cannot be one (a file that somebody edited)."""
        if not isinstance(text, str):
            return None
        try:
            data = decode_json(text.encode())
            if not isinstance(data, dict) or "number" in data:
                return None
            plan = data.pop("plan", None)
            entry = converted({**data, "number": number}, Entry, "a row")
            return entry if plan is None else replace(entry, plan=Plan.from_dict(plan))
        except (EsenError, UnicodeError):
            return None
