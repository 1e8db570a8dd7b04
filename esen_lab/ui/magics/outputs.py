"""Outputs of a notebook that change or hold widgets: complete in the file at every moment, whoever opens it later.

What goes on says as of when it is shown; what has ended says so. A widget is laid over its output and is not part of
it (`widgets/laid.py`). Updates in place reach the pages that were there when the output was made: those that were
loaded later get the newest state laid over it, as long as the kernel lives.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from esen_lab.ui.html import bundle, to_html
from esen_lab.ui.markup import element
from esen_lab.ui.session import ShownWidget
from esen_lab.ui.views import View

MOST_CURRENT = 24  # outputs that later pages are told the newest state of; the oldest goes
RUNNING = "it was running"


class Outputs:
    """The outputs of one shell.

    Args:
        shell: An IPython shell with a kernel.
        clock: Seconds since the epoch.
    """

    def __init__(self, shell: Any, clock: Callable[[], float] = time.time) -> None:
        self._shell = shell
        self._clock = clock
        self._made: list[Output] = []

    def live(self, view: View) -> Output:
        """Put `view` under the running cell so that it can be replaced."""
        made = Output(self._shell, view, self._clock, then=RUNNING, current=True)
        self._made.append(made)
        for old in self._made[:-MOST_CURRENT]:
            old.close()
        del self._made[:-MOST_CURRENT]
        return made

    def widget(self, widget: Any, still: View | None, then: str) -> ShownWidget:
        """Put a widget under the running cell, over its still form."""
        from esen_lab.ui.widgets.laid import Laid, lays_over

        key = _new_key()
        below = None if still is None else Output(self._shell, still, self._clock, then=then, hidden_as=key)
        laid = None
        if lays_over(self._shell.user_ns):
            data = {"text/html": str(element("div", class_=f"esen-{key}"))}
            laid = Laid(key=key, shown=widget)
        else:
            made = widget._repr_mimebundle_()
            data = dict(made[0] if isinstance(made, tuple) else made or {})  # anywidget gives a pair
        place = {"display_id": f"esen-{key}"}
        shown_by = self._shell.display_pub
        shown_by.publish(data={**data, "text/plain": ""}, transient=place)

        def take_away() -> None:
            _for_updates(self._shell, shown_by).publish(data={"text/plain": ""}, transient=place, update=True)
            if laid is not None:
                laid.close()

        return ShownWidget(still=below, take_away=take_away)

    def close(self) -> None:
        """Tell nobody any more; what is shown stays. May be called again."""
        made, self._made = self._made, []
        for each in made:
            each.close()


class Output:
    """One output, replaced in place by its display id.

    Args:
        shell: An IPython shell.
        view: What it shows first.
        clock: Seconds since the epoch.
        then: What went on when it was shown, for whoever reads it later: "it was running".
        hidden_as: The key of a widget that is laid over it, or "".
        current: Whether pages that are loaded later are told the newest state.
    """

    def __init__(
        self,
        shell: Any,
        view: View,
        clock: Callable[[], float],
        *,
        then: str,
        hidden_as: str = "",
        current: bool = False,
    ) -> None:
        self._shell = shell
        self._clock = clock
        self._then = then
        self._key = _new_key()
        self._marks = f"esen-{hidden_as}-still" if hidden_as else ""
        self._number = 1
        self._shown_by = shell.display_pub
        self._later: Any = None
        if current:
            with contextlib.suppress(ImportError):  # without widgets there is nothing to lay over
                from esen_lab.ui.widgets.laid import Current, lays_over

                if lays_over(shell.user_ns):
                    self._later = Current(self._key, to_html(self._dated(view)))
        self._publish(self._dated(view), update=False)

    def update(self, view: View, *, last: bool = False) -> None:
        """Replace what is shown. May be called from any thread."""
        shown = view if last else self._dated(view)
        self._number += 1
        if self._later is not None:
            self._later.tell(to_html(shown))
        self._publish(shown, update=True)

    def close(self) -> None:
        """Tell later pages no more. May be called again."""
        later, self._later = self._later, None
        if later is not None:
            later.close()

    def _publish(self, view: View, *, update: bool) -> None:
        marks = self._marks
        if self._later is not None:
            marks = f"esen-{self._key} esen-n{self._number}"
        place = {"display_id": f"esen-{self._key}"}
        by = _for_updates(self._shell, self._shown_by) if update else self._shown_by
        by.publish(data=bundle(view, marks), transient=place, update=update)

    def _dated(self, view: View) -> View:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self._clock()))
        note = f"As of {at}, when {self._then}."
        return View(title=view.title, blocks=view.blocks, notes=(*view.notes, note))


def _for_updates(shell: Any, shown_by: Any) -> Any:
    """What updates an output: on a page what has shown it, also while the running cell captures what is shown."""
    return shown_by if hasattr(shown_by, "pub_socket") else shell.display_pub


def _new_key() -> str:
    return uuid4().hex[:12]
