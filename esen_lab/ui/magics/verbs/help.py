"""What `%esen help` and `-h` show: all verbs in a line each, or what one takes."""

from __future__ import annotations

from collections.abc import Mapping

from esen_lab.ui.magics.arguments import parser
from esen_lab.ui.magics.verbs.verb import Verb
from esen_lab.ui.views import Details, Table, View


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
