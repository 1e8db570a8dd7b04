"""Whether a plan fits an ensemble and a device: asked before anything is started, saved or exported for it.

Whether members make an ensemble at all is asked of them: `esen_lab.ensemble.check_together`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from esen_lab.common.surroundings import step
from esen_lab.common.units import format_units
from esen_lab.errors import UsageError
from esen_lab.planner.plan import Plan
from esen_lab.planner.steps import Step

if TYPE_CHECKING:
    from esen_lab.ensemble import Ensemble


class Sized(Protocol):
    """What counts of a device."""

    @property
    def units(self) -> int:
        """How many it has."""

    @property
    def identity(self) -> Any:
        """What it is; its `unit` is what one unit is called."""


def check_fits(plan: Plan, ensemble: Ensemble, device: Sized | None = None) -> None:
    """Refuse a plan that cannot run here, on one device.

    Args:
        plan: The plan.
        ensemble: It holds the sub-models that the plan runs, and none besides those that it leaves out.
        device: Where it is to run; None where that is not known yet.

    Raises:
        UsageError: It is only for planning, covers other sub-models, or was made for a larger device.
    """
    check_runnable(plan)
    check_members(plan, ensemble)
    if device is not None and plan.units > device.units:
        raise UsageError(
            f"This device has {format_units(device.units, device.identity.unit)}",
            given=f"a plan for {plan.units} ({plan.device.get('name', 'unknown device')})",
            hint="Search again here: plans for larger devices do not fit.",
        )


def check_members(plan: Plan, ensemble: Ensemble) -> None:
    """Refuse a plan of other sub-models than those of an ensemble.

    Raises:
        UsageError: The message names each.
    """
    ours, planned = set(ensemble.names), plan.names
    differ = [
        *(f"{name!r} is in the plan only" for name in planned if name not in ours),
        *(f"{name!r} is in the ensemble only" for name in sorted(ours - {*planned, *plan.left_out})),
    ]
    if differ:
        raise UsageError(
            "A plan and its ensemble hold the same sub-models",
            given="; ".join(differ),
            hint="Register the same sub-models, or search for a plan again.",
        )


def only_planned(plan: Plan) -> str:
    """Why this version cannot run a plan, in words; "" where it can."""
    if len(plan.devices) > 1:
        return f"it is for {len(plan.devices)} devices: {', '.join(plan.devices)}"
    return stages_only_planned(plan)


def stages_only_planned(plan: Plan) -> str:
    """Why the stages of a plan cannot be run, wherever its lanes are, in words; "" where they can, or it has none."""
    if not plan.staged:
        return ""
    if not plan.thresholds:
        return f"it runs in {len(plan.reach)} stages and has no threshold at which an input is done"
    parts = [name for name in plan.steps if Step.of(name).parts > 1]
    return f"its batch shrinks between stages, and {parts[0]} runs a fixed part of it" if parts else ""


def check_runnable(plan: Plan) -> None:
    """Whether this version can run a plan.

    Raises:
        UsageError: It is a plan over several devices, or in stages that nothing says when to leave.
    """
    why = only_planned(plan)
    if why:
        raise UsageError(
            "A plan that is run is for one device; one in stages has thresholds and splits no batch",
            given=why,
            hint="It can be saved. Search a plan for this device to run one; one for nodes of a cluster runs once they "
            f"are reached: {step('lab.cluster.connect()', '%esen cluster auto')}.",
        )


def fits(plan: Plan, ensemble: Ensemble, device: Sized | None = None) -> bool:
    """Whether a plan can run here; see `check_fits`."""
    try:
        check_fits(plan, ensemble, device)
    except UsageError:
        return False
    return True


def changed_since(plan: Plan, ensemble: Ensemble) -> list[str]:
    """Those of a plan's sub-models that are not what they were when it was made."""
    ours = ensemble.fingerprints
    return [name for name in plan.names if plan.fingerprints.get(name, ours[name]) != ours[name]]
