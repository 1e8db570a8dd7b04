"""The sliders of `%esen tune`: the only file that imports ipywidgets.

A panel shows the lab's one plan editor and moves it; panels know nothing of each other and stay in step through it.
What bites, and what is done about it:

    1. Callbacks come from any thread, and may come only after a busy cell: nothing here waits for one, and what takes
       time (search, apply, measure, export) runs beside the callback, in a thread of its own.
    2. Setting a widget from here calls its observers too: `_showing` tells such an echo from a user's move. It is read
       and written under the panel's lock.
    3. The editor is never called with the panel's lock held: it tells all panels, each of which takes its own.
    4. States may overtake each other on their way here: an older one than is shown is dropped.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from esen_lab.common.locks import Lock
from esen_lab.common.units import format_percent, format_seconds
from esen_lab.errors import EsenError
from esen_lab.terminal import visible_line
from esen_lab.ui import views
from esen_lab.ui.markup import Markup, element, joined, text
from esen_lab.ui.pictures import as_image, draw

if TYPE_CHECKING:
    from esen_lab.planner.editor import EditorState, PlanEditor

ALONE = "a lane of its own"


class Shows(widgets.HTML):  # type: ignore[misc]  # ipywidgets publishes no types
    """A widget that shows markup; ordinary text is escaped on its way in."""

    def show(self, what: str) -> None:
        """Show `what`: markup as it is, anything else as text."""
        self.value = str(text(what))


class _LaneRow:
    """One lane: its slider, its pin, its members and their time."""

    def __init__(self, units: int) -> None:
        wide = widgets.Layout(width="270px")
        self.slider = widgets.IntSlider(value=1, min=1, max=units, layout=wide)
        self.pin = widgets.ToggleButton(value=False, description="pin", layout=widgets.Layout(width="56px"))
        self.words = Shows()
        self.box = widgets.HBox([self.slider, self.pin, self.words])
        self.members: tuple[str, ...] = ()


class SliderPanel:
    """A panel over a plan editor. `box` is the widget; `close` ends it."""

    def __init__(self, editor: PlanEditor) -> None:
        self._editor = editor
        self._lock = Lock()
        self._showing = False
        self._revision = -1
        self._threads: list[threading.Thread] = []
        state = editor.state
        self._units = state.units
        self._rows: list[_LaneRow] = []
        self.figures, self.picture, self.message = Shows(), Shows(), Shows()
        small, wide = widgets.Layout(width="96px"), widgets.Layout(width="190px")
        self.member = widgets.Dropdown(layout=wide)
        self.target = widgets.Dropdown(layout=wide)
        self.first, self.second = widgets.Dropdown(layout=wide), widgets.Dropdown(layout=wide)
        self.over = widgets.Checkbox(
            description="lanes may sum to more than the device", indent=False, layout=widgets.Layout(width="300px")
        )
        self.path = widgets.Text(value="plan.json", layout=wide)
        self.buttons = {
            name: widgets.Button(description=name.capitalize(), tooltip=tooltip, layout=small)
            for name, tooltip in (
                ("propose", "search for the best lanes; pinned ones keep their share"),
                ("cancel", "stop the search"),
                ("apply", "put these lanes in force: they start, then the old ones end"),
                ("measure", "apply, and run the example input"),
                ("undo", "take the last move back"),
                ("redo", "make it again"),
                ("reset", "back to the plan in force"),
                ("move", "put the sub-model there"),
                ("merge", "make one lane of the two"),
                ("save", "write the plan as JSON"),
                ("export", "write the plan as a script (PATH.py)"),
            )
        }
        button = self.buttons
        self._lanes = widgets.VBox()
        self.box = widgets.VBox(
            [
                self.figures,
                self._lanes,
                self.picture,
                widgets.HBox([button[name] for name in ("propose", "cancel", "apply", "measure")]),
                widgets.HBox([button[name] for name in ("undo", "redo", "reset")]),
                widgets.HBox([widgets.Label("move"), self.member, widgets.Label("to"), self.target, button["move"]]),
                widgets.HBox([widgets.Label("merge"), self.first, widgets.Label("and"), self.second, button["merge"]]),
                self.over,
                widgets.HBox([self.path, button["save"], button["export"]]),
                self.message,
            ]
        )
        self._connect()
        self._stop = editor.listen(self._show)
        self._show(editor.state)

    # --- from the user -------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        editor = self._editor
        self.over.observe(lambda change: self._users(lambda: editor.oversubscribe(change["new"])), names="value")
        acts: dict[str, Callable[[], Any]] = {
            "propose": editor.propose,
            "cancel": editor.cancel,
            "undo": editor.undo,
            "redo": editor.redo,
            "reset": editor.reset,
            "move": self._move_member,
            "merge": lambda: editor.merge(self.first.value, self.second.value),
        }
        slow: dict[str, Callable[[], Any]] = {
            "apply": editor.apply,
            "measure": editor.measure,
            "save": lambda: editor.save(self.path.value),
            "export": lambda: editor.export(self.path.value.removesuffix(".json").removesuffix(".py") + ".py"),
        }
        for name, act in acts.items():
            self.buttons[name].on_click(lambda _, act=act: self._users(act))
        for name, act in slow.items():
            self.buttons[name].on_click(lambda _, act=act: self._beside(act))

    def _add_row(self) -> None:
        row = _LaneRow(self._units)
        row.slider.observe(lambda change: self._moved(row, change["new"]), names="value")
        row.pin.observe(lambda change: self._pinned(row, change["new"]), names="value")
        self._rows.append(row)

    def _moved(self, row: _LaneRow, units: int) -> None:
        members = row.members
        # One slider's moves in a row are one step of undo.
        self._users(lambda: self._editor.share({members[0]: units}, gesture=(id(self), members)))

    def _pinned(self, row: _LaneRow, pinned: bool) -> None:
        name = row.members[0]
        self._users(lambda: self._editor.pin(name) if pinned else self._editor.unpin(name))

    def _move_member(self) -> None:
        target = self.target.value
        self._editor.move(self.member.value, None if target == ALONE else target)

    def _users(self, act: Callable[[], Any]) -> None:
        """Do what a user asked for; what cannot be is said, and the widgets show again what is."""
        with self._lock:
            if self._showing:  # an echo, in the thread that shows: nobody else gets in here meanwhile
                return
        try:
            act()
        except EsenError as problem:
            state = self._editor.state
            if not (state.failed and problem.rule in state.message):  # else all panels say it already, and more
                self._say(str(problem))

    def _beside(self, act: Callable[[], Any]) -> None:
        thread = threading.Thread(target=self._users, args=(act,), name="esen-tune", daemon=True)
        with self._lock:
            self._threads = [*(t for t in self._threads if t.is_alive()), thread]
            thread.start()

    def _say(self, problem: str) -> None:
        self._show(self._editor.state, again=True)
        with self._lock:
            self.message.show(_red(problem))

    # --- to the user ---------------------------------------------------------------------------------------------

    def _show(self, state: EditorState, *, again: bool = False) -> None:
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

    def _draw(self, state: EditorState) -> None:
        self.figures.show(_figures(state))  # first: it is what whoever moves a slider looks at
        while len(self._rows) < len(state.lanes):
            self._add_row()
        for number, (row, lane) in enumerate(zip(self._rows, state.lanes, strict=False), 1):
            share = views.share(lane.units, state.units, state.unit)
            row.members = lane.members
            row.slider.description = f"lane {number}"
            row.slider.value = lane.units
            row.slider.disabled = lane.pinned
            row.pin.value = lane.pinned
            limits = " ← limits" if number - 1 == state.limiting else ""
            members = element("b", " → ".join(lane.members))
            row.words.show(joined([f"{share}: ", members, f" {lane.predicted_text}{limits}"]))
        shown = tuple(row.box for row in self._rows[: len(state.lanes)])
        if self._lanes.children != shown:
            self._lanes.children = shown
        lanes = [(f"lane {n}: {' → '.join(lane.members)}", str(n)) for n, lane in enumerate(state.lanes, 1)]
        _offer(self.member, [(name, name) for lane in state.lanes for name in lane.members])
        _offer(self.target, [*lanes, (ALONE, ALONE)])
        _offer(self.first, lanes)
        _offer(self.second, lanes[1:] or lanes)
        self.over.value = state.oversubscribe
        self.picture.show(as_image(draw(views.editor_picture(state))))
        notes = views.editor_notes(state)
        self.message.show(_red(" ".join(notes)) if state.failed else " ".join(notes).replace("`", ""))
        busy, searching = bool(state.doing), state.searching is not None
        disabled = {
            "propose": searching,
            "cancel": not searching,
            "apply": busy or not state.can_apply or state.in_force,
            "measure": busy or not state.can_apply,
            "undo": not state.can_undo,
            "redo": not state.can_redo,
            "merge": len(state.lanes) < 2,
            "export": not state.can_apply,
        }
        for name, off in disabled.items():
            self.buttons[name].disabled = off

    def close(self, timeout_s: float = 2.0) -> None:
        """Stop following, and take the widgets away. What a button started is waited for, a little. Idempotent."""
        self._stop()
        with self._lock:
            threads, self._threads = self._threads, []
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(timeout_s)
        for row in self._rows:  # those of lanes that were merged away are not in the box
            _close(row.box)
        _close(self.box)


def _figures(state: EditorState) -> Markup:
    over = state.total_units - state.units
    whole = f"{state.total_units} of {views.share(state.units, state.units, state.unit)}"
    parts = [
        element("b", f"predicted JCT {state.predicted_text}"),
        f"bound {format_seconds(state.bound_s)}",
        f"gap {format_percent(state.gap)}",
        f"limiting: lane {state.limiting + 1}",
        joined([whole, ", ", element("b", f"{over} too many")]) if over > 0 else whole,
        "in force" if state.in_force else "not in force" if state.can_apply else "",
    ]
    told = [joined([part for part in parts if part], " · ")]
    if state.measured is not None:
        told.append(text(f"measured JCT {views.measured_text(state.measured, state.describe())}"))
    return element("span", joined(told, element("br")), class_="esen-tuning")


def _offer(choice: Any, options: list[tuple[str, str]]) -> None:
    """Set a drop-down's options; what is chosen stays chosen where it is still there."""
    options = [(visible_line(label), value) for label, value in options]
    if tuple(choice.options) == tuple(options):
        return
    before, values = choice.value, [value for _, value in options]
    choice.options = options
    choice.value = before if before in values else values[0]


def _red(told: str) -> Markup:
    return element("span", told, style="color:#D55E00")


def _close(widget: Any) -> None:
    for child in getattr(widget, "children", ()):
        _close(child)
    widget.close()
