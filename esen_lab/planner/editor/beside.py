"""What lies beside a draft: the last run, plans that were in force, other choices of members. Plain records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

Lanes: TypeAlias = tuple[tuple[int, tuple[str, ...]], ...]
"""Units and members of each lane."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LastRun:
    """What happened in a run.

    Attributes:
        jct_s: Its JCT in seconds.
        lanes: What ran.
        spans: (sub-model, lane's index, begin, end) in seconds since the batch was handed over.
    """

    jct_s: float
    lanes: Lanes
    spans: tuple[tuple[str, int, float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PastPlan:
    """A plan that was in force.

    Attributes:
        number: By which it is taken again.
        lanes: Its lanes.
        described: The same for people.
        predicted_s: What was predicted, or None.
        measured_s: The JCT last measured of it, or None.
        in_force: Whether it is in force now.
    """

    number: int
    lanes: Lanes
    described: str
    predicted_s: float | None
    measured_s: float | None
    in_force: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """A choice of members that is worth having: no other is as accurate and faster.

    Attributes:
        number: By which it is taken, from 0.
        members: Who takes part.
        jct_s: Predicted, in seconds.
        accuracy: On the validation data, 0..1.
        in_force: Whether these members are those of the plan in force.
    """

    number: int
    members: tuple[str, ...]
    jct_s: float
    accuracy: float
    in_force: bool
