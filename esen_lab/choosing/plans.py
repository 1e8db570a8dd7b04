"""What a search found, as a plan: the one form that is run, tuned, saved and exported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from esen_lab.fitting import CostModel
from esen_lab.planning import Lane, Plan
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
