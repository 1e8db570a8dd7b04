"""One run of a plan in stages that may be answered before its end: by a deadline, without members that failed.

    in a stage    members are collected as in any run that may be answered by some (`member_collector.py`); who leaves
                  is decided by those that answered
    when due      rows that are still open have the answer of the members until then: of the stages before, and of those
                  members of the stage at hand that are done. Later stages are not woken
    who failed    is left out of the rows of its stage; where a whole stage failed, its rows go on to the next

Late lanes are those of one stage: the others go on without knowing of them.
"""

from __future__ import annotations

import time

from esen_lab.common.inputs import take_in
from esen_lab.common.trees import Tree
from esen_lab.errors import EsenError, WorkerDied
from esen_lab.run.answered import Ended
from esen_lab.run.member_collector import CombineTime, MemberCollector
from esen_lab.run.members_done import MembersDone
from esen_lab.run.outcome import Run
from esen_lab.run.request import RunRequest
from esen_lab.run.run_history import RunHistory
from esen_lab.run.stage_rows import first_rows, padded, rows_in, size_for
from esen_lab.run.stage_runner import StageRunner
from esen_lab.run.stages_so_far import StageAnswers, StagesSoFar


class StagePartialRunner:
    """Runs one input at a time. Under the executor's lock."""

    def __init__(self, stages: StageRunner, history: RunHistory) -> None:
        self._stages = stages
        self._history = history
        self._combine = CombineTime()
        self._ran = False

    def run(self, asked: RunRequest) -> Run:
        """Run once; what is raised is that of `PartialRunner.run` and `StageRunner.run`."""
        if self._stages.unprepared(_rows_of(asked.x)):  # what is found out before a first run is not cut short
            self._stages.stages[0].runner.write(asked.ensemble, asked.x, asked.deadline)
            self._stages.prepare(asked.ensemble, rows_in(self._stages.input.spec), asked.deadline, asked.seed)
        members: list[MembersDone] = []
        try:
            return self._run(asked, members)
        finally:
            for own in members:
                own.forget()  # an error that is kept keeps its frames, and they the memory of outputs

    def _run(self, asked: RunRequest, began: list[MembersDone]) -> Run:
        """Run once; the members of every stage that is begun are put into `began`."""
        so_far = StagesSoFar(asked.plan, asked.ensemble, asked.options, asked.due, asked.begin_ns, self._stages.threads)
        lane_input = self._stages.input
        copied_ns = 0
        for number, stage in enumerate(self._stages.stages):
            if not so_far.asks(number):
                continue
            names = [name for name in asked.ensemble.names if name in stage.names]
            members = MembersDone(stage.lanes, names, so_far.weightless)
            members.leave_out(asked.failed)
            began.append(members)
            collector = MemberCollector(
                stage.group,
                stage.runner.input,
                members,
                asked.options,
                asked.due,
                seed=asked.seed,
                before=so_far.before,
                more=number < len(self._stages.stages) - 1,
            )
            begun_ns = asked.begin_ns if not number else time.perf_counter_ns()
            collector.begin()
            late = stage.group.watch.late
            if not number:
                stage.runner.hand_over(asked.ensemble, asked.x, asked.deadline, late=late, at_once=False)
                copied_ns = time.perf_counter_ns()
                ran = rows_in(lane_input.spec)
                so_far.begin(ran, self._due_s(asked))
            else:
                ran = size_for(len(so_far.opened), so_far.rows, stage.sizes)
                rows = padded(so_far.opened, ran)
                stage.runner.write_rows(lane_input, rows, asked.deadline, late=late)
            so_far.busy += [name for index in sorted(late) for name in members.of_lane(index)]
            stage.runner.threads.quieten()
            meanwhile = None if number else asked.meanwhile
            ended: Ended = collector.collect(asked.deadline, so_far.due_s, _never, meanwhile)
            so_far.told.nan += members.nan
            so_far.told.at_s.update(members.spans_s(asked.begin_ns))
            so_far.take(
                number,
                StageAnswers(
                    outputs=first_rows(members.outputs(members.done), len(so_far.opened), ran),
                    ran=ran,
                    begun_ns=begun_ns,
                    ended=ended,
                    waiting=bool(members.open),
                    missing=members.missing(ended),
                ),
            )
            self._combine.took(so_far.told.stages[-1].decide_s, lane_input.size)
        if so_far.output is None:
            raise self._nobody(asked, began)
        return self._told(asked, so_far, copied_ns)

    def _due_s(self, asked: RunRequest) -> float:
        """When combining must begin, as far as that is known now; see `CombineTime.begins_s`."""
        size = self._stages.input.size
        if not self._ran:
            self._combine.took(self._stages.decided_s, size)
            self._ran = True
        return self._combine.begins_s(asked.due, size)

    @staticmethod
    def _nobody(asked: RunRequest, began: list[MembersDone]) -> EsenError:
        if began:
            return began[-1].problem(asked.options.enough)
        return WorkerDied("A run's members answer", given="none of them did")

    def _told(self, asked: RunRequest, so_far: StagesSoFar, copied_ns: int) -> Run:
        jct_s = (time.perf_counter_ns() - asked.begin_ns) / 1e9
        report = self._history.report(
            asked.plan,
            so_far.told.at_s,
            so_far.told.nan,
            str(self._stages.input.spec),
            jct_s=jct_s,
            copy_s=(copied_ns - asked.begin_ns) / 1e9,
            combine_s=so_far.decided_s,
            answered=so_far.answered(jct_s),
            notes=self._stages.told_caught_up(),
            stages=tuple(so_far.told.stages),
        )
        return Run(output=so_far.output, report=report)


def _never() -> Ended | None:
    """Stages end early by their thresholds alone."""
    return None


def _rows_of(x: Tree) -> int:
    """How many rows an input seems to have; 0 where it has no batch axis: the run will refuse it."""
    leaves, _ = take_in(x)
    return int(leaves[0].shape[0]) if leaves and leaves[0].dim() else 0
