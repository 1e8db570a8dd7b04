"""One run of a plan that is one CUDA graph: its replay, or lane by lane where there is no graph yet."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from esen_lab.common.inputs import as_input
from esen_lab.errors import DeviceError, WorkerTimeout
from esen_lab.lanes import Worker
from esen_lab.run.lane_runner import LaneRunner
from esen_lab.run.lane_watch import SETTLE_S, LaneWatch
from esen_lab.run.outcome import Run
from esen_lab.run.plan_graph import PlanGraph, PlanGraphs
from esen_lab.run.request import RunRequest
from esen_lab.run.run_history import RunHistory

AS_ONE_GRAPH = "All lanes ran as one CUDA graph."


class GraphRunner:
    """Runs one input at a time. Under the executor's lock.

    Args:
        graphs: Of the plan.
        watch: Of its lanes, which are broken with their graph.
        lanes: Runs lane by lane.
        history: Makes the reports.
    """

    def __init__(self, graphs: PlanGraphs, watch: LaneWatch, lanes: LaneRunner, history: RunHistory) -> None:
        self.graphs = graphs
        self._watch = watch
        self._lanes = lanes
        self._history = history

    def run(self, asked: RunRequest) -> Run:
        """Run once: see `LaneRunner.run`. An input of a new shape runs lane by lane, and its graph is made from that.

        Raises:
            DeviceError: The GPU failed; the lanes are broken.
            EsenError: See `Executor.run`.
        """
        if not self.graphs.knows(asked.ensemble, asked.x):
            asked = replace(asked, x=as_input(asked.x))
        graph = self.graphs.find(asked.ensemble, asked.x)
        if isinstance(graph, PlanGraph) and not self._watch.broken:
            return self._replay(graph, asked)
        run = self._lanes.run(asked)
        if graph is None:
            why = self.graphs.make(asked.ensemble, asked.x, run.output, asked.deadline.left_s)
        else:
            why = str(graph)
        if not why:
            return run
        return replace(run, report=replace(run.report, notes=(*run.report.notes, f"Not as one graph: {why}")))

    def _replay(self, graph: PlanGraph, asked: RunRequest) -> Run:
        begin_ns = asked.begin_ns
        try:
            ran = graph.run(asked.x, asked.deadline.left_s, asked.meanwhile)
            end = time.perf_counter_ns()
            spans_s = graph.spans_s()  # now: the next run overwrites them
        except DeviceError:
            self._watch.give_up("its graph failed on the GPU")
            raise
        except WorkerTimeout:
            self._watch.give_up("its graph did not answer in time")
            raise
        except BaseException:  # an interrupt: nothing new is queued behind what may hang
            if not graph.settled(SETTLE_S):
                self._watch.give_up("it was interrupted, and its graph did not end")
            raise
        copy_s, done_s = (ran.copied_ns - begin_ns) / 1e9, (ran.done_ns - begin_ns) / 1e9
        report = self._history.report(
            asked.plan,
            {
                name: (min(copy_s + start, done_s), min(copy_s + stop, done_s))
                for name, (start, stop) in spans_s.items()
            },
            ran.nan,
            graph.batch,
            jct_s=(end - begin_ns) / 1e9,
            copy_s=copy_s,
            combine_s=(end - ran.done_ns) / 1e9,
            notes=(AS_ONE_GRAPH,),
        )
        return Run(output=ran.output, report=report)

    def close(self) -> None:
        """Let go of all graphs."""
        self.graphs.close()


def graphs_of(workers: Sequence[Worker]) -> PlanGraphs | None:
    """What makes one graph of all lanes, where they are streams of this process and all sub-models graphs."""
    lanes = [worker.graph_lane() for worker in workers]
    known = [lane for lane in lanes if lane is not None]
    return PlanGraphs(known) if known and len(known) == len(workers) else None
