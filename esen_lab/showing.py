"""How a record shows itself in a notebook: a table, a picture, text; what they look like is the notebook part's affair.

That part is asked by name and only when something is shown: no record imports what draws it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


class Shown:
    """A record that shows itself richly wherever IPython displays it, with or without `%load_ext esen_lab`."""

    __slots__ = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # IPython asks class by class, and a dataclass's own `__repr__` comes before anything that it inherits.
        cls._repr_pretty_ = _as_text  # type: ignore[attr-defined]

    def _repr_html_(self) -> str:
        return str(import_module("esen_lab.notebook.html").html_of(self))


def _as_text(record: object, printer: Any, cycle: bool) -> None:
    printer.text("..." if cycle else import_module("esen_lab.notebook.html").text_of(record))
