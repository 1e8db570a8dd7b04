"""A plan for several nodes, parted: what each of them runs, as a plan of its own with the sub-models that it needs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from esen_lab.cluster.orders import NodeBundle
from esen_lab.ensemble import Ensemble, make_combine
from esen_lab.errors import UsageError
from esen_lab.planner.plan import Plan
from esen_lab.planner.steps import members_of


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePart:
    """What one node runs of a plan.

    Attributes:
        node: The node's name.
        plan: Its lanes, as a plan for one device.
        lanes: For each of them its number in the whole plan, from 0.
        members: Who answers from there.
    """

    node: str
    plan: Plan
    lanes: tuple[int, ...]
    members: tuple[str, ...]

    @property
    def units(self) -> int:
        """How many of the node's units its lanes take at most at a time."""
        return min(self.plan.units, sum(lane.units for lane in self.plan.lanes))

    def bundle(self, ensemble: Ensemble) -> NodeBundle:
        """The part with its sub-models, ready to be sent.

        Raises:
            UsageError: A sub-model cannot be saved, so that no other machine could have it.
        """
        return bundled(self.plan, ensemble.only(self.members))


def bundled(plan: Plan, ensemble: Ensemble) -> NodeBundle:
    """A plan and the members that it runs, ready to be sent; each answers for itself, whatever the combine rule.

    Raises:
        UsageError: A sub-model cannot be saved, so that no other machine could have it.
    """
    from esen_lab.export.bundle_files import bundle_files

    files = bundle_files(plan, ensemble.with_combine(make_combine("mean")))
    digest = hashlib.blake2b(digest_size=16)
    for name, content in sorted(files.items()):
        digest.update(f"{name} {len(content)} ".encode())
        digest.update(content)
    return NodeBundle(key=digest.hexdigest(), files=files)


def parts_of(plan: Plan, units: Mapping[str, int]) -> tuple[NodePart, ...]:
    """What each node runs, in the order in which the plan names them.

    Args:
        plan: For nodes by name.
        units: For each node that is there, how many units it has; 0 where that is not known.

    Raises:
        UsageError: A node is not there or is smaller, the plan runs in stages, or a member is split over nodes.
    """
    check_nodes(plan, units)
    parts = []
    for node in dict.fromkeys(lane.device for lane in plan.lanes):
        numbers = tuple(number for number, lane in enumerate(plan.lanes) if lane.device == node)
        lanes = tuple(replace(plan.lanes[number], device="") for number in numbers)
        steps = {name for lane in lanes for name in lane.members}
        members = members_of([name for lane in lanes for name in lane.members])
        own = Plan(
            lanes=lanes,
            units=plan.devices[node],
            searcher=plan.searcher,
            predicted_s={name: told for name, told in plan.predicted_s.items() if name in steps},
            unmeasured={name: told for name, told in plan.unmeasured.items() if name in steps},
        )
        parts.append(NodePart(node=node, plan=own, lanes=numbers, members=members))
    return tuple(parts)


def check_nodes(plan: Plan, units: Mapping[str, int]) -> None:
    """Refuse a plan that these nodes cannot run.

    Raises:
        UsageError: See `parts_of`.
    """
    used = dict.fromkeys(lane.device for lane in plan.lanes)
    gone = [name for name in used if name not in units]
    if gone:
        raise UsageError(
            f"A plan for nodes names those of the cluster: {', '.join(units) or 'it has none'}",
            given=f"a plan for {', '.join(gone)}",
            hint="Plan again for these nodes: lab.studies.place, or lab.cluster.replan_without(node).",
        )
    small = [
        f"{name} has {units[name]}, the plan {plan.devices[name]}"
        for name in used
        if 0 < units[name] < plan.devices[name]
    ]
    if small:
        raise UsageError("A plan for nodes fits onto them", given="; ".join(small), hint="Plan again for these nodes.")
    if plan.staged:
        raise UsageError(
            "A plan for several nodes has one stage", given=f"{len(plan.reach)} stages", hint="Run it on one machine."
        )
    _check_whole(plan)


def _check_whole(plan: Plan) -> None:
    at: dict[str, str] = {}
    for lane in plan.lanes:
        for member in members_of(lane.members):
            if at.setdefault(member, lane.device) != lane.device:
                raise UsageError(
                    "A member runs on one node",
                    given=f"{member} on {at[member]} and {lane.device}",
                    hint="Move all parts of it to one node.",
                )
