"""The board: a plan's lanes as a picture that is moved by hand. One anywidget over the lab's one plan editor.

The page has the cost models and predicts by itself (`assets/board_moves.js`): so figures follow the pointer while the
kernel is busy. What is dropped comes here as an order; the editor decides, and tells all its views. Orders are numbered
by the page: the state that comes back says up to which one it has heard, and until then the page shows its own draft.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any, TypeAlias

import anywidget
import traitlets
from ipywidgets import widget_serialization

from esen_lab.common.locks import Lock
from esen_lab.errors import EsenError, UsageError
from esen_lab.terminal import visible_line
from esen_lab.ui.widgets.acts import Acts
from esen_lab.ui.widgets.board_view import models_data, view_data
from esen_lab.ui.widgets.commands import SEND, Commands

if TYPE_CHECKING:
    from esen_lab.planner.editor import EditorState, PlanEditor

_Do: TypeAlias = Callable[["PlanEditor", Mapping[str, Any]], Any]
_ASSETS = files("esen_lab.ui").joinpath("assets")
_MOST_PAGES = 16  # whose last order is remembered


class Board(anywidget.AnyWidget):
    """A board over a plan editor; any number of them show the same draft.

    Args:
        editor: The plan editor, such as `lab.tune()`.
    """

    _esm = (
        SEND
        + _ASSETS.joinpath("board_moves.js").read_text(encoding="utf-8")
        + _ASSETS.joinpath("board.js").read_text(encoding="utf-8")
    )
    _css = _ASSETS.joinpath("board.css").read_text(encoding="utf-8")
    commands = traitlets.Instance(Commands).tag(sync=True, **widget_serialization)
    models = traitlets.Dict().tag(sync=True)
    view = traitlets.Dict().tag(sync=True)

    def __init__(self, editor: PlanEditor) -> None:
        self._editor = editor
        self._view_lock = Lock()  # held while a state becomes what is shown: an older one never follows a newer one
        self._revision = -1
        self._heard: dict[str, int] = {}
        self._refusal: dict[str, Any] = {}
        self._fitted: Any = None
        self._acts = Acts(self._refused)
        self._unlisten: Callable[[], None] = lambda: None
        super().__init__(commands=Commands(self._ordered))
        self._unlisten = editor.listen(self._show)
        self._show(editor.state)

    def close(self) -> None:
        """Stop following, and take the board away. Idempotent."""
        if self.comm is not None:  # a widget's end comes here too where it never began
            self._unlisten()
            self._acts.settle()
            self.commands.close()
        super().close()

    # --- to the page ---------------------------------------------------------------------------------------------

    def _show(self, state: EditorState, *, again: bool = False) -> None:
        with self._view_lock:
            if state.revision < self._revision or (state.revision == self._revision and not again):
                return
            self._revision = state.revision
            models = self._editor.models
            if models != self._fitted:
                self._fitted = models
                self.models = models_data(models, state.units, state.unit)
            shown = view_data(self._editor, state)
            self.view = {**shown, "heard": dict(self._heard), "refused": dict(self._refusal)}

    # --- from the page -------------------------------------------------------------------------------------------

    def _ordered(self, order: dict[str, Any]) -> None:
        page, number = str(order.get("page", ""))[:40], order.get("number")
        if not isinstance(number, int):
            return
        with self._view_lock:
            if number <= self._heard.get(page, 0):  # a message that came twice
                return
            self._heard[page] = number
            while len(self._heard) > _MOST_PAGES:
                del self._heard[next(iter(self._heard))]
        kind = str(order.get("kind"))
        where = {"page": page, "number": number}
        if kind in _BESIDE:
            self._acts.beside(lambda: _BESIDE[kind](self._editor, order), where)
        else:
            act: _Do = _NOW.get(kind, _unknown)
            self._acts.now(lambda: act(self._editor, order), where)
        self._show(self._editor.state, again=True)  # where nothing changed, that it was heard

    def _refused(self, problem: EsenError, where: dict[str, Any]) -> None:
        with self._view_lock:
            self._refusal = {**where, "text": visible_line(str(problem).replace("\n", " "))}
        self._show(self._editor.state, again=True)


def _share(editor: PlanEditor, order: Mapping[str, Any]) -> None:
    shares = order.get("shares")
    if not isinstance(shares, dict):
        raise UsageError("An order for shares names lanes by a sub-model in each", given=shares)
    editor.share(shares, gesture=(str(order.get("page")), str(order.get("gesture"))))


def _unknown(_editor: PlanEditor, order: Mapping[str, Any]) -> None:
    raise UsageError("The board knows this order", given=order.get("kind"), hint="Reload the page.")


_NOW: Mapping[str, _Do] = {
    "share": _share,
    "move": lambda editor, order: editor.move(str(order.get("name")), order.get("to")),
    "pin": lambda editor, order: (editor.pin if order.get("on") else editor.unpin)(str(order.get("lane"))),
    "oversubscribe": lambda editor, order: editor.oversubscribe(bool(order.get("on"))),
    "recall": lambda editor, order: editor.recall(order.get("past", 0)),
    "propose": lambda editor, _: editor.propose(),
    "cancel": lambda editor, _: editor.cancel(),
    "undo": lambda editor, _: editor.undo(),
    "redo": lambda editor, _: editor.redo(),
    "reset": lambda editor, _: editor.reset(),
}
_BESIDE: Mapping[str, _Do] = {  # they take time
    "apply": lambda editor, _: editor.apply(),
    "measure": lambda editor, _: editor.measure(),
    "take": lambda editor, order: editor.take(order.get("offered", -1)),
}
