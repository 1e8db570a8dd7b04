"""One call of a plan on nodes that has one stage: who is asked for what, and what is made of the answers."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from typing import Any

from esen_lab.cluster.held_nodes import SLICE_S, HeldNode, HeldNodes, told_by
from esen_lab.cluster.nodes import NodeLost
from esen_lab.cluster.nodes_report import idle_lanes, reported
from esen_lab.cluster.nodes_run import NodesRun
from esen_lab.cluster.requests import CallRequest, NodesRequest
from esen_lab.cluster.tensor_packing import PackedTree, pack_input, unpack
from esen_lab.common.trees import Tree
from esen_lab.common.units import format_bytes
from esen_lab.ensemble import Combine
from esen_lab.ensemble.chance import draw_seed
from esen_lab.errors import EsenError
from esen_lab.run import Answered, Deadline, Run
from esen_lab.run.uncertainty import uncertain

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
    """The answer, made by `node` of what all nodes have kept of the last run: outputs go from node to node.

    A node that has started anew meanwhile has lost what it had kept, and is named.

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


class NodesCall:
    """One call."""

    def __init__(self, asked: CallRequest) -> None:
        self._asked, self._held = asked, asked.held
        plain = asked.options is None or asked.options.plain
        self._there = who_combines(self._held.all, asked.ensemble.combine) if plain else None
        self._notes: list[str] = []

    def run(self) -> Run:
        """Send, collect, combine; raises as `PlanOnNodes.run` does."""
        asked, held = self._asked, self._held
        packed = pack_input(asked.x)
        members = {node.name: node.part.members for node in held.all}
        seed = draw_seed() if asked.random else None
        nodes = NodesRun(asked, NodesRequest(members=members, input=packed, seed=seed, keep=self._there is not None))
        copied = time.perf_counter()
        nodes.run()
        done = time.perf_counter()
        output = self._combined(nodes)
        end = time.perf_counter()
        held.combine_s = max(end - done, 0.8 * held.combine_s)
        begin = asked.begin_s
        report = reported(
            asked,
            str(packed.spec),
            nodes.told,
            idle_lanes(asked.plan, 0, nodes.unfinished, done - begin),
            jct_s=end - begin,
            copy_s=copied - begin,
            combine_s=end - done,
            answered=self._answered(nodes, end - begin),
            notes=self._notes,
        )
        return Run(output=output, report=report)

    def _combined(self, nodes: NodesRun) -> Tree:
        import torch

        asked, ensemble, names = self._asked, self._asked.ensemble, nodes.answers.done
        if self._there is not None:
            self._notes.append(told_of(self._there, self._held.all))
            return combined_there(self._there, self._held, ensemble.combine, names, asked.deadline)
        outputs = {name: unpack(nodes.answers.outputs[name]) for name in names}
        rule = ensemble.combine.for_members(names, ensemble.names)
        with torch.no_grad():
            output = rule(outputs)
            if asked.options is not None and asked.options.uncertainty:
                return uncertain(output, outputs, ensemble.combine, ensemble.names)
        return output

    def _answered(self, nodes: NodesRun, jct_s: float) -> Answered | None:
        """Who answered; None where all had to."""
        options, due = self._asked.options, self._asked.due
        if options is None:
            return None
        return Answered(
            names=nodes.answers.done,
            missing=nodes.answers.missing(nodes.late),
            ended=nodes.ended,
            at_s=jct_s if due is None else due.since_s,
            deadline_s=options.deadline_s,
        )
