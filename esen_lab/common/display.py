"""Records that show themselves in a notebook as tables and pictures.

`ui/html.py` draws them. It is imported when a record is shown, not before: records work without the notebook part.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any

from esen_lab.terminal import visible


class Shown:
    """A record that shows itself richly wherever IPython displays it, with or without `%load_ext esen_lab`.

    What its `str` gives is for a terminal, and made fit for one: names and remarks in it may come from a file.
    """

    __slots__ = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # IPython asks class by class, and a dataclass's own `__repr__` comes before anything that it inherits.
        cls._repr_pretty_ = _as_text  # type: ignore[attr-defined]
        if "__str__" in vars(cls):
            cls.__str__ = _made_visible(cls.__str__)  # type: ignore[method-assign]

    def _repr_html_(self) -> str:
        return str(import_module("esen_lab.ui.html").html_of(self))

    def _mime_(self) -> tuple[str, str]:
        """What marimo asks for: HTML with a style, because its pages give tables none."""
        return "text/html", str(import_module("esen_lab.ui.html").page_of(self))


def _as_text(record: object, printer: Any, cycle: bool) -> None:
    printer.text("..." if cycle else import_module("esen_lab.ui.html").text_of(record))


def _made_visible(say: Callable[[Any], str]) -> Callable[[Any], str]:
    @wraps(say)
    def said(record: Any) -> str:
        return visible(say(record))

    return said
