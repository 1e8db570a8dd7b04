"""Names that people give: one or several, and what was meant by one that is not known."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from esen_lab.errors import UsageError


def did_you_mean(given: object, known: Iterable[str]) -> str:
    """The known names that look like the given one, as a question; "" where none does.

    Args:
        given: What was given; anything but a text looks like nothing.
        known: The names there are.

    Returns:
        Such as "Did you mean mean or majority?".
    """
    if not isinstance(given, str):
        return ""
    plain = {name.lower().lstrip("-"): name for name in known}  # that both begin with "--" is no likeness
    near = difflib.get_close_matches(given.lower().lstrip("-"), plain, n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(plain[name] for name in near)}?" if near else ""


def unknown(rule: str, name: object, known: Iterable[str], *, given: object = None, hint: str = "") -> UsageError:
    """The error for a name out of a known set that is not in it: every refusal of a name is made here.

    Args:
        rule: What must hold; it says which names there are, where they are few.
        name: What was given. Of several unknown names the first: one hint is enough to go on.
        known: The names there are.
        given: What is told to have been given, where the rule does not name it; None: nothing.
        hint: What else to do.

    Returns:
        The error, its hint beginning with what was probably meant.
    """
    return UsageError(rule, given=given, hint=f"{did_you_mean(name, known)} {hint}".strip())


def listed(names: str | Sequence[str]) -> Sequence[str]:
    """Several names, where one may stand for a list of itself: "eager" is no list of letters."""
    if not isinstance(names, str):
        return names
    return [name.strip() for name in names.split(",") if name.strip()]


def as_arguments(kwargs: Mapping[str, Any], args: Sequence[Any] = ()) -> str:
    """Arguments as they are written in a call, long ones cut short: "3, method='predict'"."""
    return ", ".join([*map(reprlib.repr, args), *(f"{name}={reprlib.repr(value)}" for name, value in kwargs.items())])


def some_of(names: Sequence[str], most: int) -> str:
    """The first few of some names, for people: "a, b and 3 more"."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
