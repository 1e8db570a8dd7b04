"""What a call of `Lab.run` asks for, and until when."""

from __future__ import annotations

from dataclasses import dataclass

from esen_lab.common.trees import Tree
from esen_lab.common.units import format_seconds
from esen_lab.errors import DeadlineMissed, WorkerTimeout
from esen_lab.lab.state import LabState
from esen_lab.run.deadline import Deadline
from esen_lab.run.executor import DEFAULT_TIMEOUT_S
from esen_lab.run.options import RunOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCall:
    """One call of `Lab.run`, with what has begun with it.

    Attributes:
        x: The input.
        deadline: When all of it is given up.
        options: What is asked for besides the answer of all members; None: nothing.
        due: When the answer is due, where there is a deadline.
        names: Who is to run.
    """

    x: Tree
    deadline: Deadline
    options: RunOptions | None = None
    due: Deadline | None = None
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, state: LabState, x: Tree, timeout_s: float | None, options: RunOptions) -> RunCall:
        """A call that begins now.

        Args:
            state: Of the lab.
            x: The input.
            timeout_s: When it is given up; None: after ten minutes.
            options: What is asked for besides the answer of all members.

        Raises:
            UsageError: Nothing is registered, the time is no such number, or the options cannot be had.
        """
        state.need_submodels("run")
        due = None if options.deadline_s is None else Deadline(options.deadline_s)
        deadline = Deadline(DEFAULT_TIMEOUT_S if timeout_s is None else timeout_s)
        if options.plain:
            return cls(x=x, deadline=deadline)
        options.check(state.ensemble, state.members_to_run, ())
        return cls(x=x, deadline=deadline, options=options, due=due, names=state.members_to_run)

    @property
    def until(self) -> Deadline:
        """How long lanes may take to be at work: until the answer is due, where that is an error then."""
        if self.due is None or self.options is None or self.options.otherwise == "first":
            return self.deadline
        return min(self.due, self.deadline, key=lambda one: one.at_s)

    def missed(self, problem: WorkerTimeout) -> WorkerTimeout:
        """The error of a call that had nothing at work when its answer was due: as it is, where none was."""
        if self.due is None or isinstance(problem, DeadlineMissed) or self.until is not self.due:
            return problem
        return DeadlineMissed(
            f"An answer is there within {format_seconds(self.due.allowed_s)} of the call",
            given=f"no member had begun by then: {problem.given or problem.rule}",
            hint="Lanes that start go on starting, and the next call finds them. Allow more time for the first call, "
            "or take the first members that are done (otherwise='first').",
            missing=tuple((name, "late") for name in self.names),
        )
