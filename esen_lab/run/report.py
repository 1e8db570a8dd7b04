"""What happened in one run: who ran when, and what it cost around them. Plain data, no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from esen_lab.common.display import Shown
from esen_lab.common.records import to_dict, to_frame
from esen_lab.common.units import format_count, format_percent, format_seconds
from esen_lab.planner.plan import Plan
from esen_lab.planner.steps import members_of
from esen_lab.run.answered import Answered, Worth
from esen_lab.run.stage_report import StageReport, stages_line

_WORTH_SAYING_S = 0.001
LATE_S = 0.0003
LATE_OF_JCT = 0.05
"""A lane is late that begins later than both: so long after the batch was copied, and such a part of the JCT."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One sub-model's run, in seconds since the batch was handed over.

    `predicted_s` is what the plan said, or None; `unmeasured` what that is called where it rests on no measurement
    nearby ("extrapolated"), or "".
    """

    name: str
    lane: int
    start_s: float
    end_s: float
    predicted_s: float | None = None
    unmeasured: str = ""

    @property
    def duration_s(self) -> float:
        """How long it ran."""
        return self.end_s - self.start_s


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneReport:
    """One lane: its share, what its worker found in force, and when it was busy. `device` is its node, where named."""

    units: int
    in_force: str
    members: tuple[str, ...]
    start_s: float
    end_s: float
    device: str = ""

    @property
    def busy_s(self) -> float:
        """From its first sub-model's start to its last one's end."""
        return self.end_s - self.start_s


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReport:
    """What a node did in a run of a plan for several.

    Attributes:
        name: The node.
        members: Who runs there.
        took_s: From the order's arrival there to its answer, in seconds.
        network_s: What the call took besides: sending, the cluster, the way back.
        sent_bytes: The size of the input; of a plan in stages, of the rows that were sent in all.
        received_bytes: That of its members' outputs.
    """

    name: str
    members: tuple[str, ...]
    took_s: float
    network_s: float
    sent_bytes: int = 0
    received_bytes: int = 0

    def __str__(self) -> str:
        """For people: "left 4.1 ms + 2.0 ms network"."""
        return f"{self.name} {format_seconds(self.took_s)} + {format_seconds(self.network_s)} network"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport(Shown):
    """One run of a plan.

    Attributes:
        jct_s: From handing the batch over to having the combined output, in seconds.
        spans: One per sub-model, lane by lane.
        lanes: One per lane.
        copy_s: Copying the input into shared memory.
        combine_s: Combining the outputs.
        predicted_s: The JCT that the plan predicted, or None.
        batch: What the input looked like.
        nan: Sub-models whose output held NaN.
        notes: What else the reader should know, `far` among it.
        far: Where the last runs are far from their prediction, that, why, and what to do; else empty.
        unmeasured: Of `predicted_s`: see `Plan.unmeasured`.
        waited_s: How long the call waited for its turn before all that, in seconds.
        stages: Of a plan in stages: how many rows came and left where, and how long each took; else empty.
        worst_s: Of a plan in stages: the predicted JCT of a batch of which nobody leaves early, or None.
        answered: Who answered, who was missing and why, where a run was asked for what allows that; else None. `spans`
            then has those that were done, and a lane that was late is busy until nobody waited any more.
        nodes: Of a plan for several nodes: what each that answered did; else empty. Times on other machines are laid
            into the middle of the call, since their clocks are not this one's.
    """

    jct_s: float
    spans: tuple[Span, ...]
    lanes: tuple[LaneReport, ...]
    copy_s: float
    combine_s: float
    predicted_s: float | None = None
    batch: str = ""
    nan: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    far: tuple[str, ...] = ()
    unmeasured: Mapping[str, str] = field(default_factory=dict)
    waited_s: float = 0.0
    stages: tuple[StageReport, ...] = ()
    worst_s: float | None = None
    answered: Answered | None = None
    nodes: tuple[NodeReport, ...] = ()
    _make: Callable[[], tuple[tuple[Span, ...], tuple[LaneReport, ...]]] | None = field(
        default=None, repr=False, compare=False
    )
    _remark: tuple[tuple[str, ...], Callable[[RunReport], tuple[str, ...]]] | None = field(
        default=None, repr=False, compare=False
    )

    @classmethod
    def late(
        cls,
        make: Callable[[], tuple[tuple[Span, ...], tuple[LaneReport, ...]]],
        *,
        notes: tuple[str, ...] = (),
        remark: Callable[[RunReport], tuple[str, ...]] | None = None,
        **known: Any,
    ) -> RunReport:
        """A report that makes its spans and lanes when they are first read: those of most runs never are.

        Args:
            make: Makes both, once.
            notes: Known ones.
            remark: Makes `far`, once, from the report, when somebody looks at it or at the notes.
            **known: All other attributes.
        """
        if remark is not None:
            known["_remark"] = (notes, remark)
        report = cls(spans=(), lanes=(), notes=notes, _make=make, **known)
        for name in ("spans", "lanes"):
            object.__delattr__(report, name)
        if remark is not None:
            object.__delattr__(report, "notes")
            object.__delattr__(report, "far")
        return report

    def __getattr__(self, name: str) -> Any:
        """Make what `late` has put off; Python calls this for attributes that are not there."""
        if name in ("notes", "far"):
            pending = self._remark
            if pending is not None:  # else another thread has just made them
                known, remark = pending
                far = remark(self)
                object.__setattr__(self, "far", far)
                object.__setattr__(self, "notes", (*known, *far))
                object.__setattr__(self, "_remark", None)
            return object.__getattribute__(self, name)
        if name not in ("spans", "lanes"):
            raise AttributeError(f"a report has no {name!r}")
        make = self._make
        if make is not None:  # else another thread has just made them
            spans, lanes = make()
            object.__setattr__(self, "spans", spans)
            object.__setattr__(self, "lanes", lanes)
            object.__setattr__(self, "_make", None)
        return object.__getattribute__(self, name)

    def with_notes_before(self, notes: tuple[str, ...]) -> RunReport:
        """The same report with more notes, ahead of its own; what is made late is still made late."""
        pending = self._remark
        if pending is None:
            return replace(self, notes=(*notes, *self.notes))
        object.__setattr__(self, "_remark", ((*notes, *pending[0]), pending[1]))
        return self

    def after_waiting(self, waited_s: float) -> RunReport:
        """The same report, of a call that had waited so long for its turn."""
        object.__setattr__(self, "waited_s", waited_s)
        return self

    def worth(self, look_up: Callable[[Sequence[str]], Worth | None]) -> RunReport:
        """The same report, which can say what the members that answered were worth: see `Answered.known_by`."""
        if self.answered is not None:
            object.__setattr__(self, "answered", self.answered.known_by(look_up))
        return self

    @property
    def slowest_lane_s(self) -> float:
        """The busy time of the lane that was busy longest."""
        return max((lane.busy_s for lane in self.lanes), default=0.0)

    @property
    def overhead_s(self) -> float:
        """What the run cost beyond its slowest lane, or those of its stages: copies, wake-ups, combining."""
        if not self.stages:
            return self.jct_s - self.slowest_lane_s
        asked = [set(self._members_of(lane)) for lane in self.lanes]
        return self.jct_s - sum(
            max(
                (lane.busy_s for lane, names in zip(self.lanes, asked, strict=True) if names <= set(stage.names)),
                default=0.0,
            )
            for stage in self.stages
        )

    @property
    def late_s(self) -> tuple[float, ...]:
        """For each lane, how long after the batch was copied it began, where that is more than usual; else 0.

        A lane of a later stage is late after the first lane of that stage: before, its rows were chosen and gathered.
        """
        if self.nodes:  # their way there is theirs, and their clocks are not this one's
            return (0.0,) * len(self.lanes)
        waits = (lane.start_s - due_s for lane, due_s in zip(self.lanes, self._due_s(), strict=True))
        return tuple(wait if wait > max(LATE_S, LATE_OF_JCT * self.jct_s) else 0.0 for wait in waits)

    def _due_s(self) -> list[float]:
        """For each lane, when it could begin."""
        due_s = [self.copy_s] * len(self.lanes)
        if len(self.stages) < 2:
            return due_s
        asked = [set(self._members_of(lane)) for lane in self.lanes]
        for stage in self.stages[1:]:
            own = [place for place, names in enumerate(asked) if names <= set(stage.names)]
            for place in own:
                due_s[place] = min(self.lanes[other].start_s for other in own)
        return due_s

    @staticmethod
    def _members_of(lane: LaneReport) -> tuple[str, ...]:
        return tuple(name for step in lane.members for name in members_of([step]))

    @property
    def late_text(self) -> str:
        """Which lanes began late, in words; "" where none did."""
        late = [f"lane {number} by {format_seconds(wait)}" for number, wait in enumerate(self.late_s, 1) if wait]
        if not late:
            return ""
        return f"Began late: {', '.join(late)}. Something else had its cores, or its process slept; run again."

    @property
    def overlap(self) -> float:
        """The part of the busy time (0..1) in which at least two sub-models ran at once."""
        return _time_at_least(self.spans, 2) / max(_time_at_least(self.spans, 1), 1e-12)

    @property
    def concurrency(self) -> float:
        """Mean number of sub-models running while any ran."""
        return sum(span.duration_s for span in self.spans) / max(_time_at_least(self.spans, 1), 1e-12)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        derived = ("slowest_lane_s", "overhead_s", "overlap", "concurrency")
        answered = {} if self.answered is None else {"answered": self.answered.to_dict()}
        return {**to_dict(self), **{name: getattr(self, name) for name in derived}, **answered}

    def to_frame(self) -> Any:
        """A pandas table with a row per sub-model.

        Raises:
            UsageError: pandas is not installed.
        """
        return to_frame(self.to_dict()["spans"])

    def __str__(self) -> str:
        """One line, and one per remark."""
        first = (
            f"JCT {format_seconds(self.jct_s)} (slowest lane {format_seconds(self.slowest_lane_s)}, "
            f"overhead {format_seconds(self.overhead_s)}), {format_count(len(self.lanes), 'lane')}, "
            f"overlap {format_percent(self.overlap)}"
        )
        if self.waited_s >= _WORTH_SAYING_S:
            first += f", after {format_seconds(self.waited_s)} of waiting for its turn"
        stages = (stages_line(self.stages),) if self.stages else ()
        nodes = (f"Nodes: {', '.join(map(str, self.nodes))}",) if self.nodes else ()
        answered = () if self.answered is None else self.answered.sentences
        return "\n".join([first, *stages, *nodes, *answered, *filter(None, [self.late_text]), *self.notes])


def spans_and_lanes(
    plan: Plan,
    in_force: Sequence[str],
    at_s: Mapping[str, tuple[float, float]],
    *,
    same_shape: bool,
    until_s: float | None = None,
) -> tuple[tuple[Span, ...], tuple[LaneReport, ...]]:
    """The spans and lanes of a report.

    Args:
        plan: What ran.
        in_force: For each lane, what its worker found in force.
        at_s: For each sub-model, when it began and ended, in seconds since the batch was handed over.
        same_shape: Whether the batch looked as what the plan predicts for.
        until_s: When nobody waited any more, where steps may be missing: their lanes are busy until then.

    Returns:
        Lanes of a stage that nobody came to are in neither.
    """
    predicted = plan.predicted_s if same_shape else {}
    spans = []
    lanes = []
    for index, (lane, description) in enumerate(zip(plan.lanes, in_force, strict=True)):
        if lane.stage and not any(name in at_s for name in lane.members):
            continue  # nobody was left for its stage
        steps = [name for name in lane.members if until_s is None or name in at_s]
        own = [at_s[name] for name in steps]
        if len(own) < len(lane.members) and until_s is not None:
            begun = own[-1][1] if own else 0.0
            late = [(min(begun, until_s), until_s)]
        else:
            late = []
        spans += [
            Span(
                name=name,
                lane=index,
                start_s=start,
                end_s=end,
                predicted_s=predicted.get(name),
                unmeasured=plan.unmeasured.get(name, "") if name in predicted else "",
            )
            for name, (start, end) in zip(steps, own, strict=True)
        ]
        lanes.append(
            LaneReport(
                units=lane.units,
                in_force=description,
                members=lane.members,
                start_s=min(start for start, _ in (own or late)),
                end_s=max(end for _, end in (*own, *late)),
            )
        )
    return tuple(spans), tuple(lanes)


def _time_at_least(spans: Sequence[Span], depth: int) -> float:
    """For how long at least `depth` of the spans were open at once, in seconds."""
    # An end sorts before a start at the same moment: touching is not overlapping.
    events = sorted([(s.start_s, 1) for s in spans] + [(s.end_s, -1) for s in spans])
    total = 0.0
    open_spans = 0
    previous = 0.0
    for moment, change in events:
        if open_spans >= depth:
            total += moment - previous
        open_spans += change
        previous = moment
    return total
