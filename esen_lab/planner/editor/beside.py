"""What an editor needs of a lab: the last run, plans that were in force, other choices of members."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from esen_lab.planner.plan import Plan

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


class Bench(Protocol):
    """Where the plan of a draft is put to use. Its methods may take seconds, and are called without a lock held."""

    def in_force(self) -> Plan | None:
        """The plan in force."""

    def facts(self) -> Mapping[str, Any]:
        """What a plan says of its making: `device`, `fingerprints`, `example`, `combine`."""

    def apply(self, plan: Plan) -> None:
        """Put the plan in force and have its lanes running.

        Raises:
            EsenError: It could not; the plan before it is in force still.
        """

    def measure(self, repeats: int) -> Sequence[float]:
        """The JCT of each of so many runs of the plan in force, in seconds."""

    def far(self) -> Sequence[str]:
        """What the last measurement says where it is far from its prediction; else nothing."""

    def ran(self) -> LastRun | None:
        """The last run; None before the first."""

    def offered(self) -> Sequence[Offered]:
        """The choices of members that were found worth having, by rising JCT."""

    def take(self, number: int) -> None:
        """Put one of `offered` in force.

        Raises:
            UsageError: There is none of that number.
        """

    def export(self, plan: Plan, path: str | os.PathLike[str]) -> Any:
        """Write the plan as a script."""
