"""What the tab key offers on a line with an `%esen` magic. Pure text in, text out; imports nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Iterable

from esen_lab.ui.magics.arguments import Argument
from esen_lab.ui.magics.verbs import CELL_VERBS, VERBS
from esen_lab.ui.session import Session

_LINE = re.compile(r"\s*(?:[\w., ]+=\s*)?%esen\s(?P<rest>.*)", re.DOTALL)
_CELL = re.compile(r"\s*%%esen\s(?P<rest>.*)", re.DOTALL)


def complete(session: Session, before: str) -> tuple[str, list[str]] | None:
    """Offers for the word that ends where the cursor is.

    Args:
        session: Knows the sub-models and the user's variables.
        before: The line up to the cursor.

    Returns:
        The fragment to replace and what may stand there, or None where the line is no `%esen` line or the notebook's
        own completers know better.
    """
    table = VERBS
    line = _LINE.match(before)
    if line is None:
        line = _CELL.match(before)
        table = CELL_VERBS
    if line is None:
        return None
    words = line["rest"].split()
    last = "" if line["rest"][-1:].isspace() or not words else words.pop()
    if not words:
        return _matching(last, table)
    verb = table.get(words[0])
    if verb is None:
        return _matching(last, table) if words[0] == "help" else None
    if last.startswith("-") and "=" not in last:
        taken = {word.split("=", 1)[0] for word in words}
        offered = [a.name for a in verb.arguments if a.is_option and a.name not in taken]
        return _matching(last, [*offered, "-h"])
    argument = _argument_at(verb.arguments, words[1:], last)
    if argument is None or argument.suggest is None:
        return None
    return _matching(re.split(r"[,=]", last)[-1], argument.suggest(session))


def _argument_at(arguments: Iterable[Argument], words: list[str], last: str) -> Argument | None:
    """Which argument the word under the cursor belongs to."""
    options = {argument.name: argument for argument in arguments if argument.is_option}
    places = [argument for argument in arguments if not argument.is_option]
    if "=" in last and last.split("=", 1)[0] in options:
        return options[last.split("=", 1)[0]]
    filled = 0
    for place, word in enumerate(words):
        option = options.get(word)
        if option is not None and option.read is not None:
            if place == len(words) - 1:
                return option
        elif option is None and (place == 0 or not _takes_value(options.get(words[place - 1]))):
            filled += not word.startswith("-")
    if not places:
        return None
    if filled < len(places):
        return places[filled]
    return places[-1] if places[-1].count in ("*", "+") else None


def _takes_value(option: Argument | None) -> bool:
    return option is not None and option.read is not None


def _matching(fragment: str, offers: Iterable[str]) -> tuple[str, list[str]] | None:
    matching = [offer for offer in dict.fromkeys(offers) if offer.startswith(fragment)]
    return (fragment, matching) if matching else None
