"""A plan whose sub-models are executed by other backends than it was searched for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from esen_lab.planner.plan import Plan, backends_of


def executed(plan: Plan, chosen: Mapping[str, str], seconds: Mapping[str, float]) -> Plan:
    """A plan whose sub-models are executed as chosen, with what is then predicted.

    Args:
        plan: Lanes of one device.
        chosen: For sub-models of it, a backend.
        seconds: For those, the latency at their shares; one that is missing is not known.

    Returns:
        The plan itself where nothing changes.
    """
    changed = plan.with_backends(chosen)
    predicted = plan.jct_s is not None and set(plan.steps) <= set(plan.predicted_s)
    if not predicted:
        return plan if changed == plan else changed
    before = backends_of(plan)
    lost = {name for name, way in chosen.items() if name not in seconds and way != before[name]}
    predicted_s = {name: seconds.get(name, known) for name, known in plan.predicted_s.items() if name not in lost}
    same = changed.lanes == plan.lanes
    changed = replace(changed, predicted_s=predicted_s)
    if changed == plan:
        return plan
    note = "executed in other ways than it was searched for: another search fits the shares to them"
    return replace(
        changed,
        # The time of a cascade is not the sum of its parts: it is planned again.
        jct_s=None
        if lost or plan.staged
        else max(sum(predicted_s[name] for name in lane.members) for lane in plan.lanes),
        worst_s=None,
        bound_s=None,  # it was that of other latencies
        measured_s=None,
        notes=plan.notes if same or note in plan.notes else (*plan.notes, note),
    )
