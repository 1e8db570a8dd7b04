"""A plan that is being made by hand, and what it promises.

t   tables: for each sub-model, predicted seconds at 1..units units, never rising
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from esen_lab.common.units import whole
from esen_lab.common.words import unknown
from esen_lab.errors import UsageError
from esen_lab.planner.bounds import schedule_bound_s
from esen_lab.planner.limits import Limits
from esen_lab.planner.problem import make_problem
from esen_lab.planner.steps import members_of

Tables: TypeAlias = Mapping[str, Sequence[float]]
LaneKey: TypeAlias = str | int
"""How a lane is named: by a sub-model that runs in it, or by its number from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftLane:
    """A share, the sub-models that run on it in this order, and whether the share is fixed."""

    units: int
    members: tuple[str, ...]
    pinned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """Lanes that are being edited.

    Attributes:
        lanes: At least one; every sub-model is in exactly one.
        units: Units of the device.
        oversubscribe: Whether the shares may sum to more than the device.
    """

    lanes: tuple[DraftLane, ...]
    units: int
    oversubscribe: bool = False

    @property
    def total_units(self) -> int:
        """What the shares sum to."""
        return sum(lane.units for lane in self.lanes)

    @property
    def names(self) -> tuple[str, ...]:
        """Every sub-model, lane by lane."""
        return tuple(name for lane in self.lanes for name in lane.members)

    def find(self, key: LaneKey) -> int:
        """The index of the lane that `key` names.

        Raises:
            UsageError: There is none.
        """
        if isinstance(key, str) and key.isdecimal():
            key = int(key)
        number = whole(key)
        if number is not None:
            if 1 <= number <= len(self.lanes):
                return number - 1
            raise UsageError(f"A lane has a number: {self._numbers}", given=f"lane {key}")
        for index, lane in enumerate(self.lanes):
            if key in lane.members:
                return index
        holding = [index for index, lane in enumerate(self.lanes) if key in members_of(lane.members)]
        if holding:  # in a group, or the first of its parts
            return holding[0]
        raise unknown(
            "A lane is named by a sub-model in it, or by its number",
            key,
            self.names,
            given=f"{key!r}",
            hint=f"Sub-models: {', '.join(self.names)}; lanes: {self._numbers}.",
        )

    @property
    def _numbers(self) -> str:
        return "1" if len(self.lanes) == 1 else f"1 to {len(self.lanes)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a draft promises under the cost models.

    Attributes:
        lane_s: Predicted seconds of each lane.
        jct_s: The largest of them.
        bound_s: No plan of at most as many units is faster: proven.
        limiting: The index of the slowest lane, the first of several.
    """

    lane_s: tuple[float, ...]
    jct_s: float
    bound_s: float
    limiting: int

    @property
    def gap(self) -> float:
        """JCT / bound - 1."""
        return max(0.0, self.jct_s / self.bound_s - 1)


def lane_seconds(tables: Tables, members: Sequence[str], units: int) -> float:
    """Seconds that `members` take one after another in a lane of `units` units."""
    return math.fsum(tables[name][units - 1] for name in members)


def forecast(draft: Draft, tables: Tables, bound_s: float) -> Forecast:
    """Predict a draft. `bound_s` comes from `bound_for`, or from a search that proved a better one."""
    lane_s = tuple(lane_seconds(tables, lane.members, lane.units) for lane in draft.lanes)
    jct_s = max(lane_s)
    return Forecast(lane_s=lane_s, jct_s=jct_s, bound_s=min(bound_s, jct_s), limiting=lane_s.index(jct_s))


def bound_for(tables: Tables, units: int, total_units: int) -> float:
    """Seconds that no schedule on `total_units` units can beat (more than `units` where lanes oversubscribe)."""
    limits = Limits(oversubscription=max(1.0, total_units / units))
    return schedule_bound_s(make_problem(tables, units, limits))
