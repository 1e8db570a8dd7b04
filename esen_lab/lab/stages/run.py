"""A run of the ensemble, in its turn."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any

from esen_lab.common.trees import Tree
from esen_lab.ensemble.chance import PROOF_SEED
from esen_lab.errors import EsenError, WorkerTimeout
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


def reported(runtime: Runtime, call: RunCall, turn: Turn, *, kept: bool = True) -> tuple[Tree, RunReport]:
    """The same with this very run's report: another call may have put its own in the state since.

    Args:
        runtime: The lab's.
        call: What is asked for.
        turn: Its turn.
        kept: Whether it becomes the state's; False: a run that only prepares something, and leaves no trace in what
            members and a combine rule of the user's keep between calls.
    """
    try:
        with _in_time(call), turn:
            submodels = runtime.state.ensemble.submodels
            odd = _look_at_input(runtime, call)
            made, notes = _run(runtime, call) if kept else _tried(runtime, call)
            if runtime.state.ensemble.submodels is not submodels:  # what has changed may ask for more than before
                odd = _look_at_input(runtime, call)
    except WorkerTimeout as problem:
        missed = call.missed(problem)
        if missed is problem:
            raise
        raise missed from problem
    # Warm lanes go on, on whatever is left to them; new ones would be refused.
    lost = runtime.state.device.lost()
    notes = (*notes, *odd, lost) if lost else (*notes, *odd)
    report = made.report.with_notes_before(notes) if notes else made.report
    if report.answered is not None and not report.stages:  # rows of a cascade have been answered by different members
        report.worth(runtime.state.worth_of)
    report = report.after_waiting(turn.waited_s) if turn.waited_s else report
    if kept:
        runtime.set(report=report)
    return made.output, report


def _look_at_input(runtime: Runtime, call: RunCall) -> tuple[str, ...]:
    """See `SeenKinds.check`."""
    return runtime.seen_kinds.check(runtime.state.ensemble.submodels, call.x, due=call.due is not None)


def _in_time(call: RunCall) -> contextlib.AbstractContextManager[None]:
    """`prompt` for the whole of a call whose deadline is so near that it counts from its beginning."""
    return prompt() if call.until is call.due and call.until.allowed_s <= _SOON_S else contextlib.nullcontext()


def _run(runtime: Runtime, call: RunCall) -> tuple[Run, tuple[str, ...]]:
    """One run, in its turn. What networks and the session's settings are now is looked at while the lanes work.

    Where that has changed, it is run again: also where lanes have failed, as what they hold is not what the notebook
    has. Not so where a member keeps state or draws random numbers, or where a combine rule of the user's own is called:
    a run that does not count would show.
    """
    import torch

    until = call.until
    if runtime.state.runs_on_nodes(runtime.state.plan):
        return nodes.run_once(runtime, call)
    leaves_out = call.options is not None and call.options.on_failure == "leave-out"
    failed: dict[str, EsenError] | None = {} if leaves_out else None
    executor, notes = _ready_for_a_run(runtime, until, failed)
    runtime.marks.add("run", pause_s=1.0)
    once = partial(_once, call, failed=failed)
    names, originals = executor.names, runtime.state.originals
    changed: bool | None = None  # not looked at yet
    mode = torch.inference_mode if torch.is_inference_mode_enabled() else contextlib.nullcontext  # lanes run in none

    def look() -> None:
        nonlocal changed
        with mode():
            runtime.fork_server.look_at_session()
        changed = executor.fidelity.outdated or originals.changed(names)

    looked = executor.runs_once  # already, since it is not made again
    try:
        made = once(executor) if looked else once(executor, meanwhile=look)
    except DiedLate as problem:  # of an earlier run: this one has its own lanes
        seed = executor.seed
        executor, notes = ready_lanes(runtime, deadline=until, failed=failed)
        told = f"Lanes were started anew: {problem.rule}"
        return once(executor, seed=seed), (*notes, told)
    except WorkerTimeout:
        raise
    except EsenError:
        if looked:
            raise
        if changed is None:
            look()
        if not changed:
            raise
    if changed:
        seed = executor.seed  # a call draws once from the session's generator, so that its seed repeats it
        executor, notes = ready_lanes(runtime, whole=True, deadline=until, failed=failed)
        made = once(executor, seed=seed)
    runtime.lanes.warn_of(executor)
    return made, notes


def _once(call: RunCall, executor: Executor, **more: Any) -> Run:
    """Run once; the call has its turn."""
    return executor.run(call.x, deadline=call.deadline, in_turn=True, options=call.options, due=call.due, **more)


def _tried(runtime: Runtime, call: RunCall) -> tuple[Run, tuple[str, ...]]:
    """One run that leaves no trace, in its turn."""
    if runtime.state.runs_on_nodes(runtime.state.plan):
        return nodes.run_once(runtime, call)
    executor, notes = ready_lanes(runtime, deadline=call.until)
    with executor.measuring():
        return _once(call, executor, seed=PROOF_SEED), notes


def _ready_for_a_run(
    runtime: Runtime, until: Deadline, failed: dict[str, EsenError] | None
) -> tuple[Executor, tuple[str, ...]]:
    """Lanes for a run; where they are warm and it may be made again, what has changed is looked at in the run."""
    warm = runtime.state.warm
    if warm is None or warm.runs_once:
        return ready_lanes(runtime, deadline=until, failed=failed)
    try:
        return ready_lanes(runtime, looked=True, deadline=until)
    except WorkerTimeout:
        raise
    except EsenError:
        # Of what is registered, such as members that do not fit together: the networks may do so by now.
        runtime.fork_server.look_at_session()
        followed = follow_changes(runtime, failed=failed)
        if not followed:
            raise
    executor, notes = ready_lanes(runtime, looked=True, deadline=until)
    return executor, (*followed, *notes)


def get_ready(runtime: Runtime) -> None:
    """Have the lanes of the plan in force warm, here or on the nodes that it is for. The caller has the turn."""
    if runtime.state.runs_on_nodes(runtime.state.plan):
        nodes.get_ready(runtime, NEVER)
    else:
        ready_lanes(runtime)


def ready_lanes(
    runtime: Runtime,
    *,
    looked: bool = False,
    whole: bool = False,
    deadline: Deadline = NEVER,
    failed: dict[str, EsenError] | None = None,
) -> tuple[Executor, tuple[str, ...]]:
    """Warm lanes for the plan in force and the networks as they are now, and remarks. The caller has the turn.

    Args:
        runtime: The lab's.
        looked: Whether somebody looks for himself at what has changed of the networks, and of what the session has set.
        whole: See `Watch.changed`.
        deadline: Of the whole call.
        failed: See `follow_changes`.
    """
    followed: tuple[str, ...] = ()
    if not looked:
        runtime.fork_server.look_at_session()
        followed = follow_changes(runtime, whole=whole, failed=failed)
    if followed:
        deadline.check("sub-models that had changed and were registered again")
    executor, notes = runtime.lanes.ready(deadline)
    return executor, (*followed, *notes)
