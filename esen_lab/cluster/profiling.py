"""What is known of each node: one of each kind is measured, and all of that kind are taken to be alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from esen_lab.cluster.nodes import ClusterNode, NodeLost, NodeReach
from esen_lab.cluster.orders import NodeSettings
from esen_lab.cluster.parts import bundled
from esen_lab.ensemble import Ensemble
from esen_lab.errors import DeviceError, EsenError
from esen_lab.planner.plan import sequential_plan

if TYPE_CHECKING:
    from esen_lab.profiler import Profile

_SLICE_S = 0.5


def profile_kinds(
    reach: NodeReach,
    ensemble: Ensemble,
    settings: NodeSettings,
    asked: Mapping[str, Any],
    on_progress: Callable[[int, int, str], object],
) -> dict[str, Profile]:
    """Measure the sub-models on one node of each kind, one node after another.

    Args:
        reach: The way to the nodes; nothing of this lab runs there.
        ensemble: The sub-models.
        settings: What the session has set.
        asked: What `start_profile` takes besides: `budget_s`, `shares`, ...
        on_progress: Called with (kinds that are measured, all, the node that is).

    Returns:
        For each node, by name, the profile of its kind.

    Raises:
        DeviceError: The cluster has no node, or one died meanwhile.
        EsenError: A sub-model cannot be sent, or nothing could be measured.
    """
    nodes = [node for node in reach.nodes() if node.alive]
    if not nodes:
        raise DeviceError("A cluster has at least one node", given="none that is alive")
    first: dict[str, ClusterNode] = {}
    for node in nodes:
        first.setdefault(node.kind, node)
    bundle = reach.put(bundled(sequential_plan(ensemble.names, 1), ensemble))
    found: dict[str, Profile] = {}
    for number, (kind, node) in enumerate(first.items()):
        on_progress(number, len(first), node.name)
        found[kind] = _profile(reach, node, bundle, settings, asked)
    on_progress(len(first), len(first), "")
    return {node.name: found[node.kind] for node in nodes}


def _profile(
    reach: NodeReach, node: ClusterNode, bundle: Any, settings: NodeSettings, asked: Mapping[str, Any]
) -> Profile:
    link = reach.start(node, None, node.units, restarts=0)
    try:
        call = link.call("profile", bundle, settings, dict(asked))
        while not reach.wait([call], _SLICE_S):
            if node.id not in {other.id for other in reach.nodes() if other.alive}:
                raise NodeLost("the cluster does not see it any more", for_good=True)
        profile: Profile | EsenError = reach.result(call)
    except NodeLost as problem:
        raise DeviceError(f"Node {node.name} stays while it is measured", given=str(problem)) from problem
    finally:
        link.close()
    if isinstance(profile, EsenError):
        profile.add_note(f"On node {node.name}.")
        raise profile
    return profile
