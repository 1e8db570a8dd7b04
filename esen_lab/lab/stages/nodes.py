"""Plans for the nodes of a cluster: whether they fit, what runs there, one run, a plan for the nodes that are left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from esen_lab.cluster import (
    ClusterStatus,
    NodeReach,
    NodeSettings,
    PlanOnNodes,
    check_nodes,
    measure_transfers,
    profile_kinds,
    sizes,
)
from esen_lab.common.surroundings import step
from esen_lab.common.trees import Tree
from esen_lab.common.units import check_count
from esen_lab.errors import UsageError
from esen_lab.lab.plan_checks import made_before_changes, members_run_by
from esen_lab.lab.runtime import Runtime
from esen_lab.lab.stages.members import follow_changes
from esen_lab.lab.stages.run_call import RunCall
from esen_lab.lab.state import LabState
from esen_lab.planner.fits import check_fits, check_members
from esen_lab.planner.nodes import NodeLink
from esen_lab.planner.plan import Lane, Plan
from esen_lab.profiler import Profile
from esen_lab.run import Deadline, Run
from esen_lab.run.deadline import NEVER
from esen_lab.run.start import silent

Progress = Callable[[int, int, str], object]
_MOVED = "Members of node {node} were moved to the others, without a search."


def _reach_them() -> str:
    return f"Reach them: {step('lab.cluster.connect()', '%esen cluster auto')}."


def check_plan(state: LabState, plan: Plan) -> None:
    """Refuse a plan that can run neither here nor on the nodes of the cluster that is connected.

    Raises:
        UsageError: It cannot; the message says why.
    """
    if state.reach is None or not state.runs_on_nodes(plan):
        check_fits(plan, state.ensemble, state.device)
        return
    check_members(plan, state.ensemble)
    check_nodes(plan, sizes(state.reach.nodes()))


def connect(runtime: Runtime, reach: NodeReach) -> ClusterStatus:
    """Use the nodes that are reached in this way, in the place of others."""
    leave(runtime)
    runtime.set(reach=reach)
    return look(runtime, reach)


def leave(runtime: Runtime) -> None:
    """End what runs on nodes, and leave the cluster."""
    with runtime.turns.turn("the end of what runs on nodes", refused=False):
        reach = runtime.state.reach
        _end(runtime)
        runtime.set(reach=None, cluster=None)
        if reach is not None:
            reach.close()


def look(runtime: Runtime, reach: NodeReach) -> ClusterStatus:
    """The nodes as they are now, with what runs on them; kept for who glances."""
    found = _the_status(reach, runtime.state.on_nodes)
    if found != runtime.state.cluster:
        runtime.set(cluster=found)
    return found


def glance(state: LabState) -> ClusterStatus | None:
    """The nodes as they were when they were looked at last, with what is known of those that run a plan.

    Asks nobody, so that it may be called several times a second, whatever has become of the cluster.
    """
    if state.cluster is None or state.on_nodes is None:
        return state.cluster
    own = {node.id: node for node in state.on_nodes.nodes}
    return replace(state.cluster, nodes=tuple(own.get(node.id, node) for node in state.cluster.nodes))


def _the_status(reach: NodeReach, on_nodes: PlanOnNodes | None) -> ClusterStatus:
    own = {} if on_nodes is None else {node.id: node for node in on_nodes.nodes}
    seen = [own.get(node.id, node) if node.alive else replace(node, state="gone") for node in reach.nodes()]
    nodes = tuple(node for node in seen if node.alive or node.id in own)
    return ClusterStatus(address=reach.address, dashboard=reach.dashboard, nodes=nodes)


def get_ready(
    runtime: Runtime, deadline: Deadline = NEVER, on_progress: Progress | None = None
) -> tuple[PlanOnNodes, tuple[str, ...]]:
    """What runs the plan in force on its nodes, started as needed, and remarks. The caller has the turn.

    Raises:
        UsageError: The plan does not fit the nodes, or the sub-models do not fit together.
        EsenError: A node could not load its part.
    """
    followed = follow_changes(runtime)
    state = runtime.state
    plan, reach = state.need_plan("run"), state.reach
    if reach is None:
        raise UsageError("A plan for nodes runs once they are reached", given="no cluster", hint=_reach_them())
    check_members(plan, state.ensemble)
    ensemble = members_run_by(plan, state.ensemble)
    runtime.together.check(ensemble)
    notes = (*followed, *made_before_changes(plan, ensemble))
    current = state.on_nodes
    if current is not None and current.holds(plan, reach):
        current.keep_to(plan, ensemble)
        return current, notes
    _end(runtime)
    runtime.lanes.end()  # those of this machine: its cores may be those of a node
    made = PlanOnNodes.start(plan, ensemble, reach, deadline=deadline, on_progress=on_progress)
    runtime.set(on_nodes=made)
    return made, notes


def run_once(runtime: Runtime, call: RunCall) -> tuple[Run, tuple[str, ...]]:
    """One run on the nodes of the plan in force. The caller has the turn."""
    settings = runtime.fork_server.look_at_session()
    on_nodes, notes = get_ready(runtime, call.until)
    runtime.marks.add("run", pause_s=1.0)
    own = NodeSettings(process=settings.process, thread=settings.thread)
    made = on_nodes.run(call.x, deadline=call.deadline, options=call.options, due=call.due, settings=own)
    return made, notes


def profile(runtime: Runtime, on_progress: Progress | None, asked: Mapping[str, Any]) -> dict[str, Profile]:
    """See `LabCluster.profile`."""
    reach = _need_reach(runtime.state)
    settings = runtime.fork_server.session_here()
    own = NodeSettings(process=settings.process, thread=settings.thread)
    with runtime.turns.turn("a profile of nodes"):
        follow_changes(runtime, whole=True)
        ensemble = runtime.state.ensemble
        runtime.together.check(ensemble)
        _end(runtime)
        return profile_kinds(reach, ensemble, own, asked, on_progress or silent)


def transfers(runtime: Runtime, x: Tree, repeats: int) -> dict[str, NodeLink]:
    """See `LabCluster.transfers`."""
    reach = _need_reach(runtime.state)
    check_count(repeats, "The number of calls that are timed is a whole one above 0")
    with runtime.turns.turn("nodes that are measured"):
        _end(runtime)
        return measure_transfers(reach, runtime.state.ensemble.example if x is None else x, repeats)


def _need_reach(state: LabState) -> NodeReach:
    state.need_submodels("measure on nodes")
    if state.reach is None:
        raise UsageError("Nodes are measured once they are reached", given="no cluster", hint=_reach_them())
    return state.reach


def _end(runtime: Runtime) -> None:
    """End what runs on the nodes; the cluster stays."""
    on_nodes = runtime.state.on_nodes
    runtime.set(on_nodes=None)
    if on_nodes is not None:
        on_nodes.close()


def without_node(plan: Plan, node: str) -> Plan:
    """A plan whose lanes of one node are on the others, each at the end of the lane that has least to do there.

    Lanes are those of the same stage; where no other node has one, the lanes go to the largest node as they are, as far
    as their shares fit there.

    Raises:
        UsageError: The plan has no other node.
    """
    left = [lane for lane in plan.lanes if lane.device != node]
    others = {name: units for name, units in plan.devices.items() if name != node}
    if not others:
        raise UsageError("A plan goes on with the nodes that are left", given=f"{node!r} is its only one")
    staying = {lane.stage for lane in left}
    for lane in plan.lanes:
        if lane.device != node:
            continue
        beside = [place for place, own in enumerate(left) if own.stage == lane.stage]
        moved = _moved(lane, others)
        taken = sum(left[place].units for place in beside)
        if not beside or (lane.stage not in staying and taken + moved.units <= others[moved.device]):
            left.append(moved)
            continue
        for member, backend in zip(lane.members, lane.backends, strict=True):
            number = min(beside, key=lambda place: _load(plan, left[place]))
            left[number] = _with_member(left[number], member, backend)
    units = max(others.values())
    return replace(
        plan,
        lanes=tuple(left),
        devices=others,
        units=units,
        jct_s=None,
        bound_s=None,
        measured_s=None,
        worst_s=None,
        predicted_s={},
        unmeasured={},
        searcher="by hand",
        notes=(_MOVED.format(node=node),),
    )


def _moved(lane: Lane, others: Mapping[str, int]) -> Lane:
    """The lane on the largest of these nodes."""
    device = max(others, key=lambda name: others[name])
    return replace(lane, device=device, units=min(lane.units, others[device]), active_units=())


def _load(plan: Plan, lane: Lane) -> tuple[float, int]:
    return sum(plan.predicted_s.get(name, 0.0) for name in lane.members), len(lane.members)


def _with_member(lane: Lane, member: str, backend: str) -> Lane:
    return replace(
        lane,
        members=(*lane.members, member),
        active_units=(*lane.active_units, lane.units),
        backends=(*lane.backends, backend),
    )
