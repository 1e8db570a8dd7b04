"""`%esen tune` where the plan in force is a cascade: its thresholds, each one call on the editor of the lab."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from esen_lab.common.words import unknown
from esen_lab.errors import UsageError
from esen_lab.ui import views
from esen_lab.ui.magics.suggestions import THRESHOLD_STEPS as STEPS
from esen_lab.ui.magics.verbs.verb import show
from esen_lab.ui.session import Session
from esen_lab.ui.views import View


def tune_thresholds(session: Session, editor: Any, words: Sequence[str]) -> Any:
    """Show the editor, with sliders; with words, take one step.

    Raises:
        UsageError: There is no such step.
        EsenError: It could not be taken.
    """
    if words:
        _take_step(editor, words)
    state = editor.state
    view = views.thresholds(state)
    if words or not session.front.updates_in_place:
        return show(session, state, view)
    if not session.open_thresholds(editor, views.thresholds):
        note = "There are sliders where ipywidgets is installed; `%esen tune threshold 0.8` does the same."
        session.front.show(View(title=view.title, blocks=view.blocks, notes=(*view.notes, note)))
    session.front.mark_shown(state)
    return state


def _take_step(editor: Any, words: Sequence[str]) -> None:
    name, *rest = words
    if name not in STEPS:
        raise unknown(f"%esen tune has no step {name!r} for a cascade", name, STEPS, hint=f"It has {', '.join(STEPS)}.")
    if name == "threshold":
        if not 1 <= len(rest) <= 2:
            raise UsageError("`%esen tune threshold` takes [STAGE] CONFIDENCE", given=" ".join(rest) or "none")
        try:
            threshold, stage = float(rest[-1]), int(rest[0]) if len(rest) == 2 else None
        except ValueError:
            raise UsageError("A threshold is a number such as 0.9, a stage such as 1", given=" ".join(rest)) from None
        editor.set(threshold, stage)
    elif rest:
        raise UsageError(f"`%esen tune {name}` takes no words", given=" ".join(rest))
    else:
        getattr(editor, name)()
