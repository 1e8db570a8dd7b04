"""A run of the ensemble, in its turn."""

from __future__ import annotations

from esen_lab.common.trees import Tree
from esen_lab.lab.runtime import Runtime
from esen_lab.lab.stages.members import follow_changes
from esen_lab.run import Executor, Run, RunReport
from esen_lab.run.deadline import NEVER, Deadline
from esen_lab.run.turns import Turn


def run(runtime: Runtime, x: Tree, deadline: Deadline, turn: Turn) -> Tree:
    """Run once, wait for the turn first; what happened is the state's report."""
    return reported(runtime, x, deadline, turn)[0]


def reported(runtime: Runtime, x: Tree, deadline: Deadline, turn: Turn) -> tuple[Tree, RunReport]:
    """The same with this very run's report: another call may have put its own in the state since."""
    with turn:
        made, notes = _run(runtime, x, deadline)
    # Warm lanes go on, on whatever is left to them; new ones would be refused.
    lost = runtime.state.device.lost()
    notes = (*notes, lost) if lost else notes
    report = made.report.with_notes_before(notes) if notes else made.report
    report = report.after_waiting(turn.waited_s) if turn.waited_s else report
    runtime.set(report=report)
    return made.output, report


def _run(runtime: Runtime, x: Tree, deadline: Deadline) -> tuple[Run, tuple[str, ...]]:
    """One run, in its turn. Whether networks have changed is looked at while the lanes work, and run again then.

    Not so where a member keeps state or draws random numbers: a run that does not count would show.
    """
    warm = runtime.state.warm
    twice = warm is not None and not warm.begins_anew  # lanes are warm, and a run may be made again
    executor, notes = ready_lanes(runtime, looked=twice, deadline=deadline)
    runtime.marks.add("run", pause_s=1.0)
    if executor.begins_anew:
        return executor.run(x, deadline=deadline, in_turn=True), notes
    names, originals = executor.plan.names, runtime.state.originals
    changed = False

    def look() -> None:
        nonlocal changed
        changed = originals.changed(names)

    made = executor.run(x, deadline=deadline, in_turn=True, meanwhile=look)
    if changed:
        executor, notes = ready_lanes(runtime, whole=True, deadline=deadline)
        made = executor.run(x, deadline=deadline, in_turn=True)
    return made, notes


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
