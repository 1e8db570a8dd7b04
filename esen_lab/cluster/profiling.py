"""What is known of each node: one of each kind is measured, and all of that kind are taken to be alike.

The way to a node is measured for each one: where it lies in the network is not a matter of its kind.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from esen_lab.cluster.node_messages import NodeSettings
from esen_lab.cluster.nodes import ClusterNode, NodeLost, NodeReach, WorkerLink
from esen_lab.cluster.parts import bundled
from esen_lab.cluster.tensor_packing import PackedTree, pack_input
from esen_lab.common.trees import Tree
from esen_lab.ensemble import Ensemble
from esen_lab.errors import DeviceError, EsenError
from esen_lab.planner.nodes import NodeLink
from esen_lab.planner.plan import sequential_plan

if TYPE_CHECKING:
    from esen_lab.profiler import Profile

_SLICE_S = 0.5
_ANSWER_BYTES = 1_000_000
_FIRST_S = 120.0  # until a node's process has started


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
    bundle = reach.put(bundled(sequential_plan(ensemble.names, 1), ensemble, {0: (0,)}))
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


def measure_transfers(reach: NodeReach, x: Tree, repeats: int) -> dict[str, NodeLink]:
    """How long an input takes to each node, and answers take back: medians, one node after another.

    Args:
        reach: The way to the nodes; nothing of this lab runs there.
        x: An input of the size that will be sent.
        repeats: How many calls of each kind are timed, at least 1.

    Raises:
        DeviceError: A node died meanwhile, or did not start within two minutes.
    """
    packed = pack_input(x)
    return {node.name: _transfers(reach, node, packed, repeats) for node in reach.nodes() if node.alive}


def _transfers(reach: NodeReach, node: ClusterNode, packed: PackedTree, repeats: int) -> NodeLink:
    link = reach.start(node, None, 1, restarts=0)
    try:
        _round_s(reach, link, node, packed, _ANSWER_BYTES)  # it starts, and imports what it needs
        empty, sent, back = (
            statistics.median(_round_s(reach, link, node, *what) for _ in range(repeats))
            for what in ((None, 0), (packed, 0), (None, _ANSWER_BYTES))
        )
    finally:
        link.close()
    latency_s = empty / 2
    return NodeLink(
        input_s=max(sent - latency_s, 0.0), latency_s=latency_s, byte_s=max(back - empty, 0.0) / _ANSWER_BYTES
    )


def _round_s(
    reach: NodeReach, link: WorkerLink, node: ClusterNode, packed: PackedTree | None, answer_bytes: int
) -> float:
    begun = time.perf_counter()
    call = link.call("echo", packed, answer_bytes)
    try:
        if not reach.wait([call], _FIRST_S):
            raise DeviceError(f"Node {node.name} answers within {_FIRST_S:g} s", given="it did not")
        reach.result(call)
    except NodeLost as problem:
        raise DeviceError(f"Node {node.name} stays while the way to it is measured", given=str(problem)) from problem
    return time.perf_counter() - begun
