"""What one run has of which member so far, as lanes tell it step by step: done, failed, or still open."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from esen_lab.common.trees import Tree
from esen_lab.errors import DeadlineMissed, EsenError, WorkerDied, first_line
from esen_lab.lanes import StepTold
from esen_lab.planner.plan import Lane
from esen_lab.planner.steps import derived_of, members_of
from esen_lab.run.answered import Ended, Missing, asked_for_more, too_few_in_time
from esen_lab.run.deadline import Deadline
from esen_lab.run.lane_steps import answers_of_members
from esen_lab.run.options import RunOptions


class MembersDone:
    """One run's members. A group is several members at once; a member that is split is done with its last part.

    Args:
        lanes: What runs: those of a plan, or of one of its stages.
        names: Their members, in the order of the ensemble.
        weightless: Members that an answer cannot be made of alone, since the rule gives them no weight.

    Attributes:
        done: Members whose outputs are there, in the order of the ensemble.
        open: Members that may still answer.
        nan: Steps whose output holds NaN.
        late: Whether the deadline has passed, and the run goes on until enough are done.
        begun: Lanes that were woken for this run.
    """

    def __init__(self, lanes: Sequence[Lane], names: Sequence[str], weightless: Collection[str] = ()) -> None:
        self._weightless = frozenset(weightless)
        self._lanes = [lane.members for lane in lanes]
        self._names = tuple(names)
        steps = [name for members in self._lanes for name in members]
        self._derived = derived_of(steps)
        self._steps: dict[str, set[str]] = {}  # for each member the steps that make it
        for step in steps:
            for member in self.members_of(step):
                self._steps.setdefault(member, set()).add(step)
        self._outputs: dict[str, Tree] = {}  # by step
        self._at_ns: dict[str, tuple[int, int]] = {}
        self._why: dict[str, str] = {}  # members that failed
        self._problem: EsenError | None = None
        self.done: tuple[str, ...] = ()
        self.open: frozenset[str] = frozenset(self._names)
        self.nan: list[str] = []
        self.late = False
        self.begun: set[int] = set()

    def members_of(self, step: str) -> tuple[str, ...]:
        """The members that a step answers for."""
        return (step,) if step not in self._derived else self._derived[step].members

    def of_lane(self, index: int) -> tuple[str, ...]:
        """The members that a lane answers for."""
        return members_of(self._lanes[index])

    @property
    def count(self) -> int:
        """How many of those that are done count: all, but for members without weight."""
        return len(self.done) if not self._weightless else sum(name not in self._weightless for name in self.done)

    @property
    def could_be(self) -> int:
        """How many could still count."""
        return self.count + len(self.open - self._weightless)

    def step_done(self, lane: int, told: StepTold, output: Tree) -> None:
        """A lane has told that a step is done.

        Args:
            lane: Which.
            told: What it said.
            output: Views of what the step put out.
        """
        step = self._lanes[lane][told.index]
        self._outputs[step] = output
        self._at_ns[step] = (told.start_ns, told.end_ns)
        if told.nan:
            self.nan.append(step)
        self._count()

    def step_failed(self, lane: int, step: str, told: str, problem: EsenError) -> None:
        """A step raised; its lane goes on. Where it is not known which, all that the lane has not done failed."""
        self._fail([step] if step in self._lanes[lane] else self._lanes[lane], told, problem)

    def leave_out(self, failed: Mapping[str, EsenError]) -> None:
        """These failed before the run began: whatever their lanes do."""
        for name, problem in failed.items():
            if name in self._names:
                self._why.setdefault(name, first_line(problem))
                self._problem = self._problem or problem
        self._count()

    def lane_failed(self, lane: int, told: str, problem: EsenError | None = None) -> None:
        """A lane has ended: what it has not done will not come."""
        self._fail(self._lanes[lane], told, problem)

    def lane_ended(self, lane: int) -> None:
        """A lane has ended its run: what it has neither done nor failed at will not come."""
        self._fail(self._lanes[lane], "its lane did not run it", None)

    def _fail(self, steps: Sequence[str], told: str, problem: EsenError | None) -> None:
        for step in steps:
            if step not in self._outputs:
                for member in self.members_of(step):
                    self._why.setdefault(member, told)
        self._problem = self._problem or problem
        self._count()

    def _count(self) -> None:
        known = self._outputs.keys()
        self.done = tuple(name for name in self._names if self._steps[name] <= known and name not in self._why)
        self.open = frozenset(self._names) - {*self.done, *self._why}

    def outputs(self, names: Sequence[str]) -> dict[str, Tree]:
        """What members that are done have put out, in this order, as views; joined where a batch was split."""
        wanted = {step for name in names for step in self._steps[name]}
        found = {step: self._outputs[step] for step in self._outputs if step in wanted}
        if self._derived:
            found = answers_of_members(found, self._derived)
        return {name: found[name] for name in names}

    def spans_s(self, begin_ns: int) -> dict[str, tuple[float, float]]:
        """For each step that is done, when it began and ended, in seconds since the call."""
        return {step: ((start - begin_ns) / 1e9, (end - begin_ns) / 1e9) for step, (start, end) in self._at_ns.items()}

    def forget(self) -> None:
        """Let go of outputs and errors."""
        self._outputs.clear()
        self._problem = None

    # --- who is missing ------------------------------------------------------------------------------------------

    def missing(self, ended: Ended) -> tuple[Missing, ...]:
        """Members that an answer is made without, which ended so."""
        return tuple(self._missing(name, ended) for name in self._names if name not in self.done)

    def _missing(self, name: str, ended: Ended) -> Missing:
        if name in self._why:
            return Missing(name=name, why="failed", told=self._why[name])
        if ended in ("decided", "confident"):
            return Missing(name=name, why="not needed")
        lanes = {index for index, steps in enumerate(self._lanes) if not self._steps[name].isdisjoint(steps)}
        return Missing(
            name=name, why="late", told="" if lanes <= self.begun else "its lane was still at an earlier run"
        )

    def missed(self, options: RunOptions, due: Deadline, *, before: int = 0) -> DeadlineMissed:
        """The error of a run of which too few members are done when it is due; so many had answered before these."""
        earlier = f"{before} in earlier stages, " if before else ""
        names = self.missing("deadline")
        return too_few_in_time(options.enough, before + len(self._names), due, self.done, names, earlier=earlier)

    def problem(self, enough: int) -> EsenError:
        """The error of a run of which too few members can answer, whatever time it has."""
        failed = "; ".join(f"{name}: {told}" for name, told in self._why.items())
        problem = self._problem or WorkerDied("A run's members answer", given=failed)
        return asked_for_more(problem, enough, failed)
