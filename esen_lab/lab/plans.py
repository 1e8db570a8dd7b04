"""What binds a plan to a lab: where it comes from, whether it fits, what differs from when it was made."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from esen_lab.errors import UsageError
from esen_lab.runtime.executor import example_of
from esen_lab.trees import tree_spec
from esen_lab.units import format_units

if TYPE_CHECKING:
    from esen_lab.devices import Device
    from esen_lab.ensemble import Ensemble
    from esen_lab.planning import Plan
    from esen_lab.runtime import Executor


def origin(ensemble: Ensemble, device: Device) -> dict[str, Any]:
    """What every plan made here says of where it comes from."""
    return {
        "device": device.identity.to_dict(),
        "fingerprints": ensemble.fingerprints,
        "example": _example_text(ensemble),
        "combine": ensemble.combine.describe(),
    }


def now() -> str:
    """The time as plans tell it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _example_text(ensemble: Ensemble) -> str:
    return str(tree_spec(example_of(ensemble))) if ensemble.submodels else ""


def members_run_by(plan: Plan, ensemble: Ensemble) -> Ensemble:
    """The members that a plan runs."""
    return ensemble.only(plan.names) if plan.left_out else ensemble


def check_fits(plan: Plan, ensemble: Ensemble, device: Device) -> None:
    """Refuse a plan that cannot run here.

    Raises:
        UsageError: It is only for planning, covers other sub-models, or needs a larger device.
    """
    plan.check_runnable()
    names = set(ensemble.names)
    missing = sorted(set(plan.names) - names)
    extra = sorted(names - set(plan.names) - set(plan.left_out))
    if missing or extra:
        parts = [f"{', '.join(missing)} not registered"] if missing else []
        parts += [f"{', '.join(extra)} not in the plan"] if extra else []
        raise UsageError(
            "A plan covers exactly the registered sub-models",
            given="; ".join(parts),
            hint="Register the same sub-models, or search again.",
        )
    if plan.units > device.units:
        raise UsageError(
            f"This device has {format_units(device.units, device.identity.unit)}",
            given=f"a plan for {plan.units} ({plan.device.get('name', 'unknown device')})",
            hint="Search again here: plans for larger devices do not fit.",
        )


def fits(plan: Plan, ensemble: Ensemble, device: Device) -> bool:
    """Whether a plan can run here."""
    try:
        check_fits(plan, ensemble, device)
    except UsageError:
        return False
    return True


def changed_since(plan: Plan, ensemble: Ensemble) -> list[str]:
    """Those of a plan's sub-models that are not what they were when it was made."""
    ours = ensemble.fingerprints
    return [name for name in plan.names if plan.fingerprints.get(name, ours[name]) != ours[name]]


def differences(plan: Plan, ensemble: Ensemble, device: Device) -> list[str]:
    """What is not as it was when a plan was made, in words."""
    here = device.identity.to_dict()
    found = [
        f"Made on another device: {key} {plan.device.get(key)!r} there, {here[key]!r} here."
        for key in ("kind", "name", "units")
        if plan.device and plan.device.get(key) != here[key]
    ]
    changed = changed_since(plan, ensemble)
    if changed:
        found.append(f"Made for another version of {', '.join(changed)} (weights, structure or source differ).")
    example = _example_text(ensemble)
    if plan.example and plan.example != example:
        found.append(f"Profiled for {plan.example}; the examples here are {example}.")
    rule = members_run_by(plan, ensemble).combine.describe()
    if plan.combine and plan.combine != rule:
        found.append(f"Made with combine rule {plan.combine}; here it is {rule}.")
    return found


def same_work(executor: Executor, plan: Plan, ensemble: Ensemble) -> bool:
    """Whether warm lanes do just what a plan asks for now."""
    return executor.plan.lanes == plan.lanes and all(
        name in executor.ensemble.names and executor.ensemble.get(name).fingerprint == ensemble.get(name).fingerprint
        for name in plan.names
    )
