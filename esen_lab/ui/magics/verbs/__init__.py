"""The table of verbs, in the order of the work. A verb reads its words, calls one `Lab` method and shows the result."""

# ruff: noqa: ARG001  every verb has the same two arguments, whether it needs both or not

from __future__ import annotations

from collections.abc import Mapping

from esen_lab.common.words import unknown
from esen_lab.ui.magics.arguments import Argument, text
from esen_lab.ui.magics.verbs import cluster, edit, keep, measure, past, plan, run, serve, setup
from esen_lab.ui.magics.verbs.verb import Given, Verb, overview, verb_help
from esen_lab.ui.session import Session

__all__ = ["CELL_VERBS", "VERBS", "Verb"]


def _help(session: Session, given: Given) -> None:
    if given.verb is None:
        session.front.show(overview(VERBS))
        return
    table, magic = (CELL_VERBS, "%%esen") if given.verb in CELL_VERBS else (VERBS, "%esen")
    verb = table.get(given.verb)
    if verb is None:
        raise unknown(f"%esen has no verb {given.verb!r}", given.verb, VERBS, hint="`%esen help` lists them all.")
    session.front.show(verb_help(f"{magic} {given.verb}", verb))


def _verb_names(session: Session) -> tuple[str, ...]:
    return tuple(VERBS)


HELP = Verb(
    "this list, or what a verb takes",
    _help,
    (Argument("verb", "a verb", text, "VERB", count="?", suggest=_verb_names),),
    example="%esen help profile",
)

RENAMED: Mapping[str, str] = {"mechanisms": "backends"}
"""Verbs of earlier versions -> what they are called now."""

CELL_VERBS: Mapping[str, Verb] = {"model": setup.MODEL}
"""What may follow `%%esen`."""

VERBS: Mapping[str, Verb] = {
    "status": setup.STATUS,
    "register": setup.REGISTER,
    "model": setup.MODEL_ON_A_LINE,
    "unregister": setup.UNREGISTER,
    "list": setup.LIST,
    "combine": setup.COMBINE,
    "profile": measure.PROFILE,
    "cancel": measure.CANCEL,
    "measurements": measure.MEASUREMENTS,
    "fit": measure.FIT,
    "search": plan.SEARCH,
    "refine": plan.REFINE,
    "backends": plan.CHOOSE_BACKENDS,
    "precision": plan.PRECISION,
    "members": plan.MEMBERS,
    "place": plan.PLACE,
    "cascade": plan.CASCADE,
    "best": plan.BEST,
    "plan": plan.PLAN,
    "share": edit.SHARE,
    "tune": edit.TUNE,
    "run": run.RUN,
    "compare": run.COMPARE,
    "use": run.USE,
    "loadtest": run.LOAD_TEST,
    "numerics": run.NUMERICS,
    "show": keep.SHOW,
    "save": keep.SAVE,
    "load": keep.LOAD,
    "record": keep.RECORD,
    "export": keep.EXPORT,
    "serve": serve.SERVE,
    "cluster": cluster.CLUSTER,
    "history": past.HISTORY,
    "watch": measure.WATCH,
    "device": setup.DEVICE,
    "close": keep.CLOSE,
    "stop": keep.STOP,
    "help": HELP,
}
"""What may follow `%esen`."""
