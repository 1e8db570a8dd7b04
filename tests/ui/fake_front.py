"""`FakeFront`: a notebook that keeps what is shown, so that verbs can be tested without IPython."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from esen_lab.errors import UsageError
from esen_lab.ui.html import to_text
from esen_lab.ui.session import ShownWidget
from esen_lab.ui.views import View


class FakeLive:
    def __init__(self, first: View) -> None:
        self.views = [first]
        self.last = False

    def update(self, view: View, *, last: bool = False) -> None:
        self.views.append(view)
        self.last = last

    @property
    def text(self) -> str:
        return to_text(self.views[-1])


class FakeFront:
    """A notebook that keeps what is shown."""

    def __init__(self, **names: Any) -> None:
        self.names: MutableMapping[str, Any] = names
        self.shown: list[View] = []
        self.lives: list[FakeLive] = []
        self.widgets: list[Any] = []
        self.taken_away: list[Any] = []
        self.marked: list[object] = []
        self.hid: list[object] = []
        self.updates_in_place = True

    @property
    def namespace(self) -> MutableMapping[str, Any]:
        return self.names

    def evaluate(self, expression: str) -> Any:
        try:
            return eval(expression, {}, dict(self.names))
        except SyntaxError:
            raise UsageError("A Python expression is needed here", given=expression) from None

    def expand(self, text: str) -> str:
        return text.replace("{stem}", str(self.names.get("stem")))

    def show(self, view: View) -> None:
        self.shown.append(view)

    def show_widget(self, widget: Any, still: View | None = None, then: str = "") -> ShownWidget:
        self.widgets.append(widget)
        below = None
        if still is not None:
            assert then, "what went on is said to whoever reads it later"
            self.shown.append(still)
            below = self.live(still)
        return ShownWidget(still=below, take_away=lambda: self.taken_away.append(widget))

    def live(self, view: View) -> FakeLive:
        self.lives.append(FakeLive(view))
        return self.lives[-1]

    def hidden(self, result: Any) -> Any:
        self.hid.append(result)
        return result

    def mark_shown(self, record: object) -> None:
        self.marked.append(record)

    @property
    def text(self) -> str:
        """All that was shown, as text."""
        return "\n".join(map(to_text, self.shown))
