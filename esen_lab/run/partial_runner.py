"""One run whose answer may be made before all members have answered: by a deadline, early, without who failed.

    1. The input goes where no late lane reads (`LaneInput.leave_to`), and lanes that are at rest are woken.
    2. Each lane tells each step as it is done; its output is read where it lies. A lane that ends a step of an earlier
       run meanwhile stops there, is told where the input lies now, and is woken too.
    3. It ends when all that can answer have, when the deadline has come and enough are done, or early.
    4. Lanes that are at work then end the step at hand and are late; nobody waits for them, and what they tell later is
       dropped by its number. The answer is made of the outputs of this run's number alone.

A late lane writes into its own memory and reads its own input; neither is touched before it has ended its run. So two
runs never mix, and the next one waits for a late lane only where it needs it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext

from esen_lab.common.trees import Tree
from esen_lab.ensemble import Ensemble
from esen_lab.errors import EsenError, WorkerDied, first_line
from esen_lab.lanes import StepTold, Worker
from esen_lab.planner.plan import Plan
from esen_lab.run.answered import Answered, Ended
from esen_lab.run.deadline import Deadline
from esen_lab.run.early import Confidence, confidence, decided
from esen_lab.run.lane_group import DiedLate, LaneGroup
from esen_lab.run.lane_runner import LaneRunner
from esen_lab.run.members_done import MembersDone
from esen_lab.run.options import RunOptions
from esen_lab.run.outcome import Run
from esen_lab.run.run_history import RunHistory
from esen_lab.run.uncertainty import uncertain

_MOST_OF_IT = 0.5  # of the time to a deadline is kept for combining, at most
_LEAST_S = 0.0003  # is kept for it at least


class PartialRunner:
    """Runs one input at a time. Under the executor's lock.

    Args:
        workers: The lanes.
        group: The same lanes, as one.
        lanes: Has the input, and runs what waits for all members.
        history: Makes the reports.
    """

    def __init__(self, workers: Sequence[Worker], group: LaneGroup, lanes: LaneRunner, history: RunHistory) -> None:
        self._workers = workers
        self._group = group
        self._lanes = lanes
        self._history = history
        self._combine_s = 0.0  # what combining took, at most and lately

    def run(
        self,
        plan: Plan,
        ensemble: Ensemble,
        x: Tree,
        deadline: Deadline,
        options: RunOptions,
        due: Deadline | None,
        *,
        seed: int | None,
        begin_ns: int,
        meanwhile: Callable[[], object] | None = None,
    ) -> Run:
        """Run once.

        Args:
            plan: Of these lanes.
            ensemble: Its sub-models and combine rule.
            x: The input.
            deadline: Of the whole call: lanes that are at work then are ended.
            options: What is asked for; checked.
            due: When the answer is due, or None.
            seed: Of random numbers; None where no sub-model draws any.
            begin_ns: When the call came here, on `time.perf_counter_ns`.
            meanwhile: Called while the lanes work.

        Raises:
            DeadlineMissed: Fewer members than were asked for were done when the answer was due.
            EsenError: See `Executor.run`.
        """
        members = MembersDone(plan, [name for name in ensemble.names if name in plan.names])
        try:
            return self._run(plan, ensemble, x, deadline, options, due, members, seed, begin_ns, meanwhile)
        finally:
            members.forget()  # an error that is kept keeps its frames, and they the memory of outputs

    def _run(
        self,
        plan: Plan,
        ensemble: Ensemble,
        x: Tree,
        deadline: Deadline,
        options: RunOptions,
        due: Deadline | None,
        members: MembersDone,
        seed: int | None,
        begin_ns: int,
        meanwhile: Callable[[], object] | None,
    ) -> Run:
        group = self._group
        self._begin(ensemble, x, deadline, options, members)
        copied = time.perf_counter_ns()
        busy = tuple(name for index in sorted(group.late) for name in members.of_lane(index))
        try:
            for index in group.at_rest:
                self._rouse(index, seed, options, members)
            if meanwhile is not None:
                meanwhile()
            ended, sure = self._collect(ensemble, deadline, options, due, members, seed)
        except EsenError:
            group.leave()  # an answer that is not there: lanes are late, and stay warm
            raise
        except BaseException:
            group.stop()  # they need not begin what nobody waits for
            group.settle()
            raise
        group.leave()
        done = time.perf_counter_ns()
        names = members.done
        output = self._combined(ensemble, names, members)
        if options.uncertainty:
            with self._lanes.threads.alone():
                output = uncertain(output, members.outputs(names), ensemble.combine, ensemble.names)
        end = time.perf_counter_ns()
        self._combine_s = max((end - done) / 1e9, 0.8 * self._combine_s)
        answered = Answered(
            names=names,
            missing=members.missing(ended),
            ended=ended,
            at_s=(end - begin_ns) / 1e9 if due is None else due.since_s,
            deadline_s=options.deadline_s,
            confidence=None if sure is None else sure.least,
            certain_rows=None if sure is None else sure.certain_rows,
            rows=None if sure is None else sure.rows,
            busy=busy,
        )
        jct_s = (end - begin_ns) / 1e9
        report = self._history.partial_report(
            plan,
            members.spans_s(begin_ns),
            members.nan,
            str(self._lanes.input.spec),
            jct_s=jct_s,
            copy_s=(copied - begin_ns) / 1e9,
            combine_s=(end - done) / 1e9,
            answered=answered,
            notes=[note for note in (group.told_caught_up(),) if note],
        )
        return Run(output=output, report=report)

    def _begin(
        self, ensemble: Ensemble, x: Tree, deadline: Deadline, options: RunOptions, members: MembersDone
    ) -> None:
        """Write the input where no late lane reads it."""
        group, lanes = self._group, self._lanes
        group.look_at_late()
        group.check_but_for_dead(allowed=options.on_failure == "leave-out")
        group.begin_stepwise()
        for index, worker in enumerate(self._workers):
            if not worker.alive:
                members.lane_failed(index, "its lane has ended, and starts anew")
        if not group.late:
            lanes.where.stop()  # outputs lie on the host, each as soon as it is there
        if group.late or lanes.input.parted:
            lanes.input.leave_to(group.late)
        lanes.hand_over(ensemble, x, deadline, late=group.late)

    def _rouse(self, index: int, seed: int | None, options: RunOptions, members: MembersDone) -> None:
        try:
            self._lanes.input.tell(index)
            self._group.rouse(index, seed)
            members.begun.add(index)
        except EsenError as problem:
            self._failed(index, problem, options, members)

    def _collect(
        self,
        ensemble: Ensemble,
        deadline: Deadline,
        options: RunOptions,
        due: Deadline | None,
        members: MembersDone,
        seed: int | None,
    ) -> tuple[Ended, Confidence | None]:
        """Take what lanes tell until the answer can be made."""
        group = self._group
        due_s = math.inf if due is None else due.at_s - self._kept_for_combining(due)
        while True:
            # 1. Whether it is over.
            over = self._over(options, due, due_s, members)
            if over is not None:
                self._check_probabilities(ensemble, members, options)
                return over, None
            # 2. What lanes tell; the last moments before it is due are waited for finely.
            news = False
            for index in group.ready(min(deadline.at_s, math.inf if members.late else due_s)):
                news = self._take(index, seed, options, members) or news
            if deadline.left_s <= 0:
                raise self._given_up(deadline)
            # 3. Whether nothing can change any more.
            if news and options.stop_early is not None and options.enough <= len(members.done) and members.open:
                found = self._early(ensemble, members, options.stop_early)
                if found is not None:
                    return found

    def _check_probabilities(self, ensemble: Ensemble, members: MembersDone, options: RunOptions) -> None:
        """Refuse outputs of which no answer can be confident, also where nothing was left to stop.

        Raises:
            UsageError: They are no probabilities.
        """
        if isinstance(options.stop_early, float):
            self._early(ensemble, members, options.stop_early)

    def _over(self, options: RunOptions, due: Deadline | None, due_s: float, members: MembersDone) -> Ended | None:
        """Why nobody waits any longer, or None.

        Raises:
            EsenError: Too few members are done, and it is due, or no others can come.
        """
        group, count = self._group, len(members.done)
        if not members.open and count >= options.enough:
            return "enough" if members.late else "all"
        if members.could_be < options.enough or not (group.at_work or group.late):
            raise members.problem(options.enough)
        if due is None or time.monotonic() < due_s:
            return None
        if count >= options.enough:
            return "enough" if members.late else "deadline"
        if options.otherwise == "error":
            raise members.missed(options, due)
        members.late = True
        return None

    def _take(self, index: int, seed: int | None, options: RunOptions, members: MembersDone) -> bool:
        """Take one thing that a lane has to say; whether one more member is done with it."""
        group = self._group
        was_late = index in group.late
        try:
            told = group.take_step(index)
        except EsenError as problem:
            self._failed(index, problem, options, members)
            return False
        if was_late and index not in group.late and self._workers[index].alive:
            self._rouse(index, seed, options, members)  # it has ended its earlier run: there is time for this one
        if told is None:
            return False
        if told.problem is not None:
            if not self._workers[index].alive:
                self._failed(index, told.problem, options, members)
            else:
                self._step_failed(index, told, options, members)
            return False
        if told.index < 0:
            if told.over:
                members.lane_ended(index)
            return False
        before = len(members.done)
        members.step_done(index, told, self._workers[index].outputs_of([told.index])[0])
        return len(members.done) > before

    def _failed(self, index: int, problem: EsenError, options: RunOptions, members: MembersDone) -> None:
        if options.on_failure == "error":
            if index not in members.begun and isinstance(problem, WorkerDied):
                raise DiedLate(problem.rule, log=problem.log, hint=problem.hint) from problem
            raise problem
        members.lane_failed(index, first_line(problem), problem)

    def _step_failed(self, index: int, told: StepTold, options: RunOptions, members: MembersDone) -> None:
        assert told.problem is not None
        if options.on_failure == "error":
            raise told.problem
        members.step_failed(index, told.failed, first_line(told.problem), told.problem)

    def _early(
        self, ensemble: Ensemble, members: MembersDone, early: str | float
    ) -> tuple[Ended, Confidence | None] | None:
        """Why a run may end early, or None."""
        outputs = members.outputs(members.done)
        with self._lanes.threads.alone():
            if early == "decided":
                return ("decided", None) if decided(outputs, len(members.open)) else None
            expected = [name for name in ensemble.names if name in outputs or name in members.open]
            sure = confidence(outputs, ensemble.combine, expected, ensemble.names)
        return ("confident", sure) if sure.least >= float(early) else None

    def _combined(self, ensemble: Ensemble, names: Sequence[str], members: MembersDone) -> Tree:
        import torch

        outputs: Mapping[str, Tree] = members.outputs(names)
        rule = ensemble.combine.for_members(names, ensemble.names)
        with torch.no_grad(), nullcontext() if rule.function is not None else self._lanes.threads.alone():
            return rule(outputs)

    def _kept_for_combining(self, due: Deadline) -> float:
        return min(max(self._combine_s * 1.2, _LEAST_S), due.allowed_s * _MOST_OF_IT)

    def _given_up(self, deadline: Deadline) -> EsenError:
        """The time of the whole call is over: lanes that are at work are ended, as those of a plain run are."""
        late = {*self._group.at_work, *self._group.late}
        names = [name for index in sorted(late) for name in self._group.steps_of_lane(index)]
        self._group.end(late)
        return deadline.passed(f"the lane of {', '.join(names)}")
