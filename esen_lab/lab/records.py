"""What a lab says of itself: where it stands, and what a change of the device meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from esen_lab.showing import Shown

if TYPE_CHECKING:
    from esen_lab.planning import Plan


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
        next_step: The next sensible thing to do, in words.
    """

    device: Mapping[str, Any]
    device_notes: tuple[str, ...]
    submodels: tuple[Mapping[str, Any], ...]
    combine: str
    profiled: Mapping[str, int]
    job: str
    plan: Plan | None
    running: bool
    next_step: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "device": dict(self.device),
            "device_notes": list(self.device_notes),
            "submodels": [dict(row) for row in self.submodels],
            "combine": self.combine,
            "profiled": dict(self.profiled),
            "job": self.job,
            "plan": None if self.plan is None else self.plan.to_dict(),
            "running": self.running,
            "next_step": self.next_step,
        }


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
        return {
            "before": dict(self.before),
            "after": dict(self.after),
            "device_notes": list(self.device_notes),
            "profiled": dict(self.profiled),
            "plan": None if self.plan is None else self.plan.to_dict(),
            "put_away": None if self.put_away is None else self.put_away.to_dict(),
            "notes": list(self.notes),
        }


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
