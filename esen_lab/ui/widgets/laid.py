"""Widgets over outputs that are complete without them.

A widget that stands in a cell's output is a hole in the saved notebook: once its kernel is gone, pages show an error
there, whatever else the output holds. So outputs hold plain HTML: an empty place for the widget, and a still form of
the same thing that is hidden as long as the widget is laid over. The page's widget manager makes the model below
whenever it meets this kernel (also after a refresh), and the model lays the widget (`assets/laid.js`).
"""

from __future__ import annotations

import sys
from collections.abc import MutableMapping
from importlib.resources import files
from typing import Any

import anywidget
import traitlets
from ipywidgets import Widget, widget_serialization

from esen_lab.ui.markup import Markup
from esen_lab.ui.widgets.commands import CHILD
from esen_lab.ui.widgets.panel import Shows


class Laid(anywidget.AnyWidget):
    """Lays `shown` over every place of `key` in a page, as long as it is open.

    Attributes:
        key: Names the places: elements of the class `esen-KEY`; those of the class `esen-KEY-still` are hidden.
        shown: The widget.
        newest: 0, or the number of the state that the still form should have: a place of the class `esen-nNUMBER` is
            current, and nothing is laid over it. A page that was loaded again no longer hears of updates in place.
    """

    _esm = CHILD + files("esen_lab.ui").joinpath("assets/laid.js").read_text(encoding="utf-8")
    key = traitlets.Unicode().tag(sync=True)
    shown = traitlets.Instance(Widget).tag(sync=True, **widget_serialization)
    newest = traitlets.Int(0).tag(sync=True)


class Current:
    """An output that is updated in place, for pages that no longer hear of it: they get the newest state laid over.

    Args:
        key: Names the output.
    """

    def __init__(self, key: str, first: Markup) -> None:
        self._shows = Shows()
        self._shows.show(first)
        self._laid = Laid(key=key, shown=self._shows, newest=1)

    def tell(self, state: Markup) -> None:
        """There is a newer state."""
        self._shows.show(state)
        self._laid.newest += 1

    def close(self) -> None:
        """Take it away. May be called again."""
        self._laid.close()
        self._shows.close()


def lays_over(namespace: MutableMapping[str, Any]) -> bool:
    """Whether this notebook's page can lay widgets over outputs: where each output is a page of its own, it cannot.

    VS Code and Colab show every output in a frame that knows no other.
    """
    return "google.colab" not in sys.modules and "__vsc_ipynb_file__" not in namespace
