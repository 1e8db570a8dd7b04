"""What a lab says of itself: where it stands, what to do next, and what a change of the device meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from esen_lab.common.display import Shown
from esen_lab.files.schemas import plain
from esen_lab.planner.plan import Plan


class Action(StrEnum):
    """What somebody with a lab may do next."""

    REGISTER = "register"
    WAIT = "wait"  # for the profile that is running
    PROFILE = "profile"
    SEARCH = "search"
    RUN = "run"
    COMPARE = "compare"
    EXPORT = "export"


@dataclass(frozen=True, slots=True, kw_only=True)
class NextStep:
    """The next sensible thing to do.

    Attributes:
        action: What: all but `WAIT` are methods of a lab.
        why: What speaks for it, a clause.
    """

    action: Action
    why: str

    def to_dict(self) -> dict[str, str]:
        """Plain data."""
        return plain(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Status(Shown):
    """Where a lab stands, as plain data.

    Attributes:
        device: The device's identity.
        device_notes: What limits shares on it.
        submodels: Plain rows, one per sub-model.
        combine: The combine rule.
        profiled: For each sub-model, how many shares have been measured.
        job: What the last profile job says, or "".
        plan: The plan in force, or None.
        running: Whether its lanes are warm.
        next_step: The next sensible thing to do.
        waiting: How many calls wait for their turn now.
        nodes: For each node that the plan runs on, a sentence: who runs there, and what it is doing.
        served: What is served, where, and how it stands; "" where nothing is.
    """

    device: Mapping[str, Any]
    device_notes: tuple[str, ...]
    submodels: tuple[Mapping[str, Any], ...]
    combine: str
    profiled: Mapping[str, int]
    job: str
    plan: Plan | None
    running: bool
    next_step: NextStep
    waiting: int = 0
    nodes: tuple[str, ...] = ()
    served: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**plain(self), "plan": None if self.plan is None else self.plan.to_dict()}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceChange(Shown):
    """What choosing another device meant.

    Attributes:
        before: The identity of the device that was left.
        after: That of the one chosen.
        device_notes: What limits or disturbs shares on it.
        profiled: For each sub-model, at how many shares measurements for the new device are known already.
        plan: The plan that is in force now, or None.
        put_away: The plan that was in force, where it cannot go on; it comes back with its device.
        notes: All that in words.
    """

    before: Mapping[str, Any]
    after: Mapping[str, Any]
    device_notes: tuple[str, ...] = ()
    profiled: Mapping[str, int]
    plan: Plan | None = None
    put_away: Plan | None = None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        plans = {name: getattr(self, name) for name in ("plan", "put_away")}
        return {**plain(self), **{name: plan and plan.to_dict() for name, plan in plans.items()}}


def meaning_of_change(
    profiled: Mapping[str, int], put_away: Plan | None, plan: Plan | None, *, same: bool
) -> Sequence[str]:
    """What a change of the device means, in words."""
    if same:
        return ("It is the same kind of device: measurements and plan stay.",)
    found = []
    if profiled:
        known = [f"{name} at {count} shares" for name, count in profiled.items() if count]
        found.append(f"Measured on it already: {', '.join(known)}." if known else "Nothing is measured on it yet.")
    if put_away is not None:
        found.append("The plan for the device before is put away; it comes back with its device.")
    if plan is not None:
        found.append("The plan that this device had is in force again.")
    return found
