"""The next sensible step of a lab, in the words of its surroundings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from esen_lab.common.surroundings import step as worded

if TYPE_CHECKING:
    from esen_lab.lab.records import NextStep

_WORDS: Mapping[str, tuple[str, str, str]] = {
    "register": (
        "Register a sub-model: ",
        "lab.register('NAME', module, example=x)",
        "%esen register NAME --example EXPR",
    ),
    "wait": ("Profiling runs in the background: wait, or ", "lab.job.cancel()", "%esen cancel"),
    "profile": ("Measure the sub-models: ", "lab.profile()", "%esen profile"),
    "search": ("Find a plan: ", "lab.search()", "%esen search"),
    "run": ("Run the ensemble: ", "lab.run(x)", "%esen run x"),
    "compare": ("Compare with how you run it today: ", "lab.compare(x)", "%esen compare x"),
    "export": ("Keep the plan: ", "lab.export('plan.py')", "%esen export plan.py"),
}
"""Action -> what it is for, the step in Python, the step as a magic."""


def in_words(step: NextStep) -> str:
    """What to do, and how it is done here."""
    told, python, magic = _WORDS[step.action]
    return told + worded(python, magic)
