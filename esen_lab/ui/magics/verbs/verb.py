"""What a verb is, and the few arguments that several verbs take."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, TypeAlias

from esen_lab.ui.magics import suggestions
from esen_lab.ui.magics.arguments import Argument, expression, parser, text
from esen_lab.ui.session import Session
from esen_lab.ui.views import Details, Table, View

Given: TypeAlias = argparse.Namespace
"""The values of a verb's arguments, by their keys; `cell` is the text below a `%%esen` line, else None."""


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb.

    Attributes:
        summary: One line.
        act: Does it; what it returns is the value of the magic.
        arguments: What it takes.
        example: A line that works.
        interrupted: What Ctrl-C leaves behind, in one line, true at whatever moment it came. The default is for verbs
            that only look: each that changes something says its own.
    """

    summary: str
    act: Callable[[Session, Given], Any]
    arguments: tuple[Argument, ...] = ()
    _: KW_ONLY
    example: str = ""
    interrupted: str = "Interrupted. Nothing was changed."


def show(session: Session, record: Any, view: View) -> Any:
    """Show a record and return it, so that `plan = %esen search` works; the notebook does not show it twice."""
    session.front.show(view)
    session.front.mark_shown(record)
    return record


def options(**given: Any) -> dict[str, Any]:
    """The options that a line gives; what is None is left to the lab's own default."""
    return {key: value for key, value in given.items() if value is not None}


INPUT = Argument("input", "the batch: any Python expression", expression, joined=True, suggest=suggestions.tensors)
PLAN_FILE = Argument("path", "the plan's file, such as plan.json", text, "PATH")


def verb_help(prog: str, verb: Verb) -> View:
    """What `verb`, called as `prog`, does and takes."""
    epilog = f"example:\n  {verb.example}" if verb.example else ""
    usage = parser(prog, verb.summary, verb.arguments, epilog=epilog).format_help().rstrip()
    return View(blocks=(Details(summary=prog, text=usage, unfolded=True),))


def overview(verbs: Mapping[str, Verb]) -> View:
    """All verbs, one line each."""
    rows = [(f"%esen {name}".replace("%esen model", "%%esen model"), verb.summary) for name, verb in verbs.items()]
    return View(
        title="%esen shares one device between the sub-models of an ensemble",
        blocks=(Table(rows=tuple(rows)),),
        figures=False,
        notes=(
            "`%esen VERB?` tells what a verb takes, as -h behind it. From Python: the same verbs are methods of `lab`.",
        ),
    )
