"""The one door for what verbs show: on a simulated device every view with figures says that nothing was measured."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from esen_lab.ui.views import Details, Progress, Table, View
from esen_lab.ui.widgets.live_displays import Live

_KEY = "simulated"
_WORD = re.compile(r"(?<![\w.-])simulated(?![\w-]|\.\w)", re.IGNORECASE)  # no part of a sub-model's name


def said(view: View, device: Any) -> View:
    """A view that says of its figures that they are no measurements, where a device is simulated.

    Args:
        view: What is shown; one that says so already, or has no figures, stays as it is.
        device: The lab's device.
    """
    if not getattr(device.identity, _KEY, False) or not _figures(view) or _says(view):
        return view
    return replace(view, notes=(*view.notes, *device.notes))


def _figures(view: View) -> bool:
    return view.figures and any(not isinstance(block, (Details, Progress)) for block in view.blocks)


def _says(view: View) -> bool:
    cells = [cell for block in view.blocks if isinstance(block, Table) for row in block.rows for cell in row]
    return any(_WORD.search(text) for text in (view.title, *cells, *view.notes))


class SaysSimulated:
    """A `session.Notebook` that shows what another one does, as `mark` makes it.

    Args:
        front: The notebook.
        mark: Makes the view that is shown of the one that a verb made.
    """

    def __init__(self, front: Any, mark: Callable[[View], View]) -> None:
        self._front = front
        self._mark = mark

    def __getattr__(self, name: str) -> Any:
        """All else is the notebook's own."""
        return getattr(self._front, name)

    def show(self, view: View) -> None:  # noqa: D102
        self._front.show(self._mark(view))

    def live(self, view: View) -> Live:  # noqa: D102
        return _MarkedLive(self._front.live(self._mark(view)), self._mark)

    def show_widget(self, widget: Any, still: View | None = None, then: str = "") -> Any:  # noqa: D102
        if still is None:
            return self._front.show_widget(widget, still, then)
        shown = self._front.show_widget(widget, self._mark(still), then)
        return shown if shown.still is None else replace(shown, still=_MarkedLive(shown.still, self._mark))


class _MarkedLive:
    def __init__(self, live: Live, mark: Callable[[View], View]) -> None:
        self._live = live
        self._mark = mark

    def update(self, view: View, *, last: bool = False) -> None:
        self._live.update(self._mark(view), last=last)
