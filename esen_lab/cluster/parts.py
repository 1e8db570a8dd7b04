"""A plan for several nodes, parted: what each of them runs, as a plan of its own with the sub-models that it needs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from esen_lab.cluster.node_messages import NodeBundle
from esen_lab.common.surroundings import step
from esen_lab.ensemble import Ensemble, make_combine
from esen_lab.errors import UsageError
from esen_lab.planner.fits import stages_only_planned
from esen_lab.planner.plan import Plan
from esen_lab.planner.steps import members_of


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePart:
    """What one node runs of a plan.

    Attributes:
        node: The node's name.
        plan: Its lanes, as a plan of one stage for one device; those of earlier stages first.
        lanes: For each of them its number in the whole plan, from 0.
        stages: For each stage of the whole plan that it has lanes of, their numbers in `plan`.
        members: Who answers from there.
    """

    node: str
    plan: Plan
    lanes: tuple[int, ...]
    stages: Mapping[int, tuple[int, ...]]
    members: tuple[str, ...]

    @property
    def units(self) -> int:
        """How many of the node's units its lanes take at most at a time: those of one stage."""
        at_a_time = (sum(self.plan.lanes[number].units for number in own) for own in self.stages.values())
        return min(self.plan.units, max(at_a_time))

    def members_in(self, stage: int) -> tuple[str, ...]:
        """Who answers from there in a stage of the whole plan."""
        return members_of([step for number in self.stages.get(stage, ()) for step in self.plan.lanes[number].members])

    def lanes_in(self, stage: int) -> tuple[int, ...]:
        """Its lanes of a stage of the whole plan, as numbers there."""
        return tuple(self.lanes[number] for number in self.stages.get(stage, ()))

    def bundle(self, ensemble: Ensemble) -> NodeBundle:
        """The part with its sub-models, ready to be sent.

        Raises:
            UsageError: A sub-model cannot be saved, so that no other machine could have it.
        """
        each = ensemble.with_combine(make_combine("mean"))  # weights may be 0 for all of them
        return bundled(self.plan, each.only(self.members), self.stages)


def bundled(plan: Plan, ensemble: Ensemble, stages: Mapping[int, tuple[int, ...]]) -> NodeBundle:
    """A plan and the members that it runs, ready to be sent; each answers for itself, whatever the combine rule.

    Args:
        plan: For one device, of one stage.
        ensemble: Its members, and no others.
        stages: See `NodeBundle`.

    Raises:
        UsageError: A sub-model cannot be saved, so that no other machine could have it.
    """
    from esen_lab.export.bundle_files import bundle_files

    files = bundle_files(plan, ensemble.with_combine(make_combine("mean")))
    digest = hashlib.blake2b(digest_size=16)
    for name, content in sorted(files.items()):
        digest.update(f"{name} {len(content)} ".encode())
        digest.update(content)
    return NodeBundle(key=digest.hexdigest(), files=files, stages=stages)


def parts_of(plan: Plan, units: Mapping[str, int]) -> tuple[NodePart, ...]:
    """What each node runs, in the order in which the plan names them.

    Args:
        plan: For nodes by name.
        units: For each node that is there, how many units it has; 0 where that is not known.

    Raises:
        UsageError: A node is not there or is smaller, a member is split over nodes, or nothing says when rows leave.
    """
    check_nodes(plan, units)
    parts = []
    for node in dict.fromkeys(lane.device for lane in plan.lanes):
        numbers = tuple(number for own in plan.stages for number in own if plan.lanes[number].device == node)
        lanes = tuple(replace(plan.lanes[number], device="", stage=0) for number in numbers)
        steps = {name for lane in lanes for name in lane.members}
        members = members_of([name for lane in lanes for name in lane.members])
        own = Plan(
            lanes=lanes,
            units=plan.devices[node],
            searcher=plan.searcher,
            predicted_s={name: told for name, told in plan.predicted_s.items() if name in steps},
            unmeasured={name: told for name, told in plan.unmeasured.items() if name in steps},
        )
        stages = _by_stage([plan.lanes[number].stage for number in numbers])
        parts.append(NodePart(node=node, plan=own, lanes=numbers, stages=stages, members=members))
    return tuple(parts)


def _by_stage(stages: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """For each stage the places at which it stands."""
    return {stage: tuple(place for place, own in enumerate(stages) if own == stage) for stage in dict.fromkeys(stages)}


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
            hint=f"Plan again for these nodes: {step('lab.studies.place', '%esen place')}, or "
            "lab.cluster.replan_without(node).",
        )
    small = [
        f"{name} has {units[name]}, the plan {plan.devices[name]}"
        for name in used
        if 0 < units[name] < plan.devices[name]
    ]
    if small:
        raise UsageError("A plan for nodes fits onto them", given="; ".join(small), hint="Plan again for these nodes.")
    why = stages_only_planned(plan)
    if why:
        raise UsageError(
            "A plan in stages that is run has thresholds, and splits no batch",
            given=why,
            hint="Give it thresholds, such as dataclasses.replace(plan, threshold=0.9), or plan the cascade again.",
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
