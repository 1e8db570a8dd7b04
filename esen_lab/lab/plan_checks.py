"""What binds a plan to a lab: where it comes from, whether it fits, what differs from when it was made."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from esen_lab.common.trees import tree_spec
from esen_lab.devices import Device
from esen_lab.ensemble import Ensemble, SubModel
from esen_lab.planner.fits import changed_since
from esen_lab.planner.plan import Plan
from esen_lab.run import Executor


def origin(ensemble: Ensemble, device: Device) -> dict[str, Any]:
    """What every plan made here says of where it comes from."""
    return {
        "device": device.identity.to_dict(),
        "fingerprints": ensemble.fingerprints,
        "example": _example_text(ensemble),
        "combine": ensemble.combine.describe(),
    }


def _example_text(ensemble: Ensemble) -> str:
    return str(tree_spec(ensemble.example)) if ensemble.submodels else ""


def members_run_by(plan: Plan, ensemble: Ensemble) -> Ensemble:
    """The members that a plan runs."""
    return ensemble.only(plan.names) if plan.left_out else ensemble


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


def made_before_changes(plan: Plan, ensemble: Ensemble) -> tuple[str, ...]:
    """What a report says where sub-models have changed since their plan was made; () where none has."""
    changed = changed_since(plan, ensemble)
    return (f"The plan was made before {', '.join(changed)} changed: profile and search again.",) if changed else ()


def same_lanes(executor: Executor, plan: Plan, ensemble: Ensemble) -> bool:
    """Whether warm lanes are those of a plan, with sub-models that take the same arguments."""
    if executor.plan is plan and executor.ensemble is ensemble:
        return True
    return executor.plan.lanes == plan.lanes and all(
        name in executor.ensemble.names and executor.ensemble.get(name).input_keys == ensemble.get(name).input_keys
        for name in plan.names
    )


def holds(executor: Executor, plan: Plan, ensemble: Ensemble) -> bool:
    """Whether warm lanes do just what a plan asks for now, with nothing to load."""
    return same_lanes(executor, plan, ensemble) and all(
        executor.ensemble.get(name).same_as(ensemble.get(name)) for name in plan.names
    )


def same_code(before: SubModel, after: SubModel) -> bool:
    """Whether a network, registered twice, has the same code: at most the values of its tensors differ."""
    return before.code_fingerprint == after.code_fingerprint


def with_values_changed(plan: Plan | None, name: str, before: str, after: str) -> Plan | None:
    """A plan whose sub-model has other weights now, of the same shape, which take the same time."""
    if plan is None or plan.fingerprints.get(name) != before:
        return plan
    return replace(plan, fingerprints={**plan.fingerprints, name: after})
