"""What one run of a plan in stages has come to: which rows are open, what was answered, who leaves, what is told of it.

Whoever runs the stages hands over what their members have answered, wherever these run: their lanes may be here
(`stage_runner.py`, `stage_partial.py`), on the nodes of a cluster, or another server's (`stages_in_place.py`). So the
same is decided everywhere, to the bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from esen_lab.common.trees import Tree
from esen_lab.ensemble import Ensemble
from esen_lab.ensemble.confidence import scores_of, sure_rows
from esen_lab.errors import UsageError
from esen_lab.lanes.openmp import CallersThreads
from esen_lab.planner.plan import Plan
from esen_lab.planner.steps import members_of
from esen_lab.run.answered import Answered, Ended, Missing, Why
from esen_lab.run.deadline import Deadline
from esen_lab.run.host_combine import combined
from esen_lab.run.options import RunOptions, weightless
from esen_lab.run.stage_report import StageReport
from esen_lab.run.stage_rows import taken

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class StageAnswers:
    """What the members of one stage have answered to the rows that were open.

    Attributes:
        outputs: By member, in the order of the ensemble, with a row for each that was open.
        ran: How many rows ran: these, filled up to one of few sizes.
        begun_ns: When these rows were known, on `time.perf_counter_ns`.
        ended: Why nobody waited any longer.
        waiting: Whether members might still have answered.
        missing: Who did not answer, and why.
    """

    outputs: Mapping[str, Tree]
    ran: int
    begun_ns: int
    ended: Ended = "all"
    waiting: bool = False
    missing: tuple[Missing, ...] = ()


@dataclass(slots=True)
class Told:
    """What the stages of one run came to."""

    at_s: dict[str, tuple[float, float]] = field(default_factory=dict)
    nan: list[str] = field(default_factory=list)
    stages: list[StageReport] = field(default_factory=list)


class StagesSoFar:
    """One run that may be answered before its last stage. Used by one thread.

    Args:
        plan: It runs in stages.
        ensemble: Its sub-models, and the combine rule.
        options: What is asked for.
        due: When the answer is due, or None.
        begin_ns: When the call came, on `time.perf_counter_ns`.
        threads: Those of the calling process, which are quiet while answers are combined.

    Attributes:
        rows: Of the whole batch; 0 before `begin`.
        due_s: When combining must begin, on `time.monotonic`; infinite where nothing is due.
        opened: The numbers of the rows that are open.
        output: The combined answer so far; None before anybody has answered.
        ended: Why nobody waits any longer; "all": stages are still asked, or all have been.
        cut: How many rows were open when nobody waited any longer.
        told: What the stages came to.
        busy: Members whose lanes were still at an earlier run.
    """

    def __init__(
        self,
        plan: Plan,
        ensemble: Ensemble,
        options: RunOptions,
        due: Deadline | None,
        begin_ns: int,
        threads: CallersThreads,
    ) -> None:
        import torch

        self._plan, self._ensemble, self._options, self._due = plan, ensemble, options, due
        self._begin_ns, self._threads = begin_ns, threads
        self.due_s = math.inf
        self._kept: dict[str, Tree] = {}  # what members have answered to the rows that are open
        self._done: set[str] = set()
        self._missing: dict[str, Missing] = {}
        self.weightless = weightless(ensemble.combine, ensemble.names)
        self.rows = 0
        self.opened = torch.arange(0, device="cpu")
        self.output: torch.Tensor | None = None
        self.ended: Ended = "all"
        self.cut = 0
        self.told = Told()
        self.busy: list[str] = []

    def begin(self, rows: int, due_s: float) -> None:
        """The batch has so many rows, and combining must begin at `due_s`."""
        import torch

        self.rows, self.due_s = rows, due_s
        self.opened = torch.arange(rows, device="cpu")

    @property
    def before(self) -> int:
        """How many members have answered the open rows, of those that count."""
        return len(self._kept.keys() - self.weightless)

    def asks(self, number: int) -> bool:
        """Whether a stage is to run; one that is not is noted in `told`, and its members as missing."""
        if number and not len(self.opened):
            self._skip(number, "not needed", "no row was left for its stage")
        elif self.ended != "all":
            self._skip(number, "late", "its stage had not begun")
        else:
            return True
        return False

    def _skip(self, number: int, why: Why, told: str) -> None:
        now_ns = time.perf_counter_ns()
        self._report(number, rows=0, left=0, ran=0, start_ns=now_ns, done_ns=now_ns, end_ns=now_ns)
        for name in names_in(self._plan, number):
            self._missing[name] = Missing(name=name, why=why, told=told)

    def _report(self, number: int, *, rows: int, left: int, ran: int, start_ns: int, done_ns: int, end_ns: int) -> None:
        """Note what happened in a stage; `done_ns` is when its members had answered."""
        self.told.stages.append(
            StageReport.of_plan(
                self._plan,
                number,
                names=names_in(self._plan, number),
                rows=rows,
                left=left,
                of=self.rows,
                ran=ran,
                start_s=(start_ns - self._begin_ns) / 1e9,
                end_s=(end_ns - self._begin_ns) / 1e9,
                decide_s=(end_ns - done_ns) / 1e9,
            )
        )

    def take(self, number: int, came: StageAnswers) -> None:
        """Combine what a stage has come to, and decide who leaves.

        Raises:
            UsageError: The combined answer has no scores.
        """
        done_ns = time.perf_counter_ns()
        count, thresholds = len(self.opened), self._plan.thresholds
        last = number == len(self._plan.stages) - 1
        self._missing.update({one.name: one for one in came.missing})
        self._done |= came.outputs.keys()
        answers = {**self._kept, **came.outputs}
        scores = self._scores(answers, count) if came.outputs.keys() - self.weightless else None
        if scores is None and self.output is not None:  # the whole stage failed, or was not done
            scores = self.output[self.opened]
        stay = self.opened[:0] if last else self._unsure(scores, thresholds[number], count)
        if came.waiting and came.ended != "all":
            self.ended, self.cut = came.ended, count if last else len(stay)
        elif len(stay) and self._is_due(came.ended, len(answers.keys() - self.weightless)):
            self.ended, self.cut = "deadline" if came.ended == "all" else came.ended, len(stay)
        left = count if last or self.cut else count - len(stay)
        if not self.cut:
            with self._threads.alone():
                self._kept = taken(answers, stay) if len(stay) else {}
                self.opened = self.opened[stay]
        end_ns = time.perf_counter_ns()
        self._report(
            number, rows=count, left=left, ran=came.ran, start_ns=came.begun_ns, done_ns=done_ns, end_ns=end_ns
        )

    def _scores(self, answers: Mapping[str, Tree], count: int) -> torch.Tensor:
        """What the members of some rows answer together, put where these rows belong.

        A row that stays open is answered again: what stands there in the end is of the stage that it leaves in.
        """
        scores = combined_scores(self._ensemble, answers, count, self._threads)
        if self.output is None:
            self.output = scores
            return scores
        output = self.output
        if scores.shape[1:] != output.shape[1:] or scores.dtype != output.dtype:
            raise UsageError(
                "Every stage answers with scores of the same classes",
                given=f"{scores.dtype}{list(scores.shape[1:])} after {output.dtype}{list(output.shape[1:])} by "
                f"{self._ensemble.combine.describe()}",
            )
        output.index_copy_(0, self.opened, scores)
        return scores

    def _unsure(self, scores: torch.Tensor | None, threshold: float, count: int) -> torch.Tensor:
        """Which of so many rows stay open; all of them where nobody has answered any."""
        import torch

        if scores is None:
            return torch.arange(count, device="cpu")
        with self._threads.alone():
            return (~sure_rows(scores, threshold)).nonzero().squeeze(1)

    def _is_due(self, ended: Ended, members: int) -> bool:
        """Whether nobody waits for another stage, though the one at hand is whole."""
        if ended == "enough":
            return True
        return self._due is not None and time.monotonic() >= self.due_s and members >= self._options.enough

    @property
    def decided_s(self) -> float:
        """How long combining and deciding took, in seconds, all stages together."""
        return sum(stage.decide_s for stage in self.told.stages)

    def answered(self, jct_s: float) -> Answered:
        """Who answered, and who did not, in a run that took so long."""
        return Answered(
            names=self._in_order(self._done),
            missing=tuple(self._missing[name] for name in self._in_order(self._missing)),
            ended=self.ended,
            at_s=jct_s if self._due is None else self._due.since_s,
            deadline_s=self._options.deadline_s,
            rows=self.rows,
            cut_rows=self.cut,
            busy=tuple(self.busy),
        )

    def _in_order(self, names: Sequence[str] | set[str] | Mapping[str, Missing]) -> tuple[str, ...]:
        return tuple(name for name in self._ensemble.names if name in names)


def names_in(plan: Plan, number: int) -> tuple[str, ...]:
    """The members of a stage, lane by lane."""
    return members_of([step for lane in plan.stages[number] for step in plan.lanes[lane].members])


def combined_scores(
    ensemble: Ensemble, answers: Mapping[str, Tree], rows: int, threads: CallersThreads
) -> torch.Tensor:
    """The combined answer of some members to some rows: new memory, shape (rows, classes).

    Raises:
        UsageError: It has no scores.
    """
    names = [name for name in ensemble.names if name in answers]
    rule = ensemble.combine.for_members(names, ensemble.names)
    scores = scores_of(combined(rule, {name: answers[name] for name in names}, threads), rows, rule.describe())
    # Rows of later stages are written into it: the function may have kept it, or given one row for all.
    return scores.clone() if rule.function is not None else scores
