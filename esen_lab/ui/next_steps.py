"""The next sensible step of a lab, in the words of the notebook."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from esen_lab.lab.records import NextStep

_WORDS: Mapping[str, str] = {
    "register": "Register a sub-model: %esen register NAME --example EXPR",
    "wait": "Profiling runs in the background: wait, or %esen cancel",
    "profile": "Measure the sub-models: %esen profile",
    "search": "Find a plan: %esen search",
    "run": "Run the ensemble: %esen run x",
    "compare": "Compare with how you run it today: %esen compare x",
    "export": "Keep the plan: %esen export plan.py",
}


def in_words(step: NextStep) -> str:
    """What to do, and the magic that does it."""
    return _WORDS[step.action]
