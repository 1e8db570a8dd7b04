"""What pictures show: plain records, no drawing. Seconds, units and ratios, as everywhere in the package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One bar of a timeline, in seconds from its beginning.

    `guessed`: predicted without a measurement nearby; of what was measured: not done when nobody waited any more.
    """

    name: str
    start_s: float
    end_s: float
    guessed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Lanes by time.

    Attributes:
        lanes: (label, measured segments) per lane.
        total_s: Where the axis ends: the JCT.
        predicted: For each lane, what was predicted; empty where nothing was.
        late_s: For each lane, how long after it could have it began, where that is more than usual, else 0; or empty.
    """

    lanes: tuple[tuple[str, tuple[Segment, ...]], ...]
    total_s: float
    predicted: tuple[tuple[Segment, ...], ...] = ()
    late_s: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One sub-model's latency against share.

    Attributes:
        name: The sub-model.
        points: (units, median seconds, spread in seconds) of what was measured.
        fitted_s: Seconds at 1..units units, or empty.
        knee: The smallest share that is within 5 % of the fastest, or None.
        guessed: For each of `fitted_s`, whether it rests on no measurement nearby.
    """

    name: str
    points: tuple[tuple[int, float, float], ...]
    fitted_s: tuple[float, ...] = ()
    knee: int | None = None
    guessed: tuple[bool, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """Latency against share."""

    curves: tuple[Curve, ...]
    units: int
    unit: str = "unit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar: a label, a median, the interquartile range around it; `chosen` is drawn apart."""

    label: str
    median_s: float
    spread_s: float
    chosen: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """Bars of JCT, with the proven bound as a line where it is known."""

    bars: tuple[Bar, ...]
    bound_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchHistory:
    """Best JCT of searches against time.

    Attributes:
        traces: (label, ((x, best seconds), ...)) per searcher.
        exact_s: The optimum, drawn as a line, or None.
        x_label: What the x axis counts.
    """

    traces: tuple[tuple[str, tuple[tuple[float, float], ...]], ...]
    exact_s: float | None = None
    x_label: str = "plans examined"


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """Accuracy against JCT: (label, seconds, accuracy) of every choice, and which are on the front.

    `told` says of each what it is, for whoever points at it; empty where nothing is to be said.
    """

    points: tuple[tuple[str, float, float], ...]
    on_front: tuple[bool, ...]
    told: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One lane of a plan: units, members with their predicted seconds (None: unknown).

    `unmeasured` says of each member what that is called where it rests on no measurement nearby ("extrapolated"),
    `of_units` how many units there are where it runs (0: as many as the plan has), `place` where or when that is ("a
    node, stage 2"; "": all lanes run side by side), `after_s` when it begins.
    """

    units: int
    members: tuple[tuple[str, float | None], ...]
    unmeasured: tuple[str, ...] = ()
    of_units: int = 0
    place: str = ""
    after_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """A plan: each lane's share as a bar's height, its time as the bar's length."""

    lanes: tuple[Share, ...]
    units: int
    unit: str = "unit"
    bound_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadCurves:
    """Latency against the rate of requests.

    Attributes:
        ways: (label, ((rate per second, median seconds, 99th percentile in seconds), ...)) per way; inf: never.
        deadline_s: Drawn as a line.
    """

    ways: tuple[tuple[str, tuple[tuple[float, float, float], ...]], ...]
    deadline_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One measured JCT of a project.

    Attributes:
        label: Its number.
        kind: What it was measured by: "comparison", "runs".
        median_s: The median, in seconds.
        low_s, high_s: Where the true median lies, or None where there were too few runs.
        bound_s: The bound that was proven for it, or None.
    """

    label: str
    kind: str
    median_s: float
    low_s: float | None = None
    high_s: float | None = None
    bound_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """JCT over time: moments in their order, and (place, words) where something changed before one."""

    moments: tuple[Moment, ...]
    marks: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One reading over time: (seconds before the end, at most 0; value or None where there was none), oldest first.

    `stroke` is its colour; "": the palette's, by its place.
    """

    label: str
    points: tuple[tuple[float, float | None], ...]
    stroke: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """Readings of one group; `most` is where the axis ends, None: at the largest value."""

    title: str
    lines: tuple[Line, ...]
    most: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingTraces:
    """Readings over time, a plot per group; `until` says when the last one was taken."""

    plots: tuple[Plot, ...]
    span_s: float
    until: str


Picture: TypeAlias = Timeline | Curves | Bars | SearchHistory | Front | Shares | LoadCurves | Moments | ReadingTraces
