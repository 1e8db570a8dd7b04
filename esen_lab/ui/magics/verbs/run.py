"""The verbs that run the ensemble: once, against the usual ways, and to check its numerics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from esen_lab.common.words import unknown
from esen_lab.errors import UsageError
from esen_lab.ui import views
from esen_lab.ui.magics import suggestions
from esen_lab.ui.magics.arguments import (
    Argument,
    expression,
    names,
    numbers,
    percentage,
    seconds,
    seed,
    text,
    whole_number,
)
from esen_lab.ui.magics.verbs.verb import INPUT, Given, Verb, options, show
from esen_lab.ui.session import Session
from esen_lab.ui.views import View


def _run(session: Session, given: Given) -> Any:
    lab = session.lab()
    asked = options(
        deadline_s=given.deadline,
        at_least=given.at_least,
        otherwise=given.otherwise,
        on_failure="leave-out" if given.leave_out else None,
        stop_early=given.stop_early,
        uncertainty=given.uncertainty or None,
    )
    output = lab.run(given.input, timeout_s=given.timeout, **asked)
    if lab.report is not None:
        session.front.show(views.report(lab.report))
    return output


def _sure(session: Session, word: str) -> str | float:
    """The word "decided", or a probability: "0.95" and "95%" are the same."""
    given = text(session, word).strip()
    if given == "decided":
        return given
    if given.endswith("%"):
        return percentage()(session, word)
    try:
        return float(given)
    except ValueError:
        rule = "A run stops early when it is decided, or at a probability such as 0.95"
        raise unknown(rule, given, ("decided",), given=word) from None


RUN = Verb(
    "run the ensemble on one batch under the plan; its value is the combined output",
    _run,
    (
        INPUT,
        Argument("--timeout", "give up after so many seconds", seconds),
        Argument("--deadline", "answer after so long, such as 50ms, with the members that are done", seconds),
        Argument("--at-least", "the fewest members that an answer is made of (default: 1)", whole_number),
        Argument(
            "--otherwise",
            "where fewer are done by then: error (default), or first: as soon as enough are",
            text,
            "WHAT",
            suggest=suggestions.otherwise,
        ),
        Argument("--leave-out", "leave out members that raise or whose lanes end", option="on_failure"),
        Argument(
            "--stop-early",
            "decided: when no missing member can change the vote; or a probability, such as 0.95 or 95%",
            _sure,
            "WHEN",
            suggest=suggestions.stop_early,
        ),
        Argument("--uncertainty", "answer with how far the members are apart, too"),
    ),
    example="y = %esen run x --deadline 50ms --at-least 3",
    interrupted="Interrupted: this run has no output. The lab stays usable; broken lanes start afresh.",
)


def _compare(session: Session, given: Given) -> Any:
    lab = session.lab()
    plans = None if given.plans is None else {path: path for path in given.plans}
    peers = given.peers[0] if given.peers in (["soon"], ["all"], ["none"]) else given.peers
    asked = options(y=given.labels, rounds=given.rounds, strategies=given.strategies, peers=peers, plans=plans)
    return session.attend(
        "Comparing", lambda tell: lab.compare(given.input, on_progress=tell, **asked), views.comparison
    )


COMPARE = Verb(
    "the plan against what people would use instead, in the same rounds",
    _compare,
    (
        INPUT,
        Argument(
            "--labels",
            "the right class of each row, to tell each answer's accuracy: a Python expression",
            expression,
            "Y",
            suggest=suggestions.tensors,
        ),
        Argument("--rounds", "how many rounds", whole_number),
        Argument(
            "--strategies",
            f"which of {', '.join(suggestions.STRATEGIES)} (default: all of these), and of the peers below",
            names,
            suggest=suggestions.strategies,
        ),
        Argument(
            "--peers",
            f"which of {', '.join(suggestions.PEERS)}; 'soon': those installed that are ready within 15 s "
            "(default, where no strategies are named), 'all' that are installed, or 'none'",
            names,
            suggest=suggestions.peers,
        ),
        Argument("--plans", "saved plans to compare with as well", names, "FILE,FILE"),
    ),
    example="%esen compare x --rounds 50 --strategies sequential,equal",
    interrupted="Interrupted before the first round was done: nothing was compared. The lab stays usable.",
)


def _use(session: Session, given: Given) -> Any:
    lab = session.lab()
    if lab.comparison is None:
        raise UsageError(
            "A strategy is put in force after a comparison has measured it",
            given="none yet",
            hint="`%esen compare x` compares.",
        )
    lab.plan = lab.comparison.plan_of(given.strategy)
    return show(session, lab.plan, views.plan(lab.plan))


USE = Verb(
    "run the ensemble as a strategy of the last comparison did",
    _use,
    (Argument("strategy", "its name in the comparison", text, "STRATEGY", joined=True, suggest=suggestions.compared),),
    example="%esen use sequential",
    interrupted="Interrupted: `%esen plan` shows the plan in force, the one before or the one that was asked for.",
)


def _load_test(session: Session, given: Given) -> Any:
    lab = session.lab()
    asked = options(p99_s=given.p99, duration_s=given.seconds, most_rows=given.batch, ways=given.ways, seed=given.seed)

    def work(tell: Callable[..., None]) -> Any:
        so_far: list[View] = []
        return lab.load_test(
            given.rates,
            given.input,
            on_progress=lambda done, every, words: tell(done, every, words, *so_far[-1:]),
            on_row=lambda table: so_far.append(views.load_table(table)),
            **asked,
        )

    return session.attend("Load", work, views.load_table)


LOAD_TEST = Verb(
    "how the plan answers requests that come at random, and the usual ways to run the ensemble, in turns",
    _load_test,
    (
        replace(INPUT, count="*", help="the input whose rows are sent: any Python expression (default: the example)"),
        Argument(
            "--rates", "requests a second, one test each (default: 30, 60 and 90 % of the plan's best)", numbers, "A,B"
        ),
        Argument("--p99", "the deadline that goodput is counted under, such as 50ms (default: 100ms)", seconds),
        Argument(
            "--seconds",
            "for how long requests are due, at each rate and for each way (default: 5s)",
            seconds,
            option="duration_s",
        ),
        Argument(
            "--batch", "the largest batch that requests are joined to (default: 16)", whole_number, option="most_rows"
        ),
        Argument(
            "--ways",
            f"which of plan, {', '.join(suggestions.STRATEGIES)} (default: plan,sequential,unlimited)",
            names,
            suggest=suggestions.ways,
        ),
        Argument("--seed", "of the random times", seed),
    ),
    example="%esen loadtest --rates 50,100,200 --p99 50ms",
    interrupted="Interrupted: there is no table. The lab stays usable.",
)


def _numerics(session: Session, given: Given) -> Any:
    lab = session.lab()
    if given.forget is not None:
        if given.input is not None or given.runs is not None:
            raise UsageError("--forget checks nothing", given="an input or --runs besides", hint="Leave them out.")
        session.front.show(views.forgotten(lab.points.forget_wrong(given.forget), lab.device.identity.unit))
        return None
    asked = options(runs=given.runs)
    return session.attend(
        "Checking numerics", lambda tell: lab.check_numerics(given.input, on_progress=tell, **asked), views.numerics
    )


NUMERICS = Verb(
    "whether every sub-model answers at its share as it does on the whole device, all lanes at work",
    _numerics,
    (
        replace(INPUT, count="*", help=f"{INPUT.help} (default: the example)"),
        Argument(
            "--runs",
            "how many runs are compared (default: 5); what is wrong may be wrong only now and then",
            whole_number,
        ),
        Argument(
            "--forget",
            "check nothing: let searches use the shares again at which these were found wrong",
            names,
            suggest=suggestions.submodels,
        ),
    ),
    example="%esen numerics x --runs 20",
    interrupted="Interrupted: nothing was judged. The lab stays usable; broken lanes start afresh.",
)
