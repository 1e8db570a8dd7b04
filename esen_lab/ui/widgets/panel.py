"""What every panel of sliders is: ipywidgets that show what an editor says, and that bring moves to it.

Panels know nothing of each other and stay in step through the editor. What bites, and what is done about it:

    1. Callbacks come from any thread, and may come only after a busy cell: nothing here waits for one, and what takes
       time runs beside the callback, in a thread of its own (`acts.py`).
    2. Setting a widget from here calls its observers too: `_showing` tells such an echo from a user's move. It is read
       and written under the panel's lock.
    3. The editor is never called with the panel's lock held: it tells all panels, each of which takes its own.
    4. States may overtake each other on their way here: an older one than is shown is dropped.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from esen_lab.common.locks import Lock
from esen_lab.errors import EsenError
from esen_lab.ui.markup import Markup, element, text
from esen_lab.ui.widgets.acts import Acts


class Shows(widgets.HTML):  # type: ignore[misc]  # ipywidgets publishes no types
    """A widget that shows markup; ordinary text is escaped on its way in."""

    def __init__(self) -> None:
        super().__init__(tooltip="")  # without one, pages say "null" on hover

    def show(self, what: str) -> None:
        """Show `what`: markup as it is, anything else as text."""
        self.value = str(text(what))


class EditorPanel(ABC):
    """A panel over an editor, which tells its states and counts them. `box` is the widget; `close` ends it."""

    box: Any

    def __init__(self, editor: Any) -> None:
        self._editor = editor
        self._lock = Lock()
        self._showing = False
        self._revision = -1
        self._told = ""  # why what was asked for could not be
        self._acts = Acts(self._refused)
        self._stop: Callable[[], None] = lambda: None

    def _follow(self) -> None:
        """Show what is, and every later state: once all widgets are there."""
        editor = self._editor
        self._stop = editor.listen(self._show)
        self._show(editor.state)

    def _users(self, act: Callable[[], Any], where: Any = None, told: str = "") -> None:
        """Do what a user asked for; what cannot be is said, and the widgets show again what is.

        Args:
            act: Asks the editor for it.
            where: What of the panel was moved.
            told: What is to be said about it.
        """
        with self._lock:
            if self._showing:  # an echo, in the thread that shows: nobody else gets in here meanwhile
                return
            if not self._tell(where, told):
                return
        if self._acts.now(act, where):
            self._show(self._editor.state, again=True)  # also where nothing changed: a slider goes back to what it has

    def _tell(self, where: Any, told: str) -> bool:  # noqa: ARG002  for panels that tell beside what was moved
        """Say this in place of what was said before; whether what was moved is still there. With the lock held."""
        self._told = told
        return True

    def _refused(self, problem: EsenError, where: Any) -> None:
        state = self._editor.state
        if problem.rule not in state.message:  # else all panels say it already, and more
            with self._lock:
                self._tell(where, str(problem))
        self._show(state, again=True)

    def _show(self, state: Any, *, again: bool = False) -> None:
        with self._lock:
            if state.revision < self._revision or (state.revision == self._revision and not again):
                return
            self._revision = state.revision
            self._showing = True
            try:
                with self.box.hold_sync():
                    self._draw(state)
            finally:
                self._showing = False

    @abstractmethod
    def _draw(self, state: Any) -> None:
        """Have the widgets show a state. With the lock held."""

    def close(self, timeout_s: float = 2.0) -> None:
        """Stop following, and take the widgets away. What a button started is waited for, a little. Idempotent."""
        self._stop()
        self._acts.settle(timeout_s)
        close_all(self.box)


def close_all(widget: Any) -> None:
    """Close a widget and all inside it."""
    for child in getattr(widget, "children", ()):
        close_all(child)
    widget.close()


def red(told: str) -> Markup:
    """What could not be done."""
    return element("span", told, style="color:#D55E00") if told else text("")
