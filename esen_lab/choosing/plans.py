"""What a search found, as a plan: the one form that is run, tuned, saved and exported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from esen_lab.fitting import CostModel
from esen_lab.planning import Lane, Plan
from esen_lab.profiling.mechanisms import MechanismTable
from esen_lab.search import Allocation


def plan_of_allocation(found: Allocation, models: Mapping[str, CostModel], units: int, **known: Any) -> Plan:
    """The plan of an allocation.

    Args:
        found: What a search over `models` returned.
        models: The cost models; those of other sub-models do not matter.
        units: Units of the device.
        **known: Further fields of the plan; its notes come before those of the allocation.
    """
    lanes = tuple(
        Lane(
            units=share,
            members=tuple(names),
            active_units=tuple(models[name].active_units[share - 1] for name in names),
            mechanisms=tuple(models[name].mechanism for name in names),
        )
        for share, names in found.lanes
    )
    notes = (*known.pop("notes", ()), *found.notes)
    return Plan(
        lanes=lanes,
        units=units,
        searcher=found.searcher,
        jct_s=found.jct_s,
        measured_s=found.measured_s,
        bound_s=found.bound_s,
        predicted_s={name: models[name].latency_s[lane.units - 1] for lane in lanes for name in lane.members},
        notes=tuple(dict.fromkeys(notes)),
        **known,
    )


def executed(plan: Plan, table: MechanismTable, before: Mapping[str, float]) -> Plan:
    """A plan whose sub-models are executed as `table` chose, with what is then predicted.

    Args:
        plan: Lanes of one device.
        table: What was measured at the plan's shares.
        before: For sub-models that the plan does not execute eagerly, the part of the eager time that was predicted.
    """
    ways = {name: way for lane in plan.lanes for name, way in zip(lane.members, lane.mechanisms, strict=True)}
    changed = plan.with_mechanisms(table.chosen)
    factors = {
        name: table.part(name) / (1.0 if ways[name] == "eager" else before.get(name, 1.0)) for name in table.chosen
    }
    known = plan.jct_s is not None and set(plan.names) <= set(plan.predicted_s)
    if not known or all(factor == 1.0 for factor in factors.values()):
        return changed
    predicted_s = {name: seconds * factors.get(name, 1.0) for name, seconds in plan.predicted_s.items()}
    return replace(
        changed,
        predicted_s=predicted_s,
        jct_s=max(sum(predicted_s[name] for name in lane.members) for lane in plan.lanes),
        bound_s=None,  # it was that of other latencies
        measured_s=None,
        notes=(*plan.notes, "executed in other ways than it was searched for: another search fits the shares to them"),
    )
