"""All there is to show of a plan editor at one moment, as plain records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from esen_lab.common.display import Shown
from esen_lab.common.units import format_percent, format_seconds, format_table, format_units, marked, with_marks
from esen_lab.files.schemas import plain
from esen_lab.planner.search_state import SearchProgress


@dataclass(frozen=True, slots=True, kw_only=True)
class EditedLane:
    """One lane of the draft with its prediction, in all and for each member.

    Attributes:
        units: Its share.
        members: Its sub-models, in order.
        pinned: Whether the share is fixed.
        predicted_s: Predicted seconds of the lane.
        member_s: Of each member.
        unmeasured: For each member, what its prediction is called where no measurement is near, else "": see
            `CostModel.unmeasured`.
        backends: For each member, how it is executed.
        most_units: The largest share that it can be given: pinned lanes keep theirs, all others one unit; 0: not known.
    """

    units: int
    members: tuple[str, ...]
    pinned: bool
    predicted_s: float
    member_s: tuple[float, ...]
    unmeasured: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    most_units: int = 0

    @property
    def doubts(self) -> dict[str, str]:
        """The members whose prediction rests on no measurement nearby, each with what it is called."""
        return {name: word for name, word in zip(self.members, self.unmeasured, strict=False) if word}

    @property
    def predicted_text(self) -> str:
        """The predicted time for people, marked where it is extrapolated."""
        return marked(format_seconds(self.predicted_s), self.doubts)

    def labels(self) -> list[str]:
        """The members as `Plan.describe` writes them."""
        ways = self.backends or ("eager",) * len(self.members)
        return [
            with_marks(name, "" if way == "eager" else way, self.doubts.get(name, ""))
            for name, way in zip(self.members, ways, strict=True)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What runs of an applied draft took.

    Attributes:
        median_s: Median JCT in seconds.
        spread_s: Interquartile range.
        repeats: How many runs count.
        predicted_s: What was predicted for the same lanes.
        lanes: The lanes, for people.
        far: Where that is far from its prediction: that, why, and what to do; else empty.
    """

    median_s: float
    spread_s: float
    repeats: int
    predicted_s: float
    lanes: str
    far: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return plain(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class EditorState(Shown):
    """A plan editor at one moment.

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
        measured: The last measurement, or None; it may be of other lanes: see `Measurement.lanes`.
        message: What happened last, for people.
        failed: Whether `message` tells of a failure.
        proven_s: What searches proved of plans of the device's own units, in seconds; 0 where nothing is.
    """

    revision: int
    lanes: tuple[EditedLane, ...]
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
    searching: SearchProgress | None
    doing: str
    measured: Measurement | None
    message: str
    failed: bool
    proven_s: float = 0.0

    @property
    def stuck(self) -> str:
        """Why there is nothing to move, in words; "" where something can be moved."""
        if self.oversubscribe or len(self.lanes) > 1:
            return ""
        device = f"The device has {format_units(self.units, self.unit)}"
        if len(self.lanes[0].members) == 1:
            return f"Nothing to move: there is one sub-model, and it has the whole device. {device}."
        if self.units == 1:
            return f"Nothing to move: {device.lower()}, which lanes can only share where they may sum to more."
        return ""

    @property
    def total_units(self) -> int:
        """What the shares sum to."""
        return sum(lane.units for lane in self.lanes)

    def describe(self) -> str:
        """The lanes in one line, as `Plan.describe` writes them."""
        return " | ".join(f"{lane.units}: {' + '.join(lane.labels())}" for lane in self.lanes)

    @property
    def predicted_text(self) -> str:
        """The predicted JCT for people, marked where a lane's prediction is extrapolated."""
        return marked(
            format_seconds(self.jct_s), {name: word for lane in self.lanes for name, word in lane.doubts.items()}
        )

    def __str__(self) -> str:
        """The lanes and what is predicted, for a terminal."""
        rows = [
            (
                str(n),
                f"{lane.units}{' pinned' if lane.pinned else ''}",
                " → ".join(lane.members),
                lane.predicted_text,
            )
            for n, lane in enumerate(self.lanes, 1)
        ]
        prediction = f"predicted JCT {self.predicted_text}, {format_percent(self.gap)} above the proven bound"
        prediction += f", lane {self.limiting + 1} limits"
        table = format_table(("lane", "share", "sub-models", "predicted"), rows)
        return "\n".join([table, prediction, *([self.message] if self.message else [])])

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "lanes": [
                {
                    "units": lane.units,
                    "members": list(lane.members),
                    "pinned": lane.pinned,
                    "predicted_s": lane.predicted_s,
                    "unmeasured": lane.doubts,
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
