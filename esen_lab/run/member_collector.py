"""Collects what the members of some lanes answer, step by step, until an answer can be made of them.

    begin     what late lanes have said is taken, and a run is begun beside them
    collect   lanes that are at rest are told where the input lies, and woken; each tells each step as it is done, and
              its output is read where it lies. A lane that ends a step of an earlier run meanwhile stops there, is told
              where the input lies now, and is woken too. In the end lanes that are at work are late

For one group of lanes: those of a plan, or of one of its stages. Nothing here waits for a single lane.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from typing import TypeVar

from esen_lab.errors import EsenError, WorkerDied, first_line
from esen_lab.lanes import StepTold
from esen_lab.run.answered import Ended
from esen_lab.run.deadline import Deadline
from esen_lab.run.lane_group import DiedLate, LaneGroup
from esen_lab.run.lane_input import LaneInput
from esen_lab.run.members_done import MembersDone
from esen_lab.run.options import RunOptions
from esen_lab.run.promptness import PROMPT_S, prompt

_Found = TypeVar("_Found")


class MemberCollector:
    """One run of one group of lanes. Under the executor's lock.

    Args:
        group: The lanes.
        lane_input: Where they read their input.
        members: What there is of their members so far.
        options: What is asked for.
        due: When the answer is due, or None.
        before: How many members have answered the same rows already, in earlier stages.
        more: Whether a later stage may answer them too.
        seed: Of random numbers; None where no sub-model draws any.
    """

    def __init__(
        self,
        group: LaneGroup,
        lane_input: LaneInput,
        members: MembersDone,
        options: RunOptions,
        due: Deadline | None,
        *,
        seed: int | None,
        before: int = 0,
        more: bool = False,
    ) -> None:
        self._group = group
        self._lanes = group.stepwise
        self._input = lane_input
        self._members = members
        self._options = options
        self._due = due
        self._due_s = math.inf
        self._seed = seed
        self._before = before
        self._more = more

    def begin(self) -> None:
        """Begin a run beside lanes that are late.

        Raises:
            WorkerDied: The lanes cannot run.
        """
        lanes = self._lanes
        lanes.look_at_late()
        self._group.check_but_for_dead(allowed=self._options.on_failure == "leave-out")
        lanes.begin()
        for index in lanes.ended:
            self._members.lane_failed(index, "its lane has ended, and starts anew")
        if lanes.late or self._input.parted:
            self._input.leave_to(lanes.late)

    def collect(
        self,
        deadline: Deadline,
        due_s: float,
        early: Callable[[], _Found | None],
        meanwhile: Callable[[], object] | None = None,
    ) -> Ended | _Found:
        """Wake the lanes that are at rest, and take what they tell until an answer can be made; then nobody waits.

        What they read has been written.

        Args:
            deadline: Of the whole call: lanes that are at work then are ended.
            due_s: When combining must begin, on `time.monotonic`; infinite where nothing is due.
            early: Asked whenever a member is done while others are open: what it finds ends the run.
            meanwhile: Called when they are woken.

        Returns:
            Why nobody waits any longer.

        Raises:
            DeadlineMissed: It is due, and too few members are done.
            EsenError: A member failed, or too few can answer.
        """
        lanes = self._lanes
        try:
            for index in lanes.at_rest:
                self._rouse(index)
            if meanwhile is not None:
                meanwhile()
            found = self._until_answered(deadline, due_s, early)
        except EsenError:
            lanes.leave()  # an answer that is not there: lanes are late, and stay warm
            raise
        except BaseException:
            lanes.stop()  # they need not begin what nobody waits for
            self._group.watch.settle()
            raise
        lanes.leave()
        return found

    def _until_answered(self, deadline: Deadline, due_s: float, early: Callable[[], _Found | None]) -> Ended | _Found:
        """Take what lanes tell until an answer can be made; see `collect`."""
        members, lanes = self._members, self._lanes
        self._due_s = due_s
        with contextlib.ExitStack() as moments:
            hurried = False
            while True:
                # 1. Whether it is over.
                over = self._over()
                if over is not None:
                    return over
                # 2. What lanes tell; the last moments before it is due are waited for finely.
                due_s = math.inf if members.late else self._due_s
                if members.late:
                    moments.close()
                if not hurried and time.monotonic() >= due_s - PROMPT_S:
                    moments.enter_context(prompt())
                    hurried = True
                news = False
                for index in lanes.ready(min(deadline.at_s, due_s if hurried else due_s - PROMPT_S)):
                    news = self._take(index) or news
                if deadline.left_s <= 0:
                    raise self._given_up(deadline)
                # 3. Whether nothing can change any more.
                if news and self._options.enough <= members.count and members.open:
                    found = early()
                    if found is not None:
                        return found

    def _over(self) -> Ended | None:
        """Why nobody waits any longer, or None.

        Raises:
            EsenError: Too few members are done, and it is due, or no others can come.
        """
        members, options = self._members, self._options
        count = self._before + members.count
        if not members.open and (count >= options.enough or self._more):
            return "enough" if members.late and count >= options.enough else "all"
        if self._before + members.could_be < options.enough or not (self._lanes.at_work or self._lanes.late):
            if self._more:
                return None if self._lanes.at_work or self._lanes.late else "all"
            raise members.problem(options.enough)
        if self._due is None or time.monotonic() < self._due_s:
            return None
        if count >= options.enough:
            return "enough" if members.late else "deadline"
        if options.otherwise == "error":
            raise members.missed(options, self._due, before=self._before)
        members.late = True
        return None

    def _rouse(self, index: int) -> None:
        try:
            self._input.tell(index)
            self._lanes.rouse(index, self._seed)
            self._members.begun.add(index)
        except EsenError as problem:
            self._failed(index, problem)

    def _take(self, index: int) -> bool:
        """Take one thing that a lane has to say; whether one more member is done with it."""
        lanes, members = self._lanes, self._members
        was_late = index in lanes.late
        try:
            told = lanes.take_step(index)
        except EsenError as problem:
            self._failed(index, problem)
            return False
        if was_late and index not in lanes.late and lanes.alive(index):
            self._rouse(index)  # it has ended its earlier run: there is time for this one
        if told is None:
            return False
        if told.problem is not None:
            if not lanes.alive(index):
                self._failed(index, told.problem)
            else:
                self._step_failed(index, told)
            return False
        if told.index < 0:
            if told.over:
                members.lane_ended(index)
            return False
        if told.drew:
            self._group.drew.add(self._group.steps_of_lane(index)[told.index])
        before = len(members.done)
        members.step_done(index, told, lanes.output(index, told.index))
        return len(members.done) > before

    def _failed(self, index: int, problem: EsenError) -> None:
        if self._options.on_failure == "error":
            if index not in self._members.begun and isinstance(problem, WorkerDied):
                raise DiedLate(problem.rule, log=problem.log, hint=problem.hint) from problem
            raise problem
        self._members.lane_failed(index, first_line(problem), problem)

    def _step_failed(self, index: int, told: StepTold) -> None:
        assert told.problem is not None
        if self._options.on_failure == "error":
            raise told.problem
        self._members.step_failed(index, told.failed, first_line(told.problem), told.problem)

    def _given_up(self, deadline: Deadline) -> EsenError:
        """The time of the whole call is over: lanes that are at work are ended, as those of a plain run are."""
        late = {*self._lanes.at_work, *self._lanes.late}
        names = [name for index in sorted(late) for name in self._group.steps_of_lane(index)]
        self._group.watch.end(late)
        return deadline.passed(f"the lane of {', '.join(names)}")


class CombineTime:
    """How long combining took lately: so much time before the deadline is kept for it."""

    _MOST_OF_IT = 0.5  # of the time to a deadline is kept, at most
    _LEAST_S = 0.0003  # is kept at least
    _MARGIN = 1.2
    _FORGETS = 0.95  # a slow one counts for some tens of runs

    def __init__(self) -> None:
        self._took_s = 0.0
        self._of_bytes = 0

    def took(self, seconds: float, of_bytes: int) -> None:
        """Note how long combining took, in seconds, for an input of so many bytes."""
        self._took_s = max(seconds, self._FORGETS * self._took_s)
        self._of_bytes = of_bytes

    def kept_for(self, due: Deadline, of_bytes: int) -> float:
        """How long before it is due combining must begin, in seconds: longer for a larger input than the last."""
        larger = max(1.0, of_bytes / self._of_bytes) if self._of_bytes else 1.0
        return min(max(self._took_s * larger * self._MARGIN, self._LEAST_S), due.allowed_s * self._MOST_OF_IT)

    def begins_s(self, due: Deadline | None, of_bytes: int) -> float:
        """When combining must begin, on `time.monotonic`; infinite where nothing is due."""
        return math.inf if due is None else due.at_s - self.kept_for(due, of_bytes)
