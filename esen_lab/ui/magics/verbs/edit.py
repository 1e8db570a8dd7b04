"""The verbs that change a plan by hand: `share` and `tune`, each one call on the lab's plan editor."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from esen_lab.common.units import format_count
from esen_lab.common.words import unknown
from esen_lab.errors import UsageError
from esen_lab.ui import views
from esen_lab.ui.magics import suggestions
from esen_lab.ui.magics.arguments import Argument, percentage, text
from esen_lab.ui.magics.verbs.thresholds import tune_thresholds
from esen_lab.ui.magics.verbs.verb import Given, Verb, show
from esen_lab.ui.session import Session
from esen_lab.ui.views import View

_UNITS = r"\d{1,9}%?"
_SHARE = re.compile(
    rf"(?P<lane>[^=]+)=(?:(?P<pin>pin)(?::(?P<pinned>{_UNITS}))?|(?P<unpin>unpin)|(?P<units>{_UNITS}))\Z"
)
WAIT_S = 600.0  # for a search that is asked for on a line: Ctrl-C ends the waiting earlier


def _read_share(session: Session, word: str) -> tuple[str, str, bool | None]:
    """`wide=30`, `wide=25%`, `wide=pin:20`, `wide=pin`, `wide=unpin` as (lane, share or "", pinned or None)."""
    written = _SHARE.match(text(session, word))
    if written is None:
        raise UsageError(
            "A share is written LANE=UNITS, LANE=PERCENT%, LANE=pin:UNITS, LANE=pin or LANE=unpin", given=word
        )
    units = written["units"] or written["pinned"] or ""
    if units.endswith("%"):
        percentage()(session, units)
    pinned = True if written["pin"] else False if written["unpin"] else None
    return written["lane"], units, pinned


def _share(session: Session, given: Given) -> Any:
    editor = session.lab().tune()
    of_units = editor.state.units
    state = editor.share(
        _wanted(given.shares, of_units),
        pin=[lane for lane, _, pinned in given.shares if pinned],
        unpin=[lane for lane, _, pinned in given.shares if pinned is False],
    )
    return show(session, state, views.editor(state))


def _wanted(shares: Sequence[tuple[str, str, bool | None]], of_units: int) -> dict[str, int]:
    """Units by lane.

    Raises:
        UsageError: A lane is given two shares: neither is dropped.
    """
    wanted: dict[str, int] = {}
    for lane, written, _ in shares:
        units = _units(written, of_units) if written else 0
        if written and wanted.setdefault(lane, units) != units:
            raise UsageError("A lane has one share", given=f"{wanted[lane]} and {units} for {lane}")
    return wanted


def _units(written: str, of_units: int) -> int:
    if not written.endswith("%"):
        return int(written)
    return max(1, round(int(written[:-1]) * of_units / 100))


SHARE = Verb(
    "set shares of the draft that %esen tune shows, pin or free them; predicts, runs nothing",
    _share,
    (
        Argument(
            "shares",
            "LANE is a sub-model in it or its number; SHARE is 30, 25%, pin:20, pin (as it is) or unpin",
            _read_share,
            "LANE=SHARE",
            count="+",
            suggest=suggestions.lanes,
        ),
    ),
    example="%esen share wide=pin:3",
    interrupted="Interrupted: %esen tune shows the draft. The plan in force stays.",
)


def _tune(session: Session, given: Given) -> Any:
    lab = session.lab()
    if lab.plan is not None and lab.plan.staged:
        return tune_thresholds(session, lab.studies.thresholds(), given.words)
    editor = lab.tune()
    if given.words:
        _take_step(editor, given.words)
    state = editor.state
    view = _view(state)
    if given.words or not session.front.updates_in_place:
        return show(session, state, view)
    if not session.open_panel(editor, _view):
        note = "Board and sliders need anywidget; `%esen share` and `%esen tune -h` do the same."
        session.front.show(View(title=view.title, blocks=view.blocks, notes=(*view.notes, note)))
    session.front.mark_shown(state)
    return state


def _view(state: Any) -> View:
    view = views.editor(state)
    return replace(view, notes=(*view.notes, state.stuck)) if state.stuck else view


def _take_step(editor: Any, words: Sequence[str]) -> None:
    name, *rest = words
    if name == "threshold":
        raise UsageError(
            "Thresholds are those of a cascade that is in force",
            given="a plan without stages",
            hint="`%esen cascade x_val y_val --take` puts one in force.",
        )
    if name not in STEPS:
        raise unknown(f"%esen tune has no step {name!r}", name, STEPS, hint="`%esen tune -h` lists them.")
    least, most, act = STEPS[name]
    if not least <= len(rest) <= most:
        raise UsageError(
            f"`%esen tune {name}` takes {_count(least, most)}",
            given=" ".join(rest) or "none",
            hint="`%esen tune -h` shows each step with its words.",
        )
    act(editor, rest)


def _count(least: int, most: int) -> str:
    if least == most:
        return f"{least or 'no'} word{'' if least == 1 else 's'}"
    return f"{format_count(least, 'word')} or more" if most >= _MANY else f"{least} to {most} words"


def _propose(editor: Any, words: Sequence[str]) -> None:
    job = editor.propose(*words)
    try:
        job.result(timeout=WAIT_S)
    except KeyboardInterrupt:
        job.cancel()
        raise


def _switch(editor: Any, words: Sequence[str]) -> None:
    if words[0] not in ("on", "off"):
        raise unknown("Oversubscription is on or off", words[0], ("on", "off"), given=words[0])
    editor.oversubscribe(words[0] == "on")


_MANY = 1000
STEPS: Mapping[str, tuple[int, int, Callable[[Any, Sequence[str]], Any]]] = {
    "propose": (0, 1, _propose),
    "apply": (0, 0, lambda editor, _: editor.apply()),
    "measure": (0, 0, lambda editor, _: editor.measure()),
    "undo": (0, 0, lambda editor, _: editor.undo()),
    "redo": (0, 0, lambda editor, _: editor.redo()),
    "reset": (0, 0, lambda editor, _: editor.reset()),
    "cancel": (0, 0, lambda editor, _: editor.cancel()),
    "save": (1, 1, lambda editor, words: editor.save(words[0])),
    "export": (1, 1, lambda editor, words: editor.export(words[0])),
    "move": (1, 2, lambda editor, words: editor.move(*words)),
    "split": (1, _MANY, lambda editor, words: editor.split(*words)),
    "merge": (2, _MANY, lambda editor, words: editor.merge(*words)),
    "oversubscribe": (1, 1, _switch),
}
"""Step -> (fewest words, most words, what it does)."""

TUNE = Verb(
    "tune a plan by hand: what it predicts; with a word, one step",
    _tune,
    (
        Argument(
            "words",
            "propose [SEARCHER], apply, measure, undo, redo, reset, cancel, save PATH, export PATH, "
            "move NAME LANE, move NAME (to a lane of its own), split NAME ..., merge LANE LANE ..., "
            "oversubscribe on, oversubscribe off; of a cascade: threshold [STAGE] CONFIDENCE, apply, reset",
            text,
            "STEP",
            count="*",
            suggest=suggestions.editor_steps,
        ),
    ),
    example="%esen tune",
    interrupted="Interrupted. What was being applied or measured may be half done; the plan in force is whole.",
)
