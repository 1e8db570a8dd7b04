"""A run of the ensemble, in its turn."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import partial

from esen_lab.common.trees import Tree
from esen_lab.common.units import format_seconds
from esen_lab.errors import DeadlineMissed, WorkerTimeout
from esen_lab.lab.runtime import Runtime
from esen_lab.lab.stages import nodes
from esen_lab.lab.stages.members import follow_changes
from esen_lab.lab.state import LabState
from esen_lab.run import Executor, Run, RunReport
from esen_lab.run.deadline import NEVER, Deadline
from esen_lab.run.executor import DEFAULT_TIMEOUT_S
from esen_lab.run.lane_group import DiedLate
from esen_lab.run.options import RunOptions
from esen_lab.run.promptness import prompt
from esen_lab.run.turns import Turn

_SOON_S = 0.25


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


def run(runtime: Runtime, call: RunCall, turn: Turn) -> Tree:
    """Run once, wait for the turn first; what happened is the state's report.

    Raises:
        DeadlineMissed: The answer was due before anything was at work.
        EsenError: See `Lab.run`.
    """
    return reported(runtime, call, turn)[0]


def reported(runtime: Runtime, call: RunCall, turn: Turn) -> tuple[Tree, RunReport]:
    """The same with this very run's report: another call may have put its own in the state since."""
    try:
        with _in_time(call), turn:
            made, notes = _run(runtime, call)
    except WorkerTimeout as problem:
        missed = call.missed(problem)
        if missed is problem:
            raise
        raise missed from problem
    # Warm lanes go on, on whatever is left to them; new ones would be refused.
    lost = runtime.state.device.lost()
    notes = (*notes, lost) if lost else notes
    report = made.report.with_notes_before(notes) if notes else made.report
    if report.answered is not None and not report.stages:  # rows of a cascade have been answered by different members
        report.worth(runtime.state.worth_of)
    report = report.after_waiting(turn.waited_s) if turn.waited_s else report
    runtime.set(report=report)
    return made.output, report


def _in_time(call: RunCall) -> contextlib.AbstractContextManager[None]:
    """Around a call that ends so soon that all of it is its last moments."""
    return prompt() if call.until is call.due and call.until.allowed_s <= _SOON_S else contextlib.nullcontext()


def _run(runtime: Runtime, call: RunCall) -> tuple[Run, tuple[str, ...]]:
    """One run, in its turn. Whether networks have changed is looked at while the lanes work, and run again then.

    Not so where a member keeps state or draws random numbers: a run that does not count would show.
    """
    x, deadline, until = call.x, call.deadline, call.until
    if runtime.state.runs_on_nodes(runtime.state.plan):
        return nodes.run_once(runtime, call)
    warm = runtime.state.warm
    twice = warm is not None and not warm.begins_anew  # lanes are warm, and a run may be made again
    executor, notes = ready_lanes(runtime, looked=twice, deadline=until)
    runtime.marks.add("run", pause_s=1.0)
    once = partial(executor.run, x, deadline=deadline, in_turn=True, options=call.options, due=call.due)
    if executor.begins_anew:
        return once(), notes
    names, originals = executor.plan.names, runtime.state.originals
    changed = False

    def look() -> None:
        nonlocal changed
        changed = originals.changed(names)

    try:
        made = once(meanwhile=look)
    except DiedLate as problem:  # of an earlier run: this one has its own lanes
        executor, notes = ready_lanes(runtime, deadline=until)
        told = f"Lanes were started anew: {problem.rule}"
        return executor.run(x, deadline=deadline, in_turn=True, options=call.options, due=call.due), (*notes, told)
    if changed:
        executor, notes = ready_lanes(runtime, whole=True, deadline=until)
        made = executor.run(x, deadline=deadline, in_turn=True, options=call.options, due=call.due)
    runtime.lanes.warn_of(executor)
    return made, notes


def get_ready(runtime: Runtime) -> None:
    """Have the lanes of the plan in force warm, here or on the nodes that it is for. The caller has the turn."""
    if runtime.state.runs_on_nodes(runtime.state.plan):
        nodes.get_ready(runtime, NEVER)
    else:
        ready_lanes(runtime)


def ready_lanes(
    runtime: Runtime, *, looked: bool = False, whole: bool = False, deadline: Deadline = NEVER
) -> tuple[Executor, tuple[str, ...]]:
    """Warm lanes for the plan in force and the networks as they are now, and remarks. The caller has the turn.

    Args:
        runtime: The lab's.
        looked: Whether somebody looks for himself at what has changed of the networks.
        whole: See `Watch.changed`.
        deadline: Of the whole call.
    """
    runtime.fork_server.look_at_session()
    followed = () if looked else follow_changes(runtime, whole=whole)
    if followed:
        deadline.check("sub-models that had changed and were registered again")
    executor, notes = runtime.lanes.ready(deadline)
    return executor, (*followed, *notes)
