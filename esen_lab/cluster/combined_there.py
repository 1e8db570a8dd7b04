"""One answer of what members on several nodes have put out, made by the node that has most of it.

Large outputs then go from node to node, and only the answer comes back. They stay where they were put out until the
node that combines takes them; a node that has started anew meanwhile has lost them, and is named.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from typing import Any

from esen_lab.cluster.held_nodes import SLICE_S, HeldNode, HeldNodes, told_by
from esen_lab.cluster.nodes import NodeLost
from esen_lab.cluster.packing import PackedTree, unpack
from esen_lab.common.trees import Tree
from esen_lab.common.units import format_bytes
from esen_lab.ensemble import Combine
from esen_lab.errors import EsenError
from esen_lab.run import Deadline

COMBINED_THERE_BYTES = 4_000_000
"""Outputs of other machines that are smaller together are combined where the call was made: asking a node once more
takes milliseconds. Where nothing crosses a network it never pays (docs/decisions/0072)."""


def who_combines(nodes: Sequence[HeldNode], rule: Combine) -> HeldNode | None:
    """The node that has most of the outputs, where they are large; None: where the call was made.

    As large as outputs were in the last call. A function of the user's runs where it always does.
    """
    here = platform.node()
    crossing = sum(node.output_bytes for node in nodes if node.node.host != here)
    settled = all(node.loaded is not None and node.loading is None and not node.gone for node in nodes)
    if not settled or len(nodes) < 2 or rule.function is not None:
        return None
    if crossing < COMBINED_THERE_BYTES or not any(node.output_bytes for node in nodes):
        return None
    return max(nodes, key=lambda node: node.output_bytes)


def told_of(node: HeldNode, nodes: Sequence[HeldNode]) -> str:
    """What a report says of it."""
    size = format_bytes(sum(one.output_bytes for one in nodes))
    return f"Combined on node {node.name}, which has most of the outputs ({size} in all)."


def combined_there(node: HeldNode, held: HeldNodes, rule: Combine, names: Sequence[str], deadline: Deadline) -> Tree:
    """The answer, made by `node` of what all nodes have kept of the last run.

    Args:
        node: Who combines.
        held: All nodes.
        rule: How.
        names: Whose outputs, in the order of the ensemble.
        deadline: Of the whole call.

    Raises:
        EsenError: A node is gone, the outputs do not fit the rule, or the time is over.
    """
    reach = held.reach
    others = [other for other in held.all if other is not node]
    kept = [other.link.call("outputs") for other in others]
    call = node.link.call("combine", rule, tuple(names), *kept)
    while not reach.wait([call], min(SLICE_S, deadline.left_s)):
        deadline.check(f"{node.who}, which combines")
        held.look_who_is_gone(held.all)
        for one in held.all:
            if one.gone:
                raise held.lost(one, one.gone)
    try:
        made: PackedTree | EsenError | tuple[str, ...] = reach.result(call)
    except NodeLost as problem:
        dead, told = _who_died(held, dict(zip(kept, others, strict=True)), node, problem)
        held.note_loss(dead, told)
        raise held.lost(dead, str(told)) from problem
    if isinstance(made, EsenError):
        raise told_by(node, made)
    if isinstance(made, tuple):
        dead = next(one for one in held.all if made[0] in one.part.members)
        raise held.lost(dead, "it has started anew before its outputs were combined")
    return unpack(made)


def _who_died(
    held: HeldNodes, kept: Mapping[Any, HeldNode], node: HeldNode, problem: NodeLost
) -> tuple[HeldNode, NodeLost]:
    """Whose death it was that nothing could be combined: of a node whose outputs were to come, or of `node`."""
    for call, other in kept.items():
        if held.reach.wait([call], 0.0):
            try:
                held.reach.result(call)
            except NodeLost as own:
                return other, own
    return node, problem
