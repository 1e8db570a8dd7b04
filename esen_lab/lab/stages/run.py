"""A run of the ensemble, in its turn."""

from __future__ import annotations

import contextlib
from functools import partial

from esen_lab.common.trees import Tree
from esen_lab.errors import WorkerTimeout
from esen_lab.lab.runtime import Runtime
from esen_lab.lab.stages import nodes
from esen_lab.lab.stages.members import follow_changes
from esen_lab.lab.stages.run_call import RunCall
from esen_lab.run import Executor, Run, RunReport
from esen_lab.run.deadline import NEVER, Deadline
from esen_lab.run.lane_group import DiedLate
from esen_lab.run.promptness import prompt
from esen_lab.run.turns import Turn

_SOON_S = 0.25


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
