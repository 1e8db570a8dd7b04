"""The verbs that choose plans: what they take and what they do. The table in `verbs` names them."""

# ruff: noqa: ARG001  every verb has the same two arguments, whether it needs both or not

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, TypeAlias

from esen_lab.errors import UsageError
from esen_lab.notebook import suggestions, views
from esen_lab.notebook.line import Argument, expression, names, seconds, size, text, whole_number, whole_numbers_by_name
from esen_lab.notebook.session import Session
from esen_lab.notebook.views import View
from esen_lab.units import MECHANISMS as WAYS

Given: TypeAlias = argparse.Namespace
FIRST_ANSWER_S = 2.0
"""For how long `%esen search` looks on before it leaves the rest to the background."""


def search(session: Session, given: Given) -> Any:
    """Find a plan: the first answer at once, the proof in the background."""
    lab = session.lab()
    options = {"n_trials": given.trials, "seed": given.seed, "time_limit_s": given.time_limit}
    options = {key: value for key, value in options.items() if value is not None}
    options.update(given.option or [])
    limits = limits_of(given)
    if limits:
        options["limits"] = limits
    if given.quantile:
        options["quantile"] = given.quantile
    if given.measure is not None:
        options |= {"objective": "measured", "x": given.measure}
    if given.runs is not None:
        options["runs"] = given.runs
    job = lab.start_search(given.searcher or "exact", **options)
    return follow_search(session, job, wait=given.wait)


def follow_search(session: Session, job: Any, *, wait: bool) -> Any:
    """Show a search job: until it is done, or for the first moments and then in the background.

    Ctrl-C ends the search and keeps its best so far.
    """
    try:
        job.wait(FIRST_ANSWER_S)
        if not job.done and (wait or job.best is None) and session.front.updates_in_place:
            _look_on(session, job, wait)
            return _finished(session, job, shown=True)
        while not job.done and (wait or job.best is None):
            job.wait(0.1)
    except KeyboardInterrupt:
        job.cancel()
        job.wait(FIRST_ANSWER_S)
        if job.best is None:
            raise
    if job.done or job.cancelled:
        return _finished(session, job, shown=False)
    if session.front.updates_in_place:
        session.follow(job, lambda progress: views.searching(progress, job))
    else:
        now = views.searching(job.snapshot(), job)
        told = "The search goes on: `%esen plan` shows the plan in force, `%esen cancel` stops it."
        session.front.show(View(title=now.title, blocks=now.blocks, notes=(*now.notes, told)))
    session.front.mark_shown(job.best)
    return job.best


def _look_on(session: Session, job: Any, wait: bool) -> None:
    """Keep a live display until the job is done or, without `wait`, has its first plan."""
    ended = session.follow(job, lambda progress: views.searching(progress, job))
    while not ended.wait(0.1):
        if not wait and job.best is not None:
            return


def _finished(session: Session, job: Any, *, shown: bool) -> Any:
    if job.error is not None:
        raise job.error
    if not shown:
        session.front.show(views.plan(job.best))
    session.front.mark_shown(job.best)
    return job.best


def refine(session: Session, given: Given) -> Any:
    """Run the plan, correct the models, search again."""
    lab = session.lab()
    most = given.rounds or 4
    options = {"rounds": given.rounds, "runs": given.runs}
    limits = limits_of(given)
    if limits:
        options["limits"] = limits

    def work(tell: Callable[[int, int, str], None]) -> Any:
        tell(0, most, "running the plan in force")
        return lab.refine(
            given.input, on_round=lambda rounds: tell(len(rounds), most, rounds[-1].decision), **_asked(options)
        )

    return session.attend("Refining", work, views.refined)


def mechanisms(session: Session, given: Given) -> Any:
    """How each sub-model of the plan is executed: measured, and kept in the plan."""
    lab = session.lab()
    options = _asked({"mechanisms": given.only, "budget_s": given.budget})
    return session.attend(
        "Choosing mechanisms", lambda tell: lab.choose_mechanisms(on_progress=tell, **options), views.mechanisms
    )


def members(session: Session, given: Given) -> Any:
    """Which members at all; any point can be taken as the plan."""
    lab = session.lab()
    options = {"batch": given.batch, "seed": given.seed}
    found = lab.members(given.input, given.labels, **_asked(options))
    session.front.show(views.front(found))
    session.front.mark_shown(found)
    if given.take is None:
        return found
    if not 1 <= given.take <= len(found.choices):
        raise UsageError(f"The points of this front are 1 to {len(found.choices)}", given=given.take)
    plan = lab.take(found.choices[given.take - 1])
    session.front.show(views.plan(plan))
    session.front.mark_shown(plan)
    return plan


def place(session: Session, given: Given) -> Any:
    """Spread the sub-models over several devices."""
    lab = session.lab()
    found = lab.place(given.devices)
    return _planned(session, lab, found, views.placement(found), given.save)


def cascade(session: Session, given: Given) -> Any:
    """Stages with early exit."""
    lab = session.lab()
    options = {"threshold": given.threshold, "order": given.order, "batch": given.batch}
    found = lab.cascade(given.input, given.labels, **_asked(options))
    return _planned(session, lab, found, views.stages(found), given.save)


def _planned(session: Session, lab: Any, found: Any, view: View, path: str | None) -> Any:
    session.front.show(view)
    session.front.mark_shown(found)
    if path is not None:
        session.front.show(View(title=f"Plan saved to {lab.plan_of(found).save(path)}"))
    return found


def _asked(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}


def limits_of(given: Given) -> dict[str, Any]:
    """The limits that a line asks for, as `esen_lab.search.Limits` takes them."""
    limits = {
        "min_units": given.min,
        "max_units": given.max,
        "pinned": given.pin,
        "together": given.together,
        "apart": given.apart,
        "one_each": given.one_each or None,
        "max_lanes": given.lanes,
        "oversubscription": given.oversubscribe,
        "memory_limit_bytes": given.memory,
        "lane_bytes": given.lane_memory,
        "target_s": given.target,
    }
    return {key: value for key, value in limits.items() if value is not None}


def cancel(session: Session, given: Given) -> None:
    """Stop what runs in the background."""
    lab = session.known_lab()
    running: list[tuple[Any, str]] = []
    if lab is not None:
        running = [
            (job, told)
            for job, told in (
                (lab.job, "Points that were finished stay in the store."),
                (lab.search_job, "The best plan found until now stays."),
            )
            if job is not None and not job.done
        ]
    if not running:
        raise UsageError("There is nothing to cancel", hint="No profile and no search is running.")
    for job, _ in running:
        job.cancel()
    session.front.show(View(title="Cancelled.", notes=tuple(told for _, told in running)))


def _factor(session: Session, word: str) -> float:
    given = text(session, word).strip().lower()
    try:
        return float("inf") if given == "unlimited" else float(given)
    except ValueError:
        raise UsageError("An oversubscription factor is a number, at least 1, or unlimited", given=word) from None


def _option(session: Session, written: str) -> tuple[str, Any]:
    key, equals, value = written.partition("=")
    if not equals or not key.isidentifier():
        raise UsageError("A searcher's option is written NAME=VALUE", given=written)
    return key, session.front.evaluate(value)


def _by_name(name: str, what: str) -> Argument:
    return Argument(
        name=name,
        metavar="A=2,B=4",
        read=whole_numbers_by_name,
        suggest=suggestions.submodels,
        help=what,
    )


def _fraction(session: Session, word: str) -> float:
    try:
        return float(text(session, word))
    except ValueError:
        raise UsageError("A number is needed here, such as 0.9", given=word) from None


def _groups(name: str, what: str) -> Argument:
    return Argument(name=name, metavar="A,B", read=names, count="+", suggest=suggestions.submodels, help=what)


LIMITS: tuple[Argument, ...] = (
    _by_name("--pin", "the share that a sub-model's lane must have"),
    _by_name("--min", "the smallest share that a sub-model's lane may have"),
    _by_name("--max", "the largest share that a sub-model's lane may have"),
    _groups("--together", "sub-models that must share a lane; several groups are allowed"),
    _groups("--apart", "sub-models no two of which may share a lane"),
    Argument(name="--one-each", help="a lane of its own for every sub-model"),
    Argument(name="--lanes", metavar="N", read=whole_number, help="at most so many lanes"),
    Argument(
        name="--oversubscribe",
        metavar="FACTOR",
        read=_factor,
        suggest=suggestions.factors,
        help="shares may sum to so many times the device: 1, 1.25, 1.5, 2, ..., unlimited",
    ),
    Argument(name="--memory", metavar="SIZE", read=size, help="all of it takes at most so much memory, such as 4GB"),
    Argument(name="--lane-memory", metavar="SIZE", read=size, help="what each lane takes besides, such as 550MB"),
    Argument(
        name="--target",
        metavar="S",
        read=seconds,
        help="a JCT that is short enough, such as 5ms: the fewest units that reach it, the rest stays free",
    ),
)

SEARCH: tuple[Argument, ...] = (
    Argument(
        name="--searcher",
        metavar="NAME",
        read=text,
        suggest=suggestions.searchers,
        help=f"{', '.join(suggestions.SEARCHERS)} (default: exact)",
    ),
    *LIMITS,
    Argument(
        name="--quantile",
        metavar="NAME",
        read=text,
        suggest=suggestions.quantiles,
        help="plan with the median or, for noisy profiles, with q90",
    ),
    Argument(
        name="--measure",
        metavar="EXPR",
        read=expression,
        suggest=suggestions.tensors,
        help="run every candidate on this batch: measured JCTs are the objective (optuna, random, brute, the rules)",
    ),
    Argument(name="--runs", metavar="N", read=whole_number, help="with --measure: runs of each candidate"),
    Argument(name="--trials", metavar="N", read=whole_number, help="how many plans a random searcher tries"),
    Argument(name="--seed", metavar="N", read=whole_number, help="of a random searcher"),
    Argument(name="--time-limit", metavar="S", read=seconds, help="stop searching after so many seconds"),
    Argument(name="--option", metavar="NAME=EXPR", read=_option, count="*", help="other options of the searcher"),
    Argument(name="--wait", help="stay in the cell until the proof is done"),
)

REFINE: tuple[Argument, ...] = (
    Argument(
        name="input",
        metavar="EXPR",
        read=expression,
        joined=True,
        suggest=suggestions.tensors,
        help="the batch to run: any Python expression",
    ),
    Argument(name="--rounds", metavar="N", read=whole_number, help="run at most so many plans (default: 4)"),
    Argument(name="--runs", metavar="N", read=whole_number, help="runs of each plan (default: 9)"),
    *LIMITS,
)

MECHANISMS: tuple[Argument, ...] = (
    Argument(
        name="--only",
        metavar="A,B",
        read=names,
        suggest=suggestions.ways,
        help=f"which of {', '.join(WAYS)} (default: all); eager is always among them, "
        "so that --only eager puts all back to it",
    ),
    Argument(
        name="--budget",
        metavar="S",
        read=seconds,
        help="seconds of repeats for each way (default: 500ms); compiling comes on top",
    ),
)

_VALIDATION = Argument(
    name="input",
    metavar="X",
    read=expression,
    suggest=suggestions.tensors,
    help="validation data: a Python expression; samples along the first dimension",
)
_BATCH = Argument(name="--batch", metavar="N", read=whole_number, help="samples at once (default: as the example)")
_SAVE = Argument(name="--save", metavar="PATH", read=text, help="write the plan as JSON; it is not put in force")

MEMBERS: tuple[Argument, ...] = (
    _VALIDATION,
    Argument(
        name="labels",
        metavar="Y",
        read=expression,
        suggest=suggestions.tensors,
        help="the right class of each sample: a Python expression",
    ),
    Argument(name="--take", metavar="N", read=whole_number, help="put point N of the front in force"),
    _BATCH,
    Argument(name="--seed", metavar="N", read=whole_number, help="beyond 12 members: of NSGA-II"),
)

PLACE: tuple[Argument, ...] = (
    Argument(
        name="devices",
        metavar="EXPR",
        read=expression,
        joined=True,
        help='how many devices like this one; or a dict by name of profiles, such as {"here": lab.measurements, '
        '"big": other.measurements}, or of latencies',
    ),
    _SAVE,
)

CASCADE: tuple[Argument, ...] = (
    _VALIDATION,
    Argument(
        name="labels",
        metavar="Y",
        read=expression,
        count="?",
        suggest=suggestions.tensors,
        help="the right class of each sample, to say what leaving early costs in accuracy",
    ),
    Argument(
        name="--threshold", metavar="P", read=_fraction, help="the confidence at which an input is done (default: 0.9)"
    ),
    Argument(
        name="--order",
        metavar="A,B",
        read=names,
        suggest=suggestions.submodels,
        help="who is asked first (default: the better of fastest first and most accurate first)",
    ),
    _BATCH,
    _SAVE,
)
