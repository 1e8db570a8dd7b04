"""One run of a plan in stages: some members are asked, rows that are sure leave, the others go on to the next stage.

    stage 1    the whole batch, as any plan
    between    the combine rule over all members asked so far; rows at or above the threshold are answered
    stage k    the open rows are gathered from the input of stage 1 into that of stage k (`stage_rows.py`), its lanes
               are woken; what earlier members answered is kept for the open rows alone
    nobody     is left: later stages are not woken

All lanes of all stages are warm; those of different stages may lie on the same cores, since only one stage is at work
at a time. The answer is what the rule made of a row in the stage that it left in, in the order of the input.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from esen_lab.common.trees import Tree, map_tensors
from esen_lab.ensemble import Ensemble
from esen_lab.lanes import ForkServer, Worker
from esen_lab.lanes.openmp import CallersThreads
from esen_lab.planner.plan import Lane, Plan
from esen_lab.run.deadline import Deadline
from esen_lab.run.device_combine import WhereToCombine
from esen_lab.run.lane_group import LaneGroup
from esen_lab.run.lane_input import LaneInput
from esen_lab.run.lane_runner import LaneRunner, times_of
from esen_lab.run.outcome import MemberRun, Run
from esen_lab.run.request import PLAIN, RunRequest
from esen_lab.run.run_history import RunHistory
from esen_lab.run.stage_checks import Change, StagesPrepared, check_rows
from esen_lab.run.stage_rows import (
    SIZES_OF_ENGINES,
    first_rows,
    padded,
    rows_in,
    size_for,
    sizes_for,
    sizes_of,
)
from esen_lab.run.stages_so_far import StageAnswers, StagesSoFar, combined_scores, names_in

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class StageLanes:
    """The lanes of one stage, what they run, and at how many sizes of a batch."""

    lanes: tuple[Lane, ...]
    names: tuple[str, ...]
    group: LaneGroup
    runner: LaneRunner
    sizes: int


class StageRunner:
    """Runs one input at a time through the stages of a plan, in the place of a `LaneRunner`. Under the executor's lock.

    Args:
        workers: The lanes of the plan.
        plan: It runs in stages.
        fork_server: Started the workers.
        history: Makes the reports.
        core_to_spare: Whether this process can stay awake without taking a core from a lane.

    Attributes:
        stages: The lanes of each.
        decided_s: How long combining and deciding took in the last plain run, in the stage where it took longest.
        threads: Those of the calling process, which are quiet while answers are combined.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        plan: Plan,
        fork_server: ForkServer,
        history: RunHistory,
        *,
        core_to_spare: bool,
    ) -> None:
        self._plan = plan
        self._history = history
        self.threads = CallersThreads()
        self.stages: list[StageLanes] = []
        for stage, numbers in enumerate(plan.stages):
            own, lanes = [workers[n] for n in numbers], tuple(plan.lanes[n] for n in numbers)
            group = LaneGroup(own, lanes, fork_server, core_to_spare=core_to_spare)
            self.stages.append(
                StageLanes(
                    lanes=lanes,
                    names=names_in(plan, stage),
                    group=group,
                    runner=LaneRunner(own, group, history, core_to_spare=core_to_spare),
                    sizes=sizes_for(lanes),
                )
            )
        self._places = {
            number: (stage, place)
            for stage, numbers in zip(self.stages, plan.stages, strict=True)
            for place, number in enumerate(numbers)
        }
        self.decided_s = 0.0
        self._prepared = StagesPrepared(has_engines=any(stage.sizes == SIZES_OF_ENGINES for stage in self.stages[1:]))

    # --- in the place of a `LaneRunner` --------------------------------------------------------------------------

    @property
    def where(self) -> WhereToCombine:
        """Combining on the GPU, which no stage does: what is decided is decided on the host."""
        return self.stages[0].runner.where

    @property
    def input(self) -> LaneInput:
        """Where the lanes of the first stage read the whole batch."""
        return self.stages[0].runner.input

    def replace(self, index: int, worker: Worker) -> None:
        """Another process is this lane of the plan from now on, loaded, in the place of one that has ended."""
        stage, place = self._places[index]
        stage.runner.replace(place, worker)
        self._prepared.cold()

    def told_caught_up(self) -> tuple[str, ...]:
        """How long was waited for late lanes of which stages, sentences."""
        return tuple(told for stage in self.stages if (told := stage.group.stepwise.told_caught_up()))

    def forget(self) -> None:
        """Sub-models or the combine rule are other ones: nothing that was prepared or found out holds."""
        self._prepared.forget()
        for stage in self.stages:
            stage.runner.forget()

    def close(self) -> None:
        """Let go of the memory; the lanes are ended by others."""
        for stage in self.stages:
            stage.runner.close()

    # --- a run ---------------------------------------------------------------------------------------------------

    def run(self, asked: RunRequest) -> Run:
        """Run once; what is raised is that of `LaneRunner.run`.

        Raises:
            UsageError: The input has no batch axis, the combined answer no scores, or a sub-model's answer to a row
                depends on the other rows.
        """
        first = self.stages[0]
        first.runner.write(asked.ensemble, asked.x, asked.deadline)
        rows = rows_in(self.input.spec)
        if self.prepare(asked.ensemble, rows, asked.deadline, asked.seed):  # counts to no run
            asked = replace(asked, begin_ns=time.perf_counter_ns())
            first.runner.write(asked.ensemble, asked.x, asked.deadline)
        begin_ns, copied_ns = asked.begin_ns, time.perf_counter_ns()
        so_far = self._through(asked, rows)
        told = so_far.told
        jct_s = (time.perf_counter_ns() - begin_ns) / 1e9
        for stage in self.stages:
            own = [[told.at_s[name] for name in lane.members if name in told.at_s] for lane in stage.lanes]
            if all(own):
                stage.group.order_by([spans[-1][1] - spans[0][0] for spans in own])
        self.decided_s = max(stage.decide_s for stage in told.stages)
        report = self._history.report(
            asked.plan,
            told.at_s,
            told.nan,
            str(self.input.spec),
            jct_s=jct_s,
            copy_s=(copied_ns - begin_ns) / 1e9,
            combine_s=so_far.decided_s,
            notes=self.told_caught_up(),
            stages=tuple(told.stages),
        )
        return Run(output=so_far.output, report=report)

    def _through(self, asked: RunRequest, rows: int) -> StagesSoFar:
        """Run the stages, one after the other, while rows are open; returns what they came to."""
        so_far = StagesSoFar(asked.plan, asked.ensemble, PLAIN, None, asked.begin_ns, self.threads)
        so_far.begin(rows, math.inf)
        for number, stage in enumerate(self.stages):
            begun_ns = time.perf_counter_ns()
            if not so_far.asks(number):
                continue
            count = len(so_far.opened)
            ran = size_for(count, rows, stage.sizes) if number else rows
            if number:
                stage.runner.write_rows(self.input, padded(so_far.opened, ran), asked.deadline)
            woken_ns = time.perf_counter_ns()
            stage.runner.wake(asked.seed)
            if asked.meanwhile is not None and not number:
                stage.group.meanwhile(asked.meanwhile)
            timings = stage.group.collect(asked.deadline, _nothing)
            stage.group.lasted_s = (time.perf_counter_ns() - woken_ns) / 1e9
            times = times_of(stage.lanes, timings, asked.begin_ns)
            stage.group.drew.update(times.drew)
            so_far.told.at_s.update(times.at_s)
            so_far.told.nan += times.nan
            outputs = first_rows(stage.group.outputs(stage.names), count, ran)
            so_far.take(number, StageAnswers(outputs=outputs, ran=ran, begun_ns=begun_ns))
        return so_far

    # --- every member on every row -------------------------------------------------------------------------------

    def run_members(self, ensemble: Ensemble, x: Tree, deadline: Deadline, *, seed: int | None) -> MemberRun:
        """Run every stage on the whole batch: every member's answer, and the combined one of all of them."""
        import torch

        self.stages[0].runner.write(ensemble, x, deadline)
        rows = rows_in(self.input.spec)
        members = self._answers(torch.arange(rows, device="cpu"), deadline, seed, first=True)
        members = {name: members[name] for name in ensemble.names if name in members}
        output = combined_scores(ensemble, members, rows, self.threads)
        return MemberRun(output=output, members=members)

    def _answers(self, index: torch.Tensor, deadline: Deadline, seed: int | None, *, first: bool) -> dict[str, Tree]:
        """What members answer for some rows of the input of the first stage, copies.

        Args:
            index: Which rows; all of them, in order, where `first`.
            deadline: Of the whole call.
            seed: Of random numbers.
            first: Whether the first stage is asked too: its members may keep state, which a look must not change.
        """
        found: dict[str, Tree] = {}
        count = len(index)
        for number, stage in enumerate(self.stages):
            if number:
                stage.runner.write_rows(self.input, index, deadline)
            elif not first:
                continue
            stage.runner.wake(seed)
            stage.group.collect(deadline, _nothing)
            for name, tree in first_rows(stage.group.outputs(stage.names), count, count).items():
                found[name] = map_tensors(lambda leaf: leaf.clone(), tree)
        return found

    # --- what is found out before the first run -------------------------------------------------------------------

    def unprepared(self, rows: int) -> bool:
        """Whether something is to be found out, or prepared, before a batch of so many rows."""
        return self._prepared.lacks(rows)

    def prepare(self, ensemble: Ensemble, rows: int, deadline: Deadline, seed: int | None) -> bool:
        """See that rows are independent and have engines prepared, once per batch size; returns whether lanes ran."""
        if not self._prepared.lacks(rows):
            return False
        if self._prepared.has_to_look(rows):
            self._check_rows(ensemble, rows, deadline, seed)
        if self._prepared.has_to_warm(rows):
            for stage in self.stages[1:]:
                for size in sizes_of(rows, stage.sizes) if stage.sizes == SIZES_OF_ENGINES else ():
                    self._run_rows(stage, size, deadline, seed)
        self._prepared.done(rows)
        return True

    def _run_rows(self, stage: StageLanes, size: int, deadline: Deadline, seed: int | None) -> None:
        import torch

        stage.runner.write_rows(self.input, torch.arange(size, device="cpu"), deadline)
        stage.runner.wake(seed)
        stage.group.collect(deadline, _nothing)

    def _check_rows(self, ensemble: Ensemble, rows: int, deadline: Deadline, seed: int | None) -> None:
        import torch

        given = [leaf.clone() for leaf in self.input.tensors]

        def ask(count: int, change: Change) -> dict[str, Tree]:
            self.input.write([change(leaf) for leaf in given] if change else given)  # where the first stage reads it
            return self._answers(torch.arange(count, device="cpu"), deadline, seed, first=False)

        first = self.stages[0].names
        executed = self._history.executed(self._plan)
        later = {name: how for name, how in executed.items() if name in ensemble.names and name not in first}
        check_rows(later, ensemble, rows, ask)


def _nothing() -> None:
    """Nothing is combined ahead."""
