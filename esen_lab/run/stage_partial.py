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
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from esen_lab.common.inputs import take_in
from esen_lab.common.trees import Tree
from esen_lab.ensemble.confidence import sure_rows
from esen_lab.errors import EsenError, WorkerDied
from esen_lab.run.answered import Answered, Ended, Missing, Why
from esen_lab.run.asked import Asked
from esen_lab.run.member_collector import CombineTime, MemberCollector
from esen_lab.run.members_done import MembersDone
from esen_lab.run.options import weightless
from esen_lab.run.outcome import Run
from esen_lab.run.run_history import RunHistory
from esen_lab.run.stage_report import StageReport
from esen_lab.run.stage_rows import first_rows, padded, rows_in, size_for, taken
from esen_lab.run.stage_runner import StageLanes, StageRunner, Told, put_rows

if TYPE_CHECKING:
    import torch


@dataclass(slots=True, kw_only=True)
class _Call:
    """What one run is asked for, and what it has come to.

    `kept` is what members have answered to the rows that are open; `cut` how many rows were open when nobody waited
    any longer.
    """

    asked: Asked
    opened: torch.Tensor
    due_s: float = 0.0
    rows: int = 0
    output: torch.Tensor | None = None
    kept: dict[str, Tree] = field(default_factory=dict)
    ended: Ended = "all"
    cut: int = 0
    told: Told = field(default_factory=Told)
    stages: list[MembersDone] = field(default_factory=list)
    done: set[str] = field(default_factory=set)
    missing: list[Missing] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)


class StagePartialRunner:
    """Runs one input at a time. Under the executor's lock.

    Args:
        stages: The lanes of the plan.
        history: Makes the reports.
    """

    def __init__(self, stages: StageRunner, history: RunHistory) -> None:
        self._stages = stages
        self._history = history
        self._combine = CombineTime()
        self._ran = False

    def run(self, asked: Asked) -> Run:
        """Run once; what is raised is that of `PartialRunner.run` and `StageRunner.run`."""
        import torch

        if self._stages.unprepared(_rows_of(asked.x)):  # what is found out before a first run is not cut short
            self._stages.stages[0].runner.write(asked.ensemble, asked.x, asked.deadline)
            self._stages.prepare(asked.ensemble, rows_in(self._stages.input.spec), asked.deadline, asked.seed)
        call = _Call(asked=asked, opened=torch.arange(0, device="cpu"))
        try:
            return self._run(call)
        finally:
            for members in call.stages:
                members.forget()  # an error that is kept keeps its frames, and they the memory of outputs

    def _run(self, call: _Call) -> Run:
        import torch

        asked, lane_input = call.asked, self._stages.input
        copied_ns = 0
        for number, stage in enumerate(self._stages.stages):
            if number and not len(call.opened):
                self._not_asked(call, number, "not needed", "no row was left for its stage")
                continue
            if call.ended != "all":
                self._not_asked(call, number, "late", "its stage had not begun")
                continue
            without = _without_weight(call)
            names = [name for name in asked.ensemble.names if name in stage.names]
            members = MembersDone(stage.lanes, names, without)
            call.stages.append(members)
            last = number == len(self._stages.stages) - 1
            collector = MemberCollector(
                stage.group,
                stage.runner.input,
                members,
                asked.options,
                asked.due,
                seed=asked.seed,
                before=len(call.kept.keys() - without),
                more=not last,
            )
            begun_ns = asked.begin_ns if not number else time.perf_counter_ns()
            collector.begin()
            if not number:
                stage.runner.hand_over(asked.ensemble, asked.x, asked.deadline, late=stage.group.late, at_once=False)
                copied_ns = time.perf_counter_ns()
                call.rows = ran = rows_in(lane_input.spec)
                call.opened = torch.arange(call.rows, device="cpu")
                if not self._ran:
                    self._combine.took(self._stages.decided_s, lane_input.size)
                    self._ran = True
                call.due_s = self._combine.begins_s(asked.due, lane_input.size)
            else:
                ran = size_for(len(call.opened), call.rows, stage.sizes)
                stage.runner.write_rows(lane_input, padded(call.opened, ran), asked.deadline, late=stage.group.late)
            call.busy += [name for index in sorted(stage.group.late) for name in members.of_lane(index)]
            ended = self._collected(call, stage, collector, first=not number)
            self._take(call, number, stage, members, ended, ran=ran, begun_ns=begun_ns, last=last)
        if call.output is None:
            raise self._nobody(call)
        return self._told(call, copied_ns)

    def _collected(self, call: _Call, stage: StageLanes, collector: MemberCollector, *, first: bool) -> Ended:
        lanes = stage.group.stepwise
        try:
            stage.runner.threads.quieten()
            collector.wake()
            if first and call.asked.meanwhile is not None:
                call.asked.meanwhile()
            ended: Ended = collector.collect(call.asked.deadline, call.due_s, _never)
        except EsenError:
            lanes.leave()  # an answer that is not there: lanes are late, and stay warm
            raise
        except BaseException:
            lanes.stop()
            stage.group.settle()
            raise
        lanes.leave()
        return ended

    def _take(
        self,
        call: _Call,
        number: int,
        stage: StageLanes,
        members: MembersDone,
        ended: Ended,
        *,
        ran: int,
        begun_ns: int,
        last: bool,
    ) -> None:
        """Combine what a stage has come to, and decide who leaves."""
        done_ns = time.perf_counter_ns()
        count = len(call.opened)
        thresholds = call.asked.plan.thresholds
        call.missing += members.missing(ended)
        call.done |= set(members.done)
        call.told.nan += members.nan
        call.told.at_s.update(members.spans_s(call.asked.begin_ns))
        answers = call.kept | first_rows(members.outputs(members.done), count, ran)
        scores = self._scores(call, answers, count) if members.count else None
        if scores is None and call.output is not None:  # the whole stage failed, or was not done
            scores = call.output[call.opened]
        stay = call.opened[:0] if last else self._unsure(scores, thresholds[number], count)
        if members.open and ended != "all":
            call.ended, call.cut = ended, count if last else len(stay)
        elif len(stay) and self._is_due(call, ended, len(answers.keys() - _without_weight(call))):
            call.ended, call.cut = "deadline" if ended == "all" else ended, len(stay)
        left = count if last or call.cut else count - len(stay)
        if not call.cut:
            call.kept = taken(answers, stay) if len(stay) else {}
            call.opened = call.opened[stay]
        end_ns = time.perf_counter_ns()
        call.told.stages.append(
            StageReport.of_plan(
                call.asked.plan,
                number,
                names=stage.names,
                rows=count,
                left=left,
                of=call.rows,
                ran=ran,
                start_s=(begun_ns - call.asked.begin_ns) / 1e9,
                end_s=(end_ns - call.asked.begin_ns) / 1e9,
                decide_s=(end_ns - done_ns) / 1e9,
            )
        )
        self._combine.took((end_ns - done_ns) / 1e9, self._stages.input.size)

    def _scores(self, call: _Call, answers: Mapping[str, Tree], count: int) -> torch.Tensor:
        """What the members of some rows answer together, put where these rows belong."""
        names = [name for name in call.asked.ensemble.names if name in answers]
        rule = call.asked.ensemble.combine.for_members(names, call.asked.ensemble.names)
        scores = self._stages.combined(call.asked.ensemble, rule, answers, count)
        if call.output is None:
            call.output = scores
        else:
            put_rows(call.output, call.opened, scores, call.asked.ensemble)
        return scores

    def _unsure(self, scores: torch.Tensor | None, threshold: float, count: int) -> torch.Tensor:
        """Which of so many rows stay open; all of them where nobody has answered any."""
        import torch

        if scores is None:
            return torch.arange(count, device="cpu")
        with self._stages.threads.alone():
            return (~sure_rows(scores, threshold)).nonzero().squeeze(1)

    @staticmethod
    def _is_due(call: _Call, ended: Ended, members: int) -> bool:
        """Whether nobody waits for another stage, though the one at hand is whole."""
        if ended == "enough":
            return True
        return call.asked.due is not None and time.monotonic() >= call.due_s and members >= call.asked.options.enough

    def _not_asked(self, call: _Call, number: int, why: Why, told: str) -> None:
        at_ns = time.perf_counter_ns()
        call.told.stages.append(self._stages.asleep(call.asked.plan, number, call.rows, at_ns, call.asked.begin_ns))
        call.missing += [Missing(name=name, why=why, told=told) for name in self._stages.stages[number].names]

    @staticmethod
    def _nobody(call: _Call) -> EsenError:
        if call.stages:
            return call.stages[-1].problem(call.asked.options.enough)
        return WorkerDied("A run's members answer", given="none of them did")

    def _told(self, call: _Call, copied_ns: int) -> Run:
        end_ns = time.perf_counter_ns()
        jct_s = (end_ns - call.asked.begin_ns) / 1e9
        missing = {one.name: one for one in call.missing}
        answered = Answered(
            names=tuple(name for name in call.asked.ensemble.names if name in call.done),
            missing=tuple(missing[name] for name in call.asked.ensemble.names if name in missing),
            ended=call.ended,
            at_s=jct_s if call.asked.due is None else call.asked.due.since_s,
            deadline_s=call.asked.options.deadline_s,
            rows=call.rows,
            cut_rows=call.cut,
            busy=tuple(call.busy),
        )
        report = self._history.partial_report(
            call.asked.plan,
            call.told.at_s,
            call.told.nan,
            str(self._stages.input.spec),
            jct_s=jct_s,
            copy_s=(copied_ns - call.asked.begin_ns) / 1e9,
            combine_s=sum(stage.decide_s for stage in call.told.stages),
            answered=answered,
            notes=self._stages.told_caught_up(),
            stages=tuple(call.told.stages),
        )
        return Run(output=call.output, report=report)


def _never() -> Ended | None:
    """Stages end early by their thresholds alone."""
    return None


def _without_weight(call: _Call) -> frozenset[str]:
    """Members that make no answer alone."""
    return weightless(call.asked.ensemble.combine, call.asked.ensemble.names)


def _rows_of(x: Tree) -> int:
    """How many rows an input seems to have; 0 where it has no batch axis, which whoever runs it refuses."""
    leaves, _ = take_in(x)
    return int(leaves[0].shape[0]) if leaves and leaves[0].dim() else 0
