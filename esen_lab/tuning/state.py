"""All there is to show of a tuning at one moment, as plain records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from esen_lab.search.watch import Progress
from esen_lab.showing import Shown
from esen_lab.units import format_percent, format_seconds, format_table


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedLane:
    """One lane of the draft with its prediction, in all and for each member."""

    units: int
    members: tuple[str, ...]
    pinned: bool
    predicted_s: float
    member_s: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What runs of an applied draft took.

    Attributes:
        median_s: Median JCT in seconds.
        spread_s: Interquartile range.
        repeats: How many runs count.
        predicted_s: What was predicted for the same lanes.
        lanes: The lanes, for people.
    """

    median_s: float
    spread_s: float
    repeats: int
    predicted_s: float
    lanes: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "median_s": self.median_s,
            "spread_s": self.spread_s,
            "repeats": self.repeats,
            "predicted_s": self.predicted_s,
            "lanes": self.lanes,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningState(Shown):
    """A tuning at one moment.

    Attributes:
        revision: Grows with every change of anything here; of two states, the one with the larger is the newer.
        lanes: The draft, in order.
        units: Units of the device.
        unit: What a unit is called ("core").
        oversubscribe: Whether shares may sum to more than the device.
        jct_s: Predicted, in seconds.
        bound_s: No plan is faster: proven.
        gap: jct_s / bound_s - 1.
        limiting: The index of the lane that decides the JCT.
        in_force: Whether the lab's plan has these very lanes.
        can_apply: Whether there is a lab to apply it to (not so for a stored profile).
        can_undo: Whether there is a move to take back.
        can_redo: Whether one was taken back.
        searching: How far a running search is, or None.
        doing: "applying", "measuring", or "".
        measured: The last measurement, or None; it may be of other lanes: see `Measured.lanes`.
        message: What happened last, for people.
        failed: Whether `message` tells of a failure.
    """

    revision: int
    lanes: tuple[TunedLane, ...]
    units: int
    unit: str
    oversubscribe: bool
    jct_s: float
    bound_s: float
    gap: float
    limiting: int
    in_force: bool
    can_apply: bool
    can_undo: bool
    can_redo: bool
    searching: Progress | None
    doing: str
    measured: Measured | None
    message: str
    failed: bool

    @property
    def total_units(self) -> int:
        """What the shares sum to."""
        return sum(lane.units for lane in self.lanes)

    def describe(self) -> str:
        """The lanes in one line, as `Plan.describe` writes them."""
        return " | ".join(f"{lane.units}: {' + '.join(lane.members)}" for lane in self.lanes)

    def __str__(self) -> str:
        """The lanes and what is predicted, for a terminal."""
        rows = [
            (
                str(n),
                f"{lane.units}{' pinned' if lane.pinned else ''}",
                " → ".join(lane.members),
                format_seconds(lane.predicted_s),
            )
            for n, lane in enumerate(self.lanes, 1)
        ]
        told = f"predicted JCT {format_seconds(self.jct_s)}, {format_percent(self.gap)} above the proven bound"
        told += f", lane {self.limiting + 1} limits"
        table = format_table(("lane", "share", "sub-models", "predicted"), rows)
        return "\n".join([table, told, *([self.message] if self.message else [])])

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "lanes": [
                {
                    "units": lane.units,
                    "members": list(lane.members),
                    "pinned": lane.pinned,
                    "predicted_s": lane.predicted_s,
                }
                for lane in self.lanes
            ],
            "units": self.units,
            "unit": self.unit,
            "oversubscribe": self.oversubscribe,
            "jct_s": self.jct_s,
            "bound_s": self.bound_s,
            "gap": self.gap,
            "limiting": self.limiting,
            "in_force": self.in_force,
            "measured": None if self.measured is None else self.measured.to_dict(),
            "message": self.message,
            "failed": self.failed,
        }
