"""The plan: the lanes of one ensemble on one device. What is run, tuned, saved and exported.

Saved as JSON with a `schema_version`; nothing in it is ever executed.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, TypedDict

from msgspec import Meta

from esen_lab.common.display import Shown
from esen_lab.common.records import to_frame
from esen_lab.common.units import (
    check_backend,
    check_count,
    check_name,
    check_units,
    format_percent,
    format_seconds,
    format_table,
    marked,
    simulated_line,
    with_marks,
)
from esen_lab.common.words import unknown
from esen_lab.errors import StoreError, UsageError
from esen_lab.files import (
    MOST_SUBMODELS,
    Kind,
    Name,
    Seconds,
    Text,
    Units,
    converted,
    decode_json,
    read_bytes,
    write_file,
)
from esen_lab.files.schemas import Count, Fraction, plain
from esen_lab.planner.steps import Step, check_steps, members_of

SCHEMA_VERSION = 1
SEQUENTIAL = "sequential"
MODES = ("serial", "threads", "async", "vmap")
MOST_BYTES = 4_000_000
PLAN_FILE = Kind(
    what="a plan",
    is_one=lambda head: head.lstrip().startswith(b"{") and b'"schema_version"' in head and b'"lanes"' in head,
    example="plan.json",
)
_Few = Meta(max_length=MOST_SUBMODELS)
_Threshold = Annotated[float, Meta(ge=0, le=1e9)]
_StepName = Annotated[
    str, Meta(max_length=65 * MOST_SUBMODELS, pattern=r"^[^+]{1,64}( \d\d?/\d\d?)?$|^[^+]{1,64}(\+[^+]{1,64})+$")
]
"""A sub-model or a part of its batch, or the names of all sub-models of a group; see `steps.py`."""


class _Identity(TypedDict, total=False):
    """What a file may say of the device; more is kept and not looked at."""

    kind: Text
    name: Text
    units: Count
    unit: Text
    details: dict[Text, Text]
    simulated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """A share of the device and the sub-models that run on it.

    Attributes:
        units: The share.
        members: What runs, in that order: sub-models, groups of equal ones ("a+b") and parts of a batch ("a 1/2"), as
            `steps.py` has them written.
        active_units: For each member, how many of the lane's units it uses: fewer than `units` where its profile says
            that fewer are faster.
        device: On which of the plan's devices; "" where the plan has but one.
        stage: In which of the plan's stages, from 0.
        backends: For each member what executes it: a backend (see `check_backend`); older names become today's.
        mode: "serial": one after another (a lane in the proper sense). "threads": all at once in a thread pool of one
            process. "async": every engine that has threads of its own begins, then the other members run, then the
            answers are waited for. "vmap": all as one batched call of `torch.func`. All but the first exist to be
            compared against.
    """

    units: Units
    members: Annotated[tuple[_StepName, ...], _Few]
    active_units: Annotated[tuple[Units, ...], _Few] = ()
    mode: Text = "serial"
    device: Annotated[str, Meta(max_length=64)] = ""
    stage: Annotated[int, Meta(ge=0, lt=MOST_SUBMODELS)] = 0
    backends: Annotated[tuple[Text, ...], _Few] = ()

    def __post_init__(self) -> None:
        """Check the fields against each other."""
        if not self.members:
            raise UsageError("A lane has at least one sub-model", given="a lane without any")
        steps = [Step.of(name) for name in self.members]
        object.__setattr__(self, "units", check_count(self.units, "A lane's share is a whole number of units above 0"))
        if not self.active_units:
            object.__setattr__(self, "active_units", (self.units,) * len(self.members))
        if len(self.active_units) != len(self.members):
            raise UsageError(
                "A lane names its active units once per member",
                given=f"{len(self.active_units)} for {len(self.members)}",
            )
        active = [check_units(units, self.units, "a sub-model's active units") for units in self.active_units]
        object.__setattr__(self, "active_units", tuple(active))
        if not self.backends:
            object.__setattr__(self, "backends", ("eager",) * len(self.members))
        if len(self.backends) != len(self.members):
            raise UsageError("A lane names a backend once per member", given=list(self.backends))
        object.__setattr__(self, "backends", tuple(map(check_backend, self.backends)))
        if self.mode == "vmap" and not self.all_eager:
            raise UsageError("Sub-models that run as one batched call are eager", given=", ".join(self.backends))
        if self.mode not in MODES:
            raise unknown(f"A lane's mode is one of {', '.join(MODES)}", self.mode, MODES, given=self.mode)
        self._check_derived(steps)

    def _check_derived(self, steps: Sequence[Step]) -> None:
        derived = [step.name for step in steps if not step.plain]
        if derived and self.mode != "serial":
            raise UsageError("Groups and parts run one after another with the rest of their lane", given=self.mode)
        for name, how in zip(self.members, self.backends, strict=True):
            if name in derived and how != "eager":
                raise UsageError("Groups and parts are executed eagerly", given=f"{name} by {how}")

    @property
    def all_eager(self) -> bool:
        """Whether every member is executed as it was registered."""
        return set(self.backends) == {"eager"}

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "units": self.units,
            "members": list(self.members),
            "active_units": list(self.active_units),
            "mode": self.mode,
            **({"device": self.device} if self.device else {}),
            **({"stage": self.stage} if self.stage else {}),
            **({} if self.all_eager else {"backends": list(self.backends)}),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Shown):
    """The lanes of one ensemble on one device, with how they were found.

    Attributes:
        lanes: At least one; every sub-model is in exactly one of them, unless its batch is split over several.
        units: Units of the device it was made for.
        device: The device's identity as plain data.
        searcher: Who found it: "exact", "sequential", "by hand", ...
        jct_s: Predicted job completion time in seconds, or None where there was no profile to predict from.
        measured_s: Its median measured JCT in seconds, where the search measured; else None.
        bound_s: Proven lower bound on the JCT of any plan under the same cost models, or None.
        predicted_s: For each of `steps`, the predicted latency in its lane, in seconds.
        unmeasured: Those of `steps` whose prediction rests on no measurement near their share, each with what it is
            called: "extrapolated", "interpolated far". Everything that shows a prediction says so.
        fingerprints: For each sub-model, what it was when the plan was made.
        example: What the input looked like that was profiled ("float32[1, 64]"), or "".
        combine: The combine rule, for people.
        notes: Honest remarks for the reader ("sequential is as good").
        created_at: UTC ISO 8601, or "".
        left_out: Members of the ensemble that this plan leaves out on purpose.
        devices: Units by name, for a plan over several devices; else empty. `units` is then the largest.
        reach: For a plan in stages, for each stage the fraction of inputs that get there: 1, then never rising; else
            empty. `jct_s` is then the expected JCT.
        threshold: For a plan in stages, the confidence at which an input is done: one for all stages, or one for each
            stage but the last.
        worst_s: For a plan in stages, the predicted JCT of a batch of which nobody leaves early.
    """

    lanes: Annotated[tuple[Lane, ...], _Few]
    units: Units
    device: Annotated[Mapping[Text, Any], Meta(max_length=64)] = field(default_factory=dict)
    searcher: Text = "by hand"
    jct_s: Seconds | None = None
    bound_s: Seconds | None = None
    predicted_s: Annotated[Mapping[_StepName, Seconds], _Few] = field(default_factory=dict)
    fingerprints: Annotated[Mapping[Name, Text], _Few] = field(default_factory=dict)
    example: Annotated[str, Meta(max_length=100_000)] = ""
    combine: Annotated[str, Meta(max_length=100_000)] = ""
    notes: Annotated[tuple[Text, ...], Meta(max_length=1000)] = ()
    created_at: Text = ""
    measured_s: Seconds | None = None
    left_out: Annotated[tuple[Name, ...], _Few] = ()
    devices: Annotated[Mapping[Name, Units], _Few] = field(default_factory=dict)
    reach: Annotated[tuple[Fraction, ...], _Few] = ()
    threshold: _Threshold | Annotated[tuple[_Threshold, ...], _Few] | None = None
    worst_s: Seconds | None = None
    unmeasured: Annotated[Mapping[_StepName, Text], _Few] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the fields against each other."""
        if not self.lanes:
            raise UsageError("A plan has at least one lane", given="none", hint="Register a sub-model first.")
        object.__setattr__(self, "units", check_count(self.units, "A plan is for a whole number of units above 0"))
        for lane in self.lanes:
            check_units(lane.units, self.units, "a lane's share")
        check_steps(self.steps)
        both = sorted(set(self.names) & set(self.left_out))
        if both:
            raise UsageError("A sub-model is in a lane or left out", given=f"{', '.join(both)} both")
        self._check_devices()
        self._check_stages()

    def _check_devices(self) -> None:
        for lane in self.lanes:
            if lane.device not in (self.devices or {"": 0}):
                hint = f"It has {', '.join(self.devices) or 'none besides the one it is for'}."
                told = "A lane is on a device of its plan"
                raise unknown(told, lane.device, self.devices, given=repr(lane.device), hint=hint)
        for name, units in self.devices.items():
            check_name(name, "device")
            check_units(units, self.units, f"the size of device {name!r}")
            for lane in self.lanes:
                if lane.device == name:
                    check_units(lane.units, units, "a lane's share")

    def _check_stages(self) -> None:
        stages = {lane.stage for lane in self.lanes}
        if stages != set(range(max(1, len(self.reach)))):
            raise UsageError(
                "The stages of a plan are numbered from 0, each with a lane and a reach",
                given=f"stages {sorted(stages)} and {len(self.reach)} reaches",
            )
        falls = all(later <= earlier for earlier, later in itertools.pairwise(self.reach))
        if self.reach and not (self.reach[0] == 1 and falls and self.reach[-1] >= 0):
            raise UsageError("The reach of stages begins at 1 and never rises", given=list(self.reach))
        if isinstance(self.threshold, tuple) and len(self.threshold) != max(0, len(self.reach) - 1):
            raise UsageError(
                "A plan in stages has one threshold, or one for each stage but the last",
                given=f"{len(self.threshold)} for {len(self.reach)} stages",
            )

    @property
    def steps(self) -> tuple[str, ...]:
        """What the lanes run, lane by lane: sub-models, groups and parts (see `steps.py`)."""
        return tuple(name for lane in self.lanes for name in lane.members)

    @property
    def names(self) -> tuple[str, ...]:
        """Every sub-model of the plan once, lane by lane."""
        return members_of(self.steps)

    @property
    def gap(self) -> float | None:
        """JCT / bound - 1, or None where either is absent."""
        if self.jct_s is None or not self.bound_s:
            return None
        return max(0.0, self.jct_s / self.bound_s - 1)

    @property
    def oversubscribed(self) -> bool:
        """Whether the lanes' shares sum to more than the device."""
        sums: dict[tuple[str, int], int] = {}
        for lane in self.lanes:
            place = (lane.device, lane.stage)
            sums[place] = sums.get(place, 0) + lane.units
        return any(units > self.devices.get(device, self.units) for (device, _), units in sums.items())

    @property
    def staged(self) -> bool:
        """Whether it runs in several stages, between which inputs leave."""
        return len(self.reach) > 1

    @property
    def stages(self) -> tuple[tuple[int, ...], ...]:
        """For each stage the numbers of its lanes, from 0; one stage where the plan has none."""
        return tuple(
            tuple(number for number, lane in enumerate(self.lanes) if lane.stage == stage)
            for stage in range(max(1, len(self.reach)))
        )

    @property
    def thresholds(self) -> tuple[float, ...]:
        """The confidence at which an input is done, after each stage but the last; empty without stages."""
        if isinstance(self.threshold, tuple):
            return self.threshold
        return () if self.threshold is None else (self.threshold,) * max(0, len(self.reach) - 1)

    def stage_s(self, stage: int) -> float | None:
        """The predicted time of a stage on the whole batch, in seconds: its slowest lane; None where not predicted."""
        lanes = [self.lanes[number] for number in self.stages[stage]]
        if any(name not in self.predicted_s for lane in lanes for name in lane.members):
            return None
        return max(sum(self.predicted_s[name] for name in lane.members) for lane in lanes)

    @property
    def is_sequential(self) -> bool:
        """Whether every sub-model runs in one lane, one after another."""
        return len(self.lanes) == 1 and self.lanes[0].mode == "serial"

    @property
    def is_fallback(self) -> bool:
        """Whether nobody searched, took or made it: so an ensemble runs without a plan (`sequential_plan`)."""
        unknown_s = self.jct_s is None and self.measured_s is None
        return self.is_sequential and self.searcher == SEQUENTIAL and unknown_s

    def lane_of(self, name: str) -> Lane:
        """The lane that `name` runs in; the first of those that its batch is split over.

        Raises:
            UsageError: No lane holds it.
        """
        for lane in self.lanes:
            if name in lane.members or name in members_of(lane.members):
                return lane
        hint = f"It has {', '.join(self.names)}."
        raise unknown("A plan knows its own sub-models", name, self.names, given=name, hint=hint)

    def predicted_text(self) -> str:
        """The predicted JCT for people: "4.50 ms", "4.50 ms (extrapolated: wide)"; "" where there is none."""
        return "" if self.jct_s is None else marked(format_seconds(self.jct_s), self.unmeasured)

    def _share(self, lane: Lane) -> str:
        share = f"{lane.units} of {self.devices.get(lane.device, self.units)}"
        return f"{share} ({lane.device})" if lane.device else share

    def _labels(self, lane: Lane) -> list[str]:
        """The members of a lane, each with how it is executed where not eagerly, and what its prediction is called."""
        return [
            with_marks(name, "" if how == "eager" else how, self.unmeasured.get(name, ""))
            for name, how in zip(lane.members, lane.backends, strict=True)
        ]

    def _members(self, lane: Lane) -> str:
        """The members of a lane in one line; how they are executed is said once where it is the same for all."""
        (how, *others) = dict.fromkeys(lane.backends)
        alike = not others and how != "eager" and len(lane.members) > 1 and not self.unmeasured.keys() & {*lane.members}
        return f"{' + '.join(lane.members)} by {how}" if alike else " + ".join(self._labels(lane))

    def describe(self) -> str:
        """The lanes in one line: "2: a + b | 1: c"."""
        return ", then ".join(
            " | ".join(
                (f"{lane.device} " if lane.device else "")
                + f"{lane.units}: {self._members(lane)}"
                + ("" if lane.mode == "serial" else f" ({lane.mode})")
                for lane in self.lanes
                if lane.stage == stage
            )
            for stage in range(max(1, len(self.reach)))
        )

    def __str__(self) -> str:
        """The lanes, what is predicted, and the remarks, for a terminal."""
        rows = [
            (str(n), self._share(lane), " → ".join(self._labels(lane)), lane.mode)
            for n, lane in enumerate(self.lanes, 1)
        ]
        gap = f", {format_percent(self.gap)} above the proven bound" if self.gap is not None else ""
        what = "expected" if self.staged else "predicted"
        worst = f", worst case {format_seconds(self.worst_s)}" if self.worst_s is not None else ""
        prediction = f"{what} JCT {self.predicted_text()}{worst}{gap}, found by {self.searcher}"
        table = format_table(("lane", "share", "sub-models", "mode"), rows)
        return "\n".join([table, prediction, *simulated_line(self.device), *self.notes])

    def to_frame(self) -> Any:
        """A pandas table with a row per sub-model.

        Raises:
            UsageError: pandas is not installed.
        """
        return to_frame(
            [
                {
                    "lane": number,
                    "units": lane.units,
                    "sub-model": name,
                    "active_units": active,
                    "predicted_s": self.predicted_s.get(name),
                    "unmeasured": self.unmeasured.get(name, ""),
                }
                for number, lane in enumerate(self.lanes, 1)
                for name, active in zip(lane.members, lane.active_units, strict=True)
            ]
        )

    def with_backends(self, chosen: Mapping[str, str]) -> Plan:
        """The same plan with other ways to execute its sub-models; those not named stay as they are."""
        lanes = tuple(
            replace(
                lane,
                backends=tuple(
                    chosen.get(name, before) for name, before in zip(lane.members, lane.backends, strict=True)
                ),
            )
            for lane in self.lanes
        )
        return replace(self, lanes=lanes)

    def with_origin(self, *, notes: Sequence[str] = (), **origin: Any) -> Plan:
        """The same plan that also says where it comes from.

        Args:
            notes: Remarks that come before its own; each is made once.
            **origin: Further fields: `device`, `fingerprints`, `created_at`, ...
        """
        return replace(self, notes=tuple(dict.fromkeys((*notes, *self.notes))), **origin)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the saved form."""
        return {"schema_version": SCHEMA_VERSION, **plain(self), "lanes": [lane.to_dict() for lane in self.lanes]}

    @classmethod
    def from_dict(cls, data: Any) -> Plan:
        """The inverse of `to_dict`.

        Raises:
            StoreError: It is not a plan, or of another schema version; the message names the field.
        """
        if not isinstance(data, Mapping):
            raise StoreError("A plan is a JSON object", given=type(data).__name__)
        version = data.get("schema_version")
        if version != SCHEMA_VERSION:
            raise StoreError(
                f"This version reads plans of schema version {SCHEMA_VERSION}",
                given=f"schema_version {version!r}",
                hint="Make the plan again, or install the version that wrote it.",
            )
        try:
            plan = converted(_with_todays_names(data), cls, "the plan")
        except UsageError as problem:  # what its own checks found
            raise StoreError(f"The plan is damaged: {problem}") from problem
        converted(plan.device, _Identity, "the plan's device")
        return plan

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it as JSON, whole or not at all, in the place of another plan or of nothing.

        Raises:
            UsageError: The name is taken by something else or is that of a script; or the plan has figures that no file
                holds, so that it could not be loaded again.
            StoreError: The file cannot be written.
        """
        try:
            data = (json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n").encode()
            self._of_bytes(data)
        except (ValueError, TypeError, RecursionError, StoreError) as problem:
            raise UsageError("A saved plan can be loaded again", given=str(problem)) from problem
        return write_file(path, data, PLAN_FILE)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """Read what `save` wrote.

        Raises:
            StoreError: The file is missing, unreadable or not a plan.
        """
        try:
            return cls._of_bytes(read_bytes(path, most=MOST_BYTES))
        except StoreError as problem:
            raise StoreError(
                f"The plan file {str(path)!r} cannot be used: {problem.rule}", given=problem.given, hint=problem.hint
            ) from problem

    @classmethod
    def _of_bytes(cls, data: bytes) -> Plan:
        return cls.from_dict(decode_json(data))


def _with_todays_names(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """A plan's data with the names of today: until 0.1, a lane's backends were called mechanisms."""
    lanes = data.get("lanes")
    if not isinstance(lanes, list):
        return data

    def renamed(lane: Any) -> Any:
        if not isinstance(lane, Mapping) or "mechanisms" not in lane or "backends" in lane:
            return lane
        return {"backends" if key == "mechanisms" else key: value for key, value in lane.items()}

    return {**data, "lanes": [renamed(lane) for lane in lanes]}


def backends_of(plan: Plan) -> dict[str, str]:
    """For each step of a plan, the backend that executes it."""
    return {name: how for lane in plan.lanes for name, how in zip(lane.members, lane.backends, strict=True)}


def sequential_plan(names: Sequence[str], units: int, **fields: Any) -> Plan:
    """Everything in one lane that has the whole device: how an ensemble runs without sharing."""
    return Plan(lanes=(Lane(units=units, members=tuple(names)),), units=units, **{"searcher": SEQUENTIAL, **fields})
