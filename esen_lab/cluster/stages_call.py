"""One call of a plan on nodes that runs in stages: nodes are asked stage by stage, for the rows that are still open.

first      the nodes that have members of it get the whole batch
between    what members answered is combined here, and rows that are sure are answered: decided by the very code that
           decides on one machine (`run/stages_so_far.py`)
stage k    the rows that are open, and no others, go to the nodes that have members of it. They are filled up there to
           the size at which one machine would run them, so that answers are equal to the bit
nobody     is left: nobody is asked
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

from esen_lab.cluster.nodes_report import idle_lanes, reported
from esen_lab.cluster.nodes_run import NodesRun, NodeTold
from esen_lab.cluster.requests import CallRequest, NodesRequest
from esen_lab.cluster.tensor_packing import PackedTree, pack_input, packed_rows, unpack
from esen_lab.ensemble.chance import draw_seed
from esen_lab.lanes.openmp import CallersThreads
from esen_lab.run import Run, RunOptions
from esen_lab.run.report import LaneReport
from esen_lab.run.request import PLAIN
from esen_lab.run.stage_checks import StagesPrepared
from esen_lab.run.stage_rows import first_rows, rows_in, size_for, sizes_for
from esen_lab.run.stages_so_far import StageAnswers, StagesSoFar


class StagesCall:
    """One call.

    Args:
        asked: What it is asked for.
        prepared: For which batches the plan was looked at.
        threads: Those of this process, which are quiet while answers are combined.
    """

    def __init__(self, asked: CallRequest, prepared: StagesPrepared, threads: CallersThreads) -> None:
        self._asked, self._prepared = asked, prepared
        options = PLAIN if asked.options is None else asked.options
        self._so_far = StagesSoFar(asked.plan, asked.ensemble, options, asked.due, asked.begin_ns, threads)
        self._seed = draw_seed() if asked.random else None
        self._told: list[NodeTold] = []
        self._idle: dict[int, LaneReport] = {}

    def run(self) -> Run:
        """Ask, combine and decide, stage by stage; raises as `PlanOnNodes.run` does.

        Raises:
            UsageError: The input has no batch axis, the combined answer no scores, or a sub-model's answer to a row
                depends on the other rows.
        """
        asked, so_far = self._asked, self._so_far
        packed = pack_input(asked.x)
        rows = rows_in(packed.spec)
        if self._prepared.lacks(rows):
            self._prepare(packed, rows)
        copied = time.perf_counter()
        so_far.begin(rows, asked.due_s)
        for number in range(len(asked.plan.stages)):
            if so_far.asks(number):
                self._ask(number, packed)
        asked.held.combine_s = max(*(stage.decide_s for stage in so_far.told.stages), 0.8 * asked.held.combine_s)
        jct_s = time.perf_counter() - asked.begin_s
        report = reported(
            asked,
            str(packed.spec),
            self._told,
            self._idle,
            jct_s=jct_s,
            copy_s=copied - asked.begin_s,
            combine_s=so_far.decided_s,
            answered=None if asked.options is None else so_far.answered(jct_s),
            stages=so_far.told.stages,
        )
        return Run(output=so_far.output, report=report)

    def _prepare(self, packed: PackedTree, rows: int) -> None:
        """Have nodes see that rows of later stages do not depend on each other; not cut short by a deadline."""
        asked = self._asked
        options = RunOptions(on_failure="leave-out") if asked.leaving_out else None
        members = {node.name: node.part.members for node in asked.held.all if any(stage for stage in node.part.stages)}
        of_nodes = NodesRequest(members=members, input=packed, seed=None, method="prepare", more=True)
        nodes = NodesRun(replace(asked, options=options, due=None), of_nodes)
        nodes.run()
        if len(nodes.told) == len(members):
            self._prepared.done(rows)

    def _ask(self, number: int, packed: PackedTree) -> None:
        """Ask the nodes that have members of a stage for the rows that are open, and decide who leaves."""
        asked, so_far = self._asked, self._so_far
        begun_ns = time.perf_counter_ns() if number else asked.begin_ns
        count = len(so_far.opened)
        open_rows = packed_rows(packed, so_far.opened) if number else packed
        lanes = [asked.plan.lanes[lane] for lane in asked.plan.stages[number]]
        ran = size_for(count, so_far.rows, sizes_for(lanes)) if number else 0
        nodes = NodesRun(
            asked,
            NodesRequest(
                members=self._members_in(number),
                input=open_rows,
                seed=self._seed,
                stage=number,
                ran=ran,
                before=so_far.before,
                more=number < len(asked.plan.stages) - 1,
            ),
        )
        nodes.run()
        until_s = time.perf_counter() - asked.begin_s
        self._idle |= idle_lanes(asked.plan, number, nodes.unfinished, until_s, (begun_ns - asked.begin_ns) / 1e9)
        self._told += nodes.told
        self._take(number, nodes, begun_ns, ran or count)

    def _take(self, number: int, nodes: NodesRun, begun_ns: int, ran: int) -> None:
        missing, count = nodes.answers.missing(nodes.late), len(self._so_far.opened)
        outputs = {name: unpack(nodes.answers.outputs[name]) for name in nodes.answers.done}
        answers = StageAnswers(
            outputs=first_rows(outputs, count, count),
            ran=ran,
            begun_ns=begun_ns,
            ended=nodes.ended,
            waiting=any(one.why == "late" for one in missing),
            missing=missing,
        )
        self._so_far.take(number, answers)

    def _members_in(self, number: int) -> Mapping[str, tuple[str, ...]]:
        """For each node that has members of a stage, these."""
        found = {node.name: node.part.members_in(number) for node in self._asked.held.all}
        return {name: members for name, members in found.items() if members}
