"""One call of a plan on nodes that has one stage: who is asked for what, and what is made of the answers."""

from __future__ import annotations

import time

from esen_lab.cluster.combined_there import combined_there, told_of, who_combines
from esen_lab.cluster.nodes_asked import CallAsked, RunAsked
from esen_lab.cluster.nodes_report import idle_lanes, reported
from esen_lab.cluster.nodes_run import NodesRun
from esen_lab.cluster.packing import pack_input, unpack
from esen_lab.common.trees import Tree
from esen_lab.ensemble.chance import draw_seed
from esen_lab.run import Answered, Run
from esen_lab.run.uncertainty import uncertain


class NodesCall:
    """One call.

    Args:
        asked: What it is asked for.
    """

    def __init__(self, asked: CallAsked) -> None:
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
        nodes = NodesRun(asked, RunAsked(members=members, input=packed, seed=seed, keep=self._there is not None))
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
