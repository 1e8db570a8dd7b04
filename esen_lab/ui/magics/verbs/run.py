"""The verbs that run the ensemble: once, against the usual ways, and to check its numerics."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from esen_lab.ui import views
from esen_lab.ui.magics import suggestions
from esen_lab.ui.magics.arguments import Argument, names, seconds, whole_number
from esen_lab.ui.magics.verbs.verb import INPUT, Given, Verb, options
from esen_lab.ui.session import Session


def _run(session: Session, given: Given) -> Any:
    lab = session.lab()
    output = lab.run(given.input, timeout_s=given.timeout)
    if lab.report is not None:
        session.front.show(views.report(lab.report))
    return output


RUN = Verb(
    "run the ensemble on one batch under the plan; its value is the combined output",
    _run,
    (
        INPUT,
        Argument("--timeout", "give up after so many seconds", seconds, "S"),
    ),
    example="y = %esen run x",
    interrupted="Interrupted: this run has no output. The lab stays usable; broken lanes start afresh.",
)


def _compare(session: Session, given: Given) -> Any:
    lab = session.lab()
    plans = None if given.plans is None else {path: path for path in given.plans}
    peers = given.peers[0] if given.peers in (["soon"], ["all"], ["none"]) else given.peers
    asked = options(rounds=given.rounds, strategies=given.strategies, peers=peers, plans=plans)
    return session.attend(
        "Comparing", lambda tell: lab.compare(given.input, on_progress=tell, **asked), views.comparison
    )


COMPARE = Verb(
    "the plan against what people would use instead, in the same rounds",
    _compare,
    (
        INPUT,
        Argument("--rounds", "how many rounds", whole_number, "N"),
        Argument(
            "--strategies",
            f"which of {', '.join(suggestions.STRATEGIES)} (default: all of these), and of the peers below",
            names,
            "A,B",
            suggest=suggestions.strategies,
        ),
        Argument(
            "--peers",
            f"which of {', '.join(suggestions.PEERS)}; 'soon': those installed that are ready within 15 s "
            "(default, where no strategies are named), 'all' that are installed, or 'none'",
            names,
            "A,B",
            suggest=suggestions.peers,
        ),
        Argument("--plans", "saved plans to compare with as well", names, "FILE,FILE"),
    ),
    example="%esen compare x --rounds 50 --strategies sequential,equal",
    interrupted="Interrupted before the first round was done: nothing was compared. The lab stays usable.",
)


def _numerics(session: Session, given: Given) -> Any:
    lab = session.lab()
    if given.forget is not None:
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
            "N",
        ),
        Argument(
            "--forget",
            "check nothing: let searches use the shares again at which these were found wrong",
            names,
            "A,B",
            suggest=suggestions.submodels,
        ),
    ),
    example="%esen numerics x --runs 20",
    interrupted="Interrupted: nothing was judged. The lab stays usable; broken lanes start afresh.",
)
