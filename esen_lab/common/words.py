"""Names that people give: one or several, and what was meant by one that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


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
    plain = {name.lower(): name for name in known}
    near = difflib.get_close_matches(given.lower(), plain, n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(plain[name] for name in near)}?" if near else ""


def listed(names: str | Sequence[str]) -> Sequence[str]:
    """Several names, where one may stand for a list of itself: "eager" is no list of letters."""
    if not isinstance(names, str):
        return names
    return [name.strip() for name in names.split(",") if name.strip()]
