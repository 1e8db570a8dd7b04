"""The verbs that find plans: searches, refinement, backends, members, devices, stages; and the plan in force."""

# ruff: noqa: ARG001  every verb has the same two arguments, whether it needs both or not

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from esen_lab.common.units import BACKENDS, check_count
from esen_lab.common.words import unknown
from esen_lab.errors import UsageError
from esen_lab.ui import views
from esen_lab.ui.magics import suggestions
from esen_lab.ui.magics.arguments import (
    Argument,
    expression,
    names,
    percentage,
    seconds,
    seed,
    size,
    split_at_commas,
    text,
    whole_number,
    whole_numbers_by_name,
)
from esen_lab.ui.magics.verbs.verb import INPUT, Given, Verb, options, show
from esen_lab.ui.session import Session
from esen_lab.ui.views import View

FIRST_ANSWER_S = 2.0
"""For how long `%esen search` looks on before it leaves the rest to the background."""

# --- limits: what `search` and `refine` keep to -----------------------------------------------------------------------

_LEAST_AGREEMENT = 0.01


def _limits(given: Given) -> dict[str, Any] | None:
    """The limits that a line asks for, as `esen_lab.planner.Limits` takes them; None: it asks for none."""
    limits = options(**{limit.option: getattr(given, limit.key) for limit in _LIMITS})
    if not given.one_each:
        del limits["one_each"]  # a switch that is off asks for nothing
    return limits or None


def _factor(session: Session, word: str) -> float:
    given = text(session, word).strip().lower()
    try:
        return float("inf") if given == "unlimited" else float(given)
    except ValueError:
        raise UsageError("An oversubscription factor is a number, at least 1, or unlimited", given=word) from None


def _fraction(session: Session, word: str) -> float:
    try:
        return float(text(session, word))
    except ValueError:
        raise UsageError("A number is needed here, such as 0.9", given=word) from None


def _number(session: Session, word: str) -> float:
    try:
        return float(text(session, word))
    except ValueError:
        raise UsageError("A number is needed here, such as 200", given=word) from None


def _by_name(name: str, what: str, *, option: str) -> Argument:
    return Argument(name, what, whole_numbers_by_name, "A=2,B=4", option=option, suggest=suggestions.submodels)


def _groups(name: str, what: str) -> Argument:
    return Argument(name, what, names, count="+", suggest=suggestions.submodels)


_LIMITS: tuple[Argument, ...] = (
    _by_name("--pin", "the share that a sub-model's lane must have", option="pinned"),
    _by_name("--min", "the smallest share that a sub-model's lane may have", option="min_units"),
    _by_name("--max", "the largest share that a sub-model's lane may have", option="max_units"),
    _groups("--together", "sub-models that must share a lane; several groups are allowed"),
    _groups("--apart", "sub-models no two of which may share a lane"),
    Argument("--one-each", "a lane of its own for every sub-model"),
    Argument("--lanes", "at most so many lanes", whole_number, option="max_lanes"),
    Argument(
        "--oversubscribe",
        "shares may sum to so many times the device: 1, 1.25, 1.5, 2, ..., unlimited",
        _factor,
        "FACTOR",
        suggest=suggestions.factors,
        option="oversubscription",
    ),
    Argument("--memory", "all of it takes at most so much memory, such as 4GB", size, option="memory_limit_bytes"),
    Argument("--lane-memory", "what each lane takes besides, such as 550MB", size, option="lane_bytes"),
    Argument(
        "--target",
        "a JCT that is short enough, such as 5ms: the fewest units that reach it, the rest stays free",
        seconds,
    ),
)

# --- search -----------------------------------------------------------------------------------------------------------


def _searchers_own(given: Given) -> dict[str, Any]:
    """What `--option` says, of options that the searcher has."""
    if not given.option:
        return {}
    from esen_lab.planner import searcher_options  # not before: it brings numpy, and the extension loads without

    searcher = "exact" if given.searcher is None else given.searcher
    known = searcher_options(searcher)
    for name, value in given.option:
        if name not in known:
            rule = f"The searcher {searcher!r} takes {', '.join(known) or 'no options'}"
            raise unknown(rule, name, known, given=f"--option {name}={value}")
    return dict(given.option)


def _search(session: Session, given: Given) -> Any:
    chosen = options(n_trials=given.trials, seed=given.seed, time_limit_s=given.time_limit)
    chosen |= _searchers_own(given)
    chosen |= options(limits=_limits(given), quantile=given.quantile)
    if given.measure is not None:
        chosen |= {"objective": "measured", "x": given.measure}
    chosen |= options(runs=given.runs, deadline_s=given.deadline)
    if given.rate is not None or given.p99 is not None:
        return _search_for_rate(session, given)
    if given.runs is not None and given.measure is None:
        raise UsageError("--runs says how often each candidate is run", given="no --measure", hint="Add --measure.")
    chosen |= {name: False for name, off in (("groups", given.no_groups), ("parts", given.no_parts)) if off}
    job = session.lab().start_search("exact" if given.searcher is None else given.searcher, **chosen)
    return _follow(session, job, wait=given.wait)


_NOT_FOR_RATES = (
    *("searcher", "quantile", "trials", "seed", "time_limit", "deadline", "option"),
    *("no_groups", "no_parts"),
)


def _search_for_rate(session: Session, given: Given) -> Any:
    if given.rate is None or given.p99 is None:
        raise UsageError("A plan for a rate takes --rate and --p99", hint="`%esen search --rate 200 --p99 50ms`.")
    known = {name: getattr(given, name) for name in _NOT_FOR_RATES}
    others = [name for name, value in known.items() if value is not None and value is not False]
    if others:
        raise UsageError(
            "A plan for a rate is found from measured batches, and takes limits, --measure and --runs besides",
            given=", ".join(f"--{name.replace('_', '-')}" for name in others),
            hint="Leave it out, or search without --rate.",
        )
    asked = options(limits=_limits(given), x=given.measure, runs=given.runs)
    found = session.lab().studies.rate(given.rate, given.p99, **asked)
    return show(session, found, views.rate_plan(found))


def _follow(session: Session, job: Any, *, wait: bool) -> Any:
    """Show a search job: until it is done, or for the first moments and then in the background.

    Ctrl-C ends the search and keeps its best so far.
    """
    try:
        job.wait(FIRST_ANSWER_S)
        if not job.done and (wait or job.best is None) and session.front.updates_in_place:
            _look_on(session, job, wait)
            return _result(session, job, shown=True)
        while not job.done and (wait or job.best is None):
            job.wait(0.1)
    except KeyboardInterrupt:
        job.cancel()
        job.wait(FIRST_ANSWER_S)
        if job.best is None:
            raise
    if job.done or job.cancelled:
        return _result(session, job, shown=False)
    if session.front.updates_in_place:
        session.follow(job, lambda progress: views.searching(progress, job))
    else:
        now = views.searching(job.snapshot(), job)
        note = "The search goes on: `%esen plan` shows the plan in force, `%esen cancel` stops it."
        session.front.show(View(title=now.title, blocks=now.blocks, notes=(*now.notes, note)))
    session.front.mark_shown(job.best)
    return job.best


def _look_on(session: Session, job: Any, wait: bool) -> None:
    """Keep a live display until the job is done or, without `wait`, has its first plan."""
    ended = session.follow(job, lambda progress: views.searching(progress, job))
    while not ended.wait(0.1):
        if not wait and job.best is not None:
            return


def _result(session: Session, job: Any, *, shown: bool) -> Any:
    if job.error is not None:
        raise job.error
    if not shown:
        session.front.show(views.plan(job.best))
    session.front.mark_shown(job.best)
    return job.best


def _option(session: Session, written: str) -> tuple[str, Any]:
    key, equals, value = written.partition("=")
    if not equals or not key.isidentifier():
        raise UsageError("A searcher's option is written NAME=VALUE", given=written)
    return key, session.front.evaluate(value)


SEARCH = Verb(
    "find a plan from the measured points: the first answer at once, the proof in the background",
    _search,
    (
        Argument(
            "--searcher", f"{', '.join(suggestions.SEARCHERS)} (default: exact)", text, suggest=suggestions.searchers
        ),
        *_LIMITS,
        Argument(
            "--quantile", "plan with the median or, for noisy profiles, with q90", text, suggest=suggestions.quantiles
        ),
        Argument(
            "--measure",
            "run every candidate on this batch: measured JCTs are the objective (--searcher optuna, equal, sequential)",
            expression,
            suggest=suggestions.tensors,
        ),
        Argument("--runs", "with --measure: runs of each candidate", whole_number),
        Argument("--trials", "how many plans a random searcher tries", whole_number, option="n_trials"),
        Argument("--seed", "of a random searcher", seed),
        Argument("--time-limit", "stop searching after so many seconds", seconds),
        Argument("--no-groups", "no equal networks as one, though %esen profile --groups measured them"),
        Argument("--no-parts", "no batch over several lanes, though %esen profile --parts measured it"),
        Argument(
            "--deadline",
            "who is expected to be ready by then, such as 50ms, is to be the most accurate set (after %esen members)",
            seconds,
        ),
        Argument("--option", "other options of the searcher", _option, "NAME=EXPR", count="+"),
        Argument("--wait", "stay in the cell until the proof is done"),
        Argument(
            "--rate",
            "plan for so many requests a second that come at random; needs --p99",
            _number,
            "N",
            option="rate_per_s",
        ),
        Argument("--p99", "with --rate: within what 99 % of them are to be answered, such as 50ms", seconds),
    ),
    example="%esen search --pin wide=2 --apart wide,deep --lanes 3",
    interrupted="Interrupted: the search has ended before it had a plan. The plan in force stays.",
)

# --- better plans, and how sub-models are executed --------------------------------------------------------------------


def _refine(session: Session, given: Given) -> Any:
    lab = session.lab()
    most = given.rounds or 4
    chosen = options(rounds=given.rounds, runs=given.runs, limits=_limits(given))

    def work(tell: Callable[[int, int, str], None]) -> Any:
        tell(0, most, "running the plan in force")
        return lab.studies.refine(
            given.input, on_round=lambda rounds: tell(min(len(rounds), most), most, rounds[-1].decision), **chosen
        )

    return session.attend("Refining", work, views.refined)


REFINE = Verb(
    "run the plan, correct its predictions by what it took, search again; then try all sub-models at once",
    _refine,
    (
        INPUT,
        Argument("--rounds", "run at most so many searched plans (default: 4)", whole_number),
        Argument("--runs", "runs of each plan (default: 9)", whole_number),
        *_LIMITS,
    ),
    example="%esen refine x --rounds 3",
    interrupted="Interrupted before the first plan was measured. The plan in force stays.",
)


def _backends(session: Session, given: Given) -> Any:
    lab = session.lab()
    chosen = options(backends=given.only, budget_s=given.budget)
    return session.attend(
        "Choosing backends", lambda tell: lab.lanes.choose_backends(on_progress=tell, **chosen), views.backends
    )


CHOOSE_BACKENDS = Verb(
    "which backend is fastest for each sub-model of the plan at its share; kept in the plan",
    _backends,
    (
        Argument(
            "--only",
            f"which of {', '.join(BACKENDS)} (default: all); eager is always among them, "
            "so that --only eager puts all back to it",
            names,
            suggest=suggestions.backends,
            option="backends",
        ),
        Argument("--budget", "seconds of repeats for each backend (default: 500ms); preparing comes on top", seconds),
    ),
    example="%esen backends --only inductor,openvino",
    interrupted="Interrupted: nothing was chosen. The plan in force stays.",
)


def _precision(session: Session, given: Given) -> Any:
    lab = session.lab()
    if given.precision is None:
        asked = (given.on, given.agree, given.error, given.only, given.values or None)
        if any(one is not None for one in asked):
            raise UsageError(
                "What is to be checked is a precision", given="none", hint="Such as `%esen precision bf16 --on x`."
            )
        return show(session, lab.lanes.precision, views.precision(lab.lanes.precision))
    chosen = options(
        on=given.on, agree=given.agree, error=given.error, backends=given.only, values=given.values or None
    )
    return session.attend(
        f"Checking {given.precision}",
        lambda tell: lab.lanes.choose_precision(given.precision, on_progress=tell, **chosen),
        views.precision,
    )


def _data(session: Session, word: str) -> Any:
    """One expression, the data, or two with a comma between them: data and labels."""
    found, parts = expression(session, word), len(split_at_commas(word))
    if isinstance(found, tuple) and parts > 2:
        raise UsageError(
            "Data and its labels are two expressions with a comma between them",
            given=f"{parts}: {word}",
            hint="An input of several tensors goes in brackets: (ids,mask),labels.",
        )
    return found if isinstance(found, tuple) and parts == 2 else (found, None)


def _agreement(session: Session, word: str) -> float:
    """A percentage, which a fraction that was meant for one is not: nothing would be checked by it."""
    agree = percentage()(session, word)
    if agree <= _LEAST_AGREEMENT:
        raise UsageError("The part of the data whose answer must stay is above 1 %, such as 99.9", given=word)
    return agree


PRECISION = Verb(
    "let sub-models compute in bf16, fp16 or int8 where their answers are checked to stay what they are",
    _precision,
    (
        Argument(
            "precision",
            "bf16, fp16 (on a GPU), int8 (on a CPU), or fp32 to go back; without one: what is chosen",
            text,
            "PRECISION",
            count="?",
            suggest=suggestions.precisions,
        ),
        Argument(
            "--on",
            "data like what will come, and the right class of each sample: Python expressions; labels may be "
            "left out; int8 is calibrated with the data",
            _data,
            "X,Y",
            suggest=suggestions.tensors,
        ),
        Argument(
            "--agree",
            "for how much of the data the likeliest class must stay, for each sub-model and for the ensemble "
            "(default: 99.9)",
            _agreement,
            "PERCENT",
        ),
        Argument(
            "--error",
            "how far an answer may be off, relative to its largest value (default: 6e-2 in bf16, 2e-2 in fp16, "
            "0.25 in int8)",
            _fraction,
            "E",
        ),
        Argument("--values", "answers are values of a regression, not scores of classes"),
        Argument(
            "--only",
            "which backends (default: all that have the precision)",
            names,
            suggest=suggestions.backends,
            option="backends",
        ),
    ),
    example="%esen precision bf16 --agree 99.9 --on x",
    interrupted="Interrupted: nothing was chosen. The precision stays what it was.",
)

# --- which members, on which devices, in which stages -----------------------------------------------------------------

_VALIDATION = Argument(
    "input",
    "validation data: a Python expression; samples along the first dimension",
    expression,
    "X",
    suggest=suggestions.tensors,
)
_LABELS = Argument(
    "labels", "the right class of each sample: a Python expression", expression, "Y", suggest=suggestions.tensors
)
_BATCH = Argument("--batch", "samples at once (default: as the example)", whole_number)
_SAVE = Argument("--save", "write the plan as JSON; it is not put in force", text, "PATH")


def _members(session: Session, given: Given) -> Any:
    lab = session.lab()
    if given.take is not None:
        check_count(given.take, "The points of a front are counted from 1")  # before what takes long
    front = lab.studies.members(given.input, given.labels, **options(batch=given.batch, seed=given.seed))
    show(session, front, views.front(front))
    if given.take is None:
        return front
    if given.take > len(front.choices):
        raise UsageError(f"The points of this front are 1 to {len(front.choices)}", given=given.take)
    plan = lab.studies.take(front.choices[given.take - 1])
    return show(session, plan, views.plan(plan))


MEMBERS = Verb(
    "which members at all: accuracy on validation data against JCT; any point can be the plan",
    _members,
    (
        _VALIDATION,
        _LABELS,
        Argument("--take", "put point N of the front in force", whole_number),
        _BATCH,
        Argument("--seed", "beyond 12 members: of NSGA-II", seed),
    ),
    example="%esen members x_val y_val --take 1",
    interrupted="Interrupted before it was done: `%esen plan` shows the plan in force. The lab stays usable.",
)


def _place(session: Session, given: Given) -> Any:
    placement = session.lab().studies.place(given.devices)
    return _show_and_save(session, placement, views.placement(placement), given.save)


def _show_and_save(session: Session, record: Any, view: View, path: str | None) -> Any:
    show(session, record, view)
    if path is not None:
        session.front.show(View(title=f"Plan saved to {session.lab().studies.plan_of(record).save(path)}"))
    return record


PLACE = Verb(
    "spread the sub-models over several devices, alike or not (planned, not run)",
    _place,
    (
        Argument(
            "devices",
            'how many devices like this one; or a dict by name of profiles, such as {"here": lab.measurements, '
            '"big": other.measurements}, or of latencies',
            expression,
            joined=True,
        ),
        _SAVE,
    ),
    example="%esen place 2",
    interrupted="Interrupted: the plan in force stays. A file that was to be written is whole, or is not there.",
)


def _cascade(session: Session, given: Given) -> Any:
    chosen = options(threshold=given.threshold, order=given.order, batch=given.batch, deadline_s=given.deadline)
    studies = session.lab().studies
    cascade = studies.cascade(given.input, given.labels, **chosen)
    _show_and_save(session, cascade, views.stages(cascade), given.save)
    if not given.take:
        return cascade
    plan = studies.take(cascade)
    return show(session, plan, views.plan(plan))


CASCADE = Verb(
    "ask some members first, the others only while the answer is not sure",
    _cascade,
    (
        _VALIDATION,
        replace(_LABELS, count="?", help=f"{_LABELS.help}; to say what leaving early costs in accuracy"),
        Argument("--threshold", "the confidence at which an input is done (default: 0.9)", _fraction, "P"),
        Argument(
            "--order",
            "who is asked first (default: the better of fastest first and most accurate first)",
            names,
            suggest=suggestions.submodels,
        ),
        Argument("--deadline", "say how many answers are expected later than this", seconds),
        Argument("--take", "put it in force"),
        _BATCH,
        _SAVE,
    ),
    example="%esen cascade x_val y_val --threshold 0.9",
    interrupted="Interrupted before it was done: `%esen plan` shows the plan in force. The lab stays usable.",
)


def _best(session: Session, given: Given) -> Any:
    if (given.within is None) == (given.loss is None):
        raise UsageError(
            "`%esen best` takes a time, or a loss of accuracy",
            given="both" if given.within is not None else "neither",
            hint="Such as `%esen best --within 50ms --on x_val,y_val`.",
        )
    data, labels = given.on if given.on is not None else (None, None)
    if labels is None:
        raise UsageError(
            "What is most accurate is found with data and its labels",
            given="--on without labels" if given.on is not None else "no --on",
            hint="Such as --on x_val,y_val.",
        )
    lab = session.lab()
    asked = options(
        cascade=given.cascade or None, weights="greedy" if given.greedy else None, batch=given.batch, seed=given.seed
    )
    if given.within is not None:
        plan = lab.best_within(given.within, data, labels, **asked)
    else:
        plan = lab.studies.fastest_within(given.loss, data, labels, **asked)
    front = lab.studies.last_front
    session.front.show(views.front(front, taken=True))
    return show(session, plan, views.plan(plan))


BEST = Verb(
    "the most accurate plan within a time, or the fastest within a loss of accuracy; it is put in force",
    _best,
    (
        Argument("--within", "the expected JCT of a batch like the example, such as 50ms", seconds),
        Argument(
            "--accuracy-loss",
            "so much below the accuracy of all members, such as 0.5 (of a hundred samples)",
            percentage(zero=True, hundred=False),
            "PERCENT",
            key="loss",
        ),
        Argument(
            "--on",
            "validation data and the right class of each sample: Python expressions",
            _data,
            "X,Y",
            suggest=suggestions.tensors,
        ),
        Argument("--cascade", "try cascades too"),
        Argument(
            "--greedy",
            "learn weights by greedy selection on one half of the data, judge on the other",
            option="weights",
        ),
        _BATCH,
        Argument("--seed", "of the halves", seed),
    ),
    example="%esen best --within 50ms --on x_val,y_val",
    interrupted="Interrupted before it was done: `%esen plan` shows the plan in force. The lab stays usable.",
)


def _plan(session: Session, given: Given) -> Any:
    plan = session.lab().plan
    if plan is None:
        raise UsageError(
            "A plan is shown once there is one",
            given="none yet",
            hint="`%esen profile` and then `%esen search` make one.",
        )
    return show(session, plan, views.plan(plan))


PLAN = Verb("the plan in force", _plan, example="plan = %esen plan")
