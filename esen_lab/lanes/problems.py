"""What went wrong in a lane, on its way to whoever asked: `described` in the lane, `error_from` on the other side."""

from __future__ import annotations

import traceback

from esen_lab.devices.cuda.cuda_errors import RESTART
from esen_lab.ensemble.program import way_on
from esen_lab.errors import DeviceError, EsenError, ModelError, UsageError
from esen_lab.lanes.engine import InSubModel
from esen_lab.lanes.messages import Problem, sendable


def described(problem: BaseException) -> Problem:
    """What went wrong, as it is told to the other side."""
    name = ""
    kind = "usage"
    if isinstance(problem, InSubModel):
        name = problem.name
        kind = "model"
        assert problem.__cause__ is not None
        problem = problem.__cause__
    elif isinstance(problem, DeviceError):
        kind = "device"
    elif not isinstance(problem, EsenError):
        kind = "model"
    text = "".join(traceback.format_exception(problem))
    summary = "".join(traceback.format_exception_only(problem)).strip().splitlines()[-1]
    ours = problem if isinstance(problem, EsenError) else None
    return Problem(
        kind=kind,
        name=sendable(name),
        summary=sendable(summary),
        traceback=sendable(text),
        rule=sendable(ours.rule) if ours else "",
        given=sendable(ours.given) if ours and ours.given is not None else None,
        hint=sendable(ours.hint) if ours else "",
    )


def lost_here(problem: BaseException) -> DeviceError:
    """A fault that stays, in a lane of this process: all that uses CUDA in it is over."""
    told = described(problem)
    return DeviceError(
        f"The GPU stopped serving this process while it ran {told.name or 'a request'}",
        given=told.summary,
        hint=RESTART,
    )


def error_from(problem: Problem, log: str = "") -> EsenError:
    """What a lane reported, as the error to raise here."""
    if problem.kind == "usage":
        return UsageError(problem.rule or problem.summary, given=problem.given, hint=problem.hint)
    if problem.kind == "lost":
        return DeviceError(
            f"The GPU stopped serving this lane while it ran {problem.name or 'a request'}",
            given=problem.summary,
            hint="The lane has ended, under NVIDIA MPS the others on that GPU too; the next run starts them afresh.",
        )
    if problem.kind == "device":
        return DeviceError(problem.rule or problem.summary, given=problem.given, hint=problem.hint)
    who = f"Sub-model {problem.name!r}" if problem.name else "The function called in the worker"
    if problem.rule:  # ours, about what it takes or gives: no error of its code
        return ModelError(
            f"{who}: {problem.rule}",
            given=problem.given,
            hint=problem.hint,
            worker_traceback=problem.traceback,
            log=log,
        )
    hint = way_on(problem.summary)
    return ModelError(f"{who} raised {problem.summary}", hint=hint, worker_traceback=problem.traceback, log=log)
