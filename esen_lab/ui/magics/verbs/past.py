"""The verb that looks back: what was measured and planned in this project, also in earlier sessions."""

from __future__ import annotations

from typing import Any

from esen_lab.errors import UsageError
from esen_lab.ui import views
from esen_lab.ui.magics.arguments import Argument, text, whole_number, whole_numbers
from esen_lab.ui.magics.verbs.verb import Given, Verb, show
from esen_lab.ui.session import Session

_LAST = 20
_ALL = "all"


def _history(session: Session, given: Given) -> Any:
    history = session.lab().history
    asked = [given.numbers or None, given.take, given.forget]
    if sum(one is not None for one in asked) > 1:
        raise UsageError(
            "The history is shown, or a plan taken from it, or something forgotten: one at a time",
            hint="Such as `%esen history 3 7`, `%esen history --take 3`, `%esen history --forget 3,4`.",
        )
    if given.last is not None and any(one is not None for one in asked):
        raise UsageError(
            "--last says how many entries are listed", given="something else besides", hint="Leave it out."
        )
    if len(given.numbers) > 2:
        raise UsageError("One entry is shown, or two side by side", given=f"{len(given.numbers)} numbers")
    if given.project is not None:
        history.project = given.project
    if given.take is not None:
        plan = history.take(given.take)
        return show(session, plan, views.plan(plan))
    if given.forget is not None:
        numbers = None if given.forget == _ALL else given.forget
        session.front.show(views.forgotten_entries(history.forget(numbers), history.project))
        return None
    if len(given.numbers) == 2:
        changes = history.compare(*given.numbers)
        return show(session, changes, views.changes(changes))
    if given.numbers:
        entry = history.entry(given.numbers[0])
        return show(session, entry, views.one_entry(entry))
    past = history.past(_LAST if given.last is None else given.last)
    return show(session, past, views.past(past))


def _numbers_or_all(session: Session, word: str) -> list[int] | str:
    if text(session, word).strip() == _ALL:
        return _ALL
    numbers = whole_numbers(session, word)
    if not numbers:  # an empty list of the notebook is no wish to forget everything
        raise UsageError("Entries are forgotten by their numbers, or all of them by the word 'all'", given=word)
    return numbers


HISTORY = Verb(
    "what was measured and planned in this project, also in earlier sessions, and what changed",
    _history,
    (
        Argument("numbers", "one entry in full, or two side by side", whole_number, "NUMBER", count="*"),
        Argument("--last", f"how many are listed (default: {_LAST})", whole_number),
        Argument("--take", "put the plan of this entry in force", whole_number, "NUMBER"),
        Argument("--forget", "take entries out of the history; 'all': all of this project", _numbers_or_all, "N,N"),
        Argument(
            "--project",
            "go on with the history of another project (default: the folder that the lab was made in)",
            text,
        ),
    ),
    example="%esen history 3 7",
    interrupted="Interrupted: `%esen history` shows what there is, `%esen plan` the plan in force.",
)
