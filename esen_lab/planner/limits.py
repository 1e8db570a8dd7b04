"""What a plan must keep to: limits on shares, on who shares a lane with whom, on lanes, memory and the whole.

Limits restrict; none of them changes what a latency is. They are checked against the sub-models and the device once,
when a search begins.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeGuard

from esen_lab.common.units import check_units, format_bytes, format_units, whole
from esen_lab.common.words import unknown
from esen_lab.errors import InfeasibleError, UsageError

UNLIMITED = math.inf
"""An oversubscription factor: every lane may have the whole device."""

_MOST = 2**62  # no device has so many units or bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a plan must keep to. All of it is optional.

    Attributes:
        min_units: For a sub-model, the smallest share its lane may have.
        max_units: For a sub-model, the largest share its lane may have.
        pinned: For a sub-model, the share its lane must have (a slider that the user fixed).
        together: Groups of sub-models that must be in one lane.
        apart: Groups of sub-models no two of which may be in one lane.
        one_each: Every sub-model gets a lane of its own.
        max_lanes: At most so many lanes.
        oversubscription: The lanes' shares may sum to this many times the device, at least 1; `UNLIMITED` for any sum.
            Latencies are still taken to be what they are alone, so predictions grow too good: measure such plans.
        memory_limit_bytes: What all sub-models and lanes may take together.
        memory_bytes: For each sub-model, what it takes at most, weights included. All stay loaded, so all count.
        lane_bytes: What each lane takes besides (about 550 MB for a CUDA process).
        target_s: A JCT that is short enough: the plan takes the fewest units that reach it, the rest stays free.
    """

    min_units: Mapping[str, int] = field(default_factory=dict)
    max_units: Mapping[str, int] = field(default_factory=dict)
    pinned: Mapping[str, int] = field(default_factory=dict)
    together: Sequence[Sequence[str]] = ()
    apart: Sequence[Sequence[str]] = ()
    one_each: bool = False
    max_lanes: int | None = None
    oversubscription: float = 1.0
    memory_limit_bytes: int | None = None
    memory_bytes: Mapping[str, int] = field(default_factory=dict)
    lane_bytes: int = 0
    target_s: float | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without the sub-models."""
        for what in ("min_units", "max_units", "pinned", "memory_bytes"):
            object.__setattr__(self, what, _table(what, getattr(self, what)))
        for what in ("together", "apart"):
            _check_groups(what, getattr(self, what))
        if not isinstance(self.one_each, bool):
            raise UsageError("The limit 'one_each' is true or false", given=f"{self.one_each!r}")
        if not _is_number(self.oversubscription) or not self.oversubscription >= 1:
            raise UsageError("An oversubscription factor is at least 1", given=f"{self.oversubscription!r}")
        if self.max_lanes is not None:
            lanes = _whole(self.max_lanes)
            if lanes is None or lanes < 1:
                raise UsageError("A plan has at least one lane", given=f"max_lanes={self.max_lanes!r}")
            object.__setattr__(self, "max_lanes", lanes)
        if self.target_s is not None and not (_is_number(self.target_s) and 0 < self.target_s < math.inf):
            raise UsageError("A latency target is a positive number of seconds", given=f"{self.target_s!r}")
        for size in (self.lane_bytes, 0 if self.memory_limit_bytes is None else self.memory_limit_bytes):
            if not _is_number(size) or not 0 <= size < math.inf:
                raise UsageError("A memory limit is a number of bytes, at least 0", given=f"{size!r}")

    @classmethod
    def of(cls, given: Limits | Mapping[str, Any] | None) -> Limits:
        """`given` itself, or made from a mapping of its attributes, or no limits.

        Raises:
            UsageError: An attribute is not known, or its value is not possible.
        """
        if given is None:
            return cls()
        if isinstance(given, Limits):
            return given
        names = [f.name for f in fields(cls)]
        if not isinstance(given, Mapping):
            raise UsageError("Limits are given by name, as a dict", given=f"a {type(given).__name__}")
        strange = sorted(str(name) for name in given if name not in names)
        if strange:
            raise unknown(f"The limits are {', '.join(names)}", strange[0], names, given=", ".join(strange))
        return cls(**given)

    def check(self, names: Sequence[str], units: int) -> None:
        """Whether they speak of these sub-models and of shares that the device has.

        Raises:
            UsageError: An unknown sub-model, or a share outside 1..units.
        """
        groups = {"together": self.together, "apart": self.apart}
        spoken_of = {
            **{what: set(getattr(self, what)) for what in ("min_units", "max_units", "pinned", "memory_bytes")},
            **{what: {name for group in several for name in group} for what, several in groups.items()},
        }
        for what, mentioned in spoken_of.items():
            for name in sorted(mentioned - set(names)):
                raise unknown(
                    f"The limit {what!r} speaks of sub-models of the ensemble",
                    name,
                    names,
                    given=repr(name),
                    hint=f"It has {', '.join(names)}.",
                )
        for what in ("min_units", "max_units", "pinned"):
            for name, share in getattr(self, what).items():
                check_units(share, units, f"the limit {what!r} of {name!r}")

    def range_of(self, members: Sequence[str], units: int) -> tuple[int, int]:
        """The smallest and the largest share that a lane with `members` may have.

        Raises:
            InfeasibleError: There is none; the message names the two limits that exclude each other.
        """
        least, why_least = 1, "every lane has at least 1 unit"
        most, why_most = units, f"the device has {units} units"
        for name in members:
            for what, share in self._least(name):
                if share > least:
                    least, why_least = share, f"{name!r} has {what} = {share}"
            for what, share in self._most(name):
                if share < most:
                    most, why_most = share, f"{name!r} has {what} = {share}"
        if least > most:
            who = repr(members[0]) if len(members) == 1 else f"the lane of {', '.join(members)}"
            raise InfeasibleError(
                f"A share for {who} must keep every limit",
                given=f"{why_least}, but {why_most}: {format_units(least - most, 'unit')} apart",
                hint="Loosen one of the two.",
            )
        return least, most

    def _least(self, name: str) -> list[tuple[str, int]]:
        return [(what, getattr(self, what)[name]) for what in ("min_units", "pinned") if name in getattr(self, what)]

    def _most(self, name: str) -> list[tuple[str, int]]:
        return [(what, getattr(self, what)[name]) for what in ("max_units", "pinned") if name in getattr(self, what)]

    def allows_one_lane(self, names: Sequence[str], units: int) -> bool:
        """Whether one lane with all of these sub-models and the whole device keeps them, however long it takes.

        Not where the fewest units are looked for that reach a target.
        """
        if len(names) > 1 and (self.one_each or any(len(set(group) & set(names)) > 1 for group in self.apart)):
            return False
        try:
            _, most = self.range_of(names, units)
            self.most_lanes(names, 1)
        except InfeasibleError:
            return False
        return most == units and self.target_s is None

    def capacity(self, units: int, lanes: int) -> int:
        """What the shares of at most `lanes` lanes may sum to."""
        return int(min(math.floor(units * min(self.oversubscription, lanes) + 1e-9), units * lanes))

    def most_lanes(self, names: Sequence[str], items: int) -> int:
        """How many lanes `max_lanes` and the memory limit leave, of at most one per item.

        Raises:
            InfeasibleError: Not even one lane fits into memory, or one lane per item is asked for and does not fit.
        """
        most = items if self.max_lanes is None else min(items, self.max_lanes)
        limit = self.memory_limit_bytes
        if limit is not None:
            models = sum(self.memory_bytes.get(name, 0) for name in names)
            if models + self.lane_bytes > limit:
                short = models + self.lane_bytes - limit
                raise InfeasibleError(
                    f"All sub-models and their lanes take at most {format_bytes(limit)}",
                    given=f"the sub-models take {format_bytes(models)} and one lane {format_bytes(self.lane_bytes)}, "
                    f"{format_bytes(short)} too much",
                    hint="Raise memory_limit_bytes or leave sub-models out.",
                )
            if self.lane_bytes:
                most = min(most, int((limit - models) // self.lane_bytes))  # sizes may be floats: 4e9
        if self.one_each and most < items:
            raise InfeasibleError(
                "Every sub-model has a lane of its own (one_each)",
                given=f"{items} lanes are needed and the other limits leave {most}, {items - most} too few",
                hint="Raise max_lanes or memory_limit_bytes, or give up one_each.",
            )
        return most


def _table(what: str, table: object) -> Mapping[str, int]:
    if not isinstance(table, Mapping) or not all(isinstance(name, str) for name in table):
        raise UsageError(f"The limit {what!r} is a dict of names and whole numbers", given=_short(table))
    found: dict[str, int] = {}
    for name, value in table.items():
        number = _whole(value)
        if number is None or number < 0:
            raise UsageError(f"The limit {what!r} of {name!r} is a whole number, at least 0", given=_short(value))
        found[name] = number
    return found


def _check_groups(what: str, groups: object) -> None:
    sound = isinstance(groups, Collection) and not isinstance(groups, (str, bytes, Mapping))
    for group in groups if sound else ():  # type: ignore[attr-defined]  # `sound` says so
        sound = sound and isinstance(group, Collection) and not isinstance(group, (str, bytes, Mapping))
        sound = sound and all(isinstance(name, str) for name in group)
    if not sound:
        raise UsageError(f"The limit {what!r} is a list of lists of names", given=_short(groups))


def _is_number(value: object) -> TypeGuard[float]:
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and (value == math.inf or abs(value) <= _MOST)
    )


def _whole(value: object) -> int | None:
    number = whole(value)
    return number if number is not None and abs(number) <= _MOST else None


def _short(value: object) -> str:
    return reprlib.repr(value)
