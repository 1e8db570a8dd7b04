"""The plan: the lanes of one ensemble on one device. What is run, tuned, saved and exported.

Saved as JSON with a `schema_version`; nothing in it is ever executed.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from esen_lab.errors import StoreError, UsageError
from esen_lab.frames import to_frame
from esen_lab.showing import Shown
from esen_lab.units import MECHANISMS, check_name, check_units, format_percent, format_seconds, format_table

SCHEMA_VERSION = 1
MODES = ("serial", "threads", "vmap")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """A share of the device and the sub-models that run on it.

    Attributes:
        units: The share.
        members: Names of the sub-models, in the order they run.
        active_units: For each member, how many of the lane's units it uses: fewer than `units` where its profile says
            that fewer are faster.
        device: On which of the plan's devices; "" where the plan has but one.
        stage: In which of the plan's stages, from 0.
        mechanisms: For each member how it is executed: "eager", "compile" (`torch.compile`) or "graph" (a CUDA graph).
        mode: "serial": one after another (a lane in the proper sense). "threads": all at once in a thread pool of one
            process. "vmap": all as one batched call of `torch.func`. The last two exist to be compared against.
    """

    units: int
    members: tuple[str, ...]
    active_units: tuple[int, ...] = ()
    mode: str = "serial"
    device: str = ""
    stage: int = 0
    mechanisms: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the fields against each other."""
        if not self.members:
            raise UsageError("A lane has at least one sub-model", given="a lane without any")
        for name in self.members:
            check_name(name)
        check_units(self.units, max(self.units, 1) if isinstance(self.units, int) else 1, "a lane's share")
        if not self.active_units:
            object.__setattr__(self, "active_units", (self.units,) * len(self.members))
        if len(self.active_units) != len(self.members):
            raise UsageError(
                "A lane names its active units once per member",
                given=f"{len(self.active_units)} for {len(self.members)}",
            )
        for active in self.active_units:
            check_units(active, self.units, "a sub-model's active units")
        if not self.mechanisms:
            object.__setattr__(self, "mechanisms", ("eager",) * len(self.members))
        if len(self.mechanisms) != len(self.members) or not set(self.mechanisms) <= set(MECHANISMS):
            raise UsageError(
                f"A lane names one of {', '.join(MECHANISMS)} once per member", given=list(self.mechanisms)
            )
        if self.mode == "vmap" and not self.all_eager:
            raise UsageError("Sub-models that run as one batched call are eager", given=", ".join(self.mechanisms))
        if self.mode not in MODES:
            raise UsageError(f"A lane's mode is one of {', '.join(MODES)}", given=self.mode)

    @property
    def all_eager(self) -> bool:
        """Whether every member is executed as it was registered."""
        return set(self.mechanisms) == {"eager"}

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "units": self.units,
            "members": list(self.members),
            "active_units": list(self.active_units),
            "mode": self.mode,
            **({"device": self.device} if self.device else {}),
            **({"stage": self.stage} if self.stage else {}),
            **({} if self.all_eager else {"mechanisms": list(self.mechanisms)}),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Shown):
    """The lanes of one ensemble on one device, with how they were found.

    Attributes:
        lanes: At least one; every sub-model is in exactly one of them.
        units: Units of the device it was made for.
        device: The device's identity as plain data.
        searcher: Who found it: "exact", "sequential", "by hand", ...
        jct_s: Predicted job completion time in seconds, or None where there was no profile to predict from.
        measured_s: Its median measured JCT in seconds, where the search measured; else None.
        bound_s: Proven lower bound on the JCT of any plan under the same cost models, or None.
        predicted_s: For each sub-model, the predicted latency in its lane, in seconds.
        fingerprints: For each sub-model, what it was when the plan was made.
        example: What the input looked like that was profiled ("float32[1, 64]"), or "".
        combine: The combine rule, for people.
        notes: Honest remarks for the reader ("sequential is as good").
        created_at: UTC ISO 8601, or "".
        left_out: Members of the ensemble that this plan leaves out on purpose.
        devices: Units by name, for a plan over several devices; else empty. `units` is then the largest.
        reach: For a plan in stages, for each stage the fraction of inputs that get there: 1, then never rising; else
            empty. `jct_s` is then the expected JCT.
        threshold: For a plan in stages, the confidence at which an input is done.
    """

    lanes: tuple[Lane, ...]
    units: int
    device: Mapping[str, Any] = field(default_factory=dict)
    searcher: str = "by hand"
    jct_s: float | None = None
    bound_s: float | None = None
    predicted_s: Mapping[str, float] = field(default_factory=dict)
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    example: str = ""
    combine: str = ""
    notes: tuple[str, ...] = ()
    created_at: str = ""
    measured_s: float | None = None
    left_out: tuple[str, ...] = ()
    devices: Mapping[str, int] = field(default_factory=dict)
    reach: tuple[float, ...] = ()
    threshold: float | None = None

    def __post_init__(self) -> None:
        """Check the fields against each other."""
        if not self.lanes:
            raise UsageError("A plan has at least one lane", given="none", hint="Register a sub-model first.")
        for lane in self.lanes:
            check_units(lane.units, self.units, "a lane's share")
        names = self.names
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise UsageError("A sub-model is in one lane", given=f"{', '.join(twice)} in several")
        both = sorted(set(names) & set(self.left_out))
        if both:
            raise UsageError("A sub-model is in a lane or left out", given=f"{', '.join(both)} both")
        self._check_devices()
        self._check_stages()

    def _check_devices(self) -> None:
        for lane in self.lanes:
            if lane.device not in (self.devices or {"": 0}):
                known = ", ".join(self.devices) or "none besides the one it is for"
                raise UsageError("A lane is on a device of its plan", given=repr(lane.device), hint=f"It has {known}.")
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

    @property
    def names(self) -> tuple[str, ...]:
        """Every sub-model of the plan, lane by lane."""
        return tuple(name for lane in self.lanes for name in lane.members)

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
    def only_planned(self) -> str:
        """Why this version cannot run it, in words; "" where it can."""
        if len(self.devices) > 1:
            return f"it is for {len(self.devices)} devices: {', '.join(self.devices)}"
        return f"it runs in {len(self.reach)} stages" if len(self.reach) > 1 else ""

    def check_runnable(self) -> None:
        """Whether this version can run it.

        Raises:
            UsageError: It is a plan over several devices, or in stages.
        """
        if self.only_planned:
            raise UsageError(
                "Plans over several devices or in stages are planned and saved, not run",
                given=self.only_planned,
                hint="Save it, or search a plan for this device.",
            )

    @property
    def is_sequential(self) -> bool:
        """Whether every sub-model runs in one lane, one after another."""
        return len(self.lanes) == 1 and self.lanes[0].mode == "serial"

    def lane_of(self, name: str) -> Lane:
        """The lane that `name` runs in.

        Raises:
            UsageError: No lane holds it.
        """
        for lane in self.lanes:
            if name in lane.members:
                return lane
        raise UsageError("A plan knows its own sub-models", given=name, hint=f"It has {', '.join(self.names)}.")

    def describe(self) -> str:
        """The lanes in one line: "2: a + b | 1: c"."""
        return ", then ".join(
            " | ".join(
                (f"{lane.device} " if lane.device else "")
                + f"{lane.units}: {' + '.join(_told(lane))}"
                + ("" if lane.mode == "serial" else f" ({lane.mode})")
                for lane in self.lanes
                if lane.stage == stage
            )
            for stage in range(max(1, len(self.reach)))
        )

    def __str__(self) -> str:
        """The lanes, what is predicted, and the remarks, for a terminal."""
        rows = [
            (str(n), f"{lane.units} of {self.units}", " → ".join(_told(lane)), lane.mode)
            for n, lane in enumerate(self.lanes, 1)
        ]
        gap = f", {format_percent(self.gap)} above the proven bound" if self.gap is not None else ""
        told = f"predicted JCT {format_seconds(self.jct_s)}{gap}, found by {self.searcher}"
        return "\n".join([format_table(("lane", "share", "sub-models", "mode"), rows), told, *self.notes])

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
                }
                for number, lane in enumerate(self.lanes, 1)
                for name, active in zip(lane.members, lane.active_units, strict=True)
            ]
        )

    def with_mechanisms(self, chosen: Mapping[str, str]) -> Plan:
        """The same plan with other ways to execute its sub-models; those not named stay as they are."""
        lanes = tuple(
            replace(
                lane,
                mechanisms=tuple(
                    chosen.get(name, before) for name, before in zip(lane.members, lane.mechanisms, strict=True)
                ),
            )
            for lane in self.lanes
        )
        return replace(self, lanes=lanes)

    def with_note(self, note: str) -> Plan:
        """The same plan with one more remark."""
        return replace(self, notes=(*self.notes, note))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the saved form."""
        return {
            "schema_version": SCHEMA_VERSION,
            "lanes": [lane.to_dict() for lane in self.lanes],
            "units": self.units,
            "device": dict(self.device),
            "searcher": self.searcher,
            "jct_s": self.jct_s,
            "measured_s": self.measured_s,
            "bound_s": self.bound_s,
            "predicted_s": dict(self.predicted_s),
            "fingerprints": dict(self.fingerprints),
            "example": self.example,
            "combine": self.combine,
            "notes": list(self.notes),
            "created_at": self.created_at,
            "left_out": list(self.left_out),
            "devices": dict(self.devices),
            "reach": list(self.reach),
            "threshold": self.threshold,
        }

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
            return cls(
                lanes=tuple(_lane_from(lane) for lane in _expect(data, "lanes", list)),
                units=_expect(data, "units", int),
                device=_expect(data, "device", dict),
                searcher=_expect(data, "searcher", str),
                jct_s=_seconds(data, "jct_s"),
                measured_s=_seconds(data, "measured_s"),
                bound_s=_seconds(data, "bound_s"),
                predicted_s={str(k): float(v) for k, v in _expect(data, "predicted_s", dict).items()},
                fingerprints={str(k): str(v) for k, v in _expect(data, "fingerprints", dict).items()},
                example=_expect(data, "example", str),
                combine=_expect(data, "combine", str),
                notes=tuple(str(note) for note in _expect(data, "notes", list)),
                created_at=_expect(data, "created_at", str),
                left_out=tuple(str(name) for name in _expect(data, "left_out", list, [])),
                devices={str(name): units for name, units in _expect(data, "devices", dict, {}).items()},
                reach=tuple(float(fraction) for fraction in _expect(data, "reach", list, [])),
                threshold=_seconds(data, "threshold"),
            )
        except (UsageError, ValueError, TypeError) as problem:
            raise StoreError(f"The plan is damaged: {problem}") from problem

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it as JSON, whole or not at all.

        Raises:
            StoreError: The file cannot be written.
        """
        return write_text_atomically(Path(path), json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """Read what `save` wrote.

        Raises:
            StoreError: The file is missing, unreadable or not a plan.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as problem:
            raise StoreError(f"The plan file {str(path)!r} cannot be read: {problem.strerror}") from problem
        except (ValueError, RecursionError) as problem:
            raise StoreError(f"The plan file {str(path)!r} is not JSON: {problem}") from problem
        try:
            return cls.from_dict(data)
        except StoreError as problem:
            raise StoreError(f"{str(path)!r}: {problem.rule}", given=problem.given, hint=problem.hint) from problem


def write_text_atomically(path: Path, text: str) -> Path:
    """Write `text` under a temporary name beside `path`, then rename it: readers see the old file or the new one.

    Raises:
        StoreError: The folder is missing, read-only or full; nothing is left behind.
    """
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as problem:
        raise StoreError(
            f"{str(path)!r} cannot be written: {problem.strerror}",
            hint="Choose another folder, or make room there.",
        ) from problem
    return path


def sequential_plan(names: Sequence[str], units: int, **known: Any) -> Plan:
    """Everything in one lane that has the whole device: how an ensemble runs without sharing."""
    return Plan(lanes=(Lane(units=units, members=tuple(names)),), units=units, **{"searcher": "sequential", **known})


def _told(lane: Lane) -> list[str]:
    """The members of a lane, each with how it is executed where that is not eagerly."""
    return [
        name if how == "eager" else f"{name} ({how})" for name, how in zip(lane.members, lane.mechanisms, strict=True)
    ]


def _lane_from(data: Any) -> Lane:
    if not isinstance(data, Mapping):
        raise StoreError("A lane is a JSON object", given=type(data).__name__)
    return Lane(
        units=_expect(data, "units", int),
        members=tuple(_expect(data, "members", list)),
        active_units=tuple(_expect(data, "active_units", list)),
        mode=_expect(data, "mode", str),
        device=_expect(data, "device", str, ""),
        stage=_expect(data, "stage", int, 0),
        mechanisms=tuple(_expect(data, "mechanisms", list, [])),
    )


def _expect(data: Mapping[str, Any], key: str, kind: type, absent: Any = None) -> Any:
    value = data.get(key, absent)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise StoreError(f"The field {key!r} is of type {kind.__name__}", given=value)
    return value


def _seconds(data: Mapping[str, Any], key: str) -> float | None:
    value = data.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (math.isfinite(value) and value >= 0):
        raise StoreError(f"The field {key!r} is a number of seconds or null", given=value)
    return float(value)
