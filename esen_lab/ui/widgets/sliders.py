"""The sliders of `%esen tune`, for those who like numbers: ipywidgets over the plan editor that the board shows too.

What a user moved may be on its way while lanes merge or part. So a row of widgets is of the same sub-models as long as
it lives: a value that comes for lanes that are no more moves nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from esen_lab.common.units import format_percent, format_seconds, format_units
from esen_lab.ui import views
from esen_lab.ui.markup import Markup, element, joined, text
from esen_lab.ui.widgets.panel import EditorPanel, Shows, close_all, red

if TYPE_CHECKING:
    from esen_lab.planner.editor import EditorState, PlanEditor

_SHARE = "the share of this lane"
_PIN = "keep this share, whatever else moves and whatever is proposed"
_UNPIN = "let other moves and proposals change this share again"


class _LaneRow:
    """One lane: its slider, its pin, its members and their time, and why it could not be moved."""

    def __init__(self, members: tuple[str, ...], units: int) -> None:
        wide = widgets.Layout(width="270px")
        self.slider = widgets.IntSlider(value=1, min=1, max=units, tooltip=_SHARE, layout=wide)
        self.pin = widgets.ToggleButton(
            value=False, description="pin", tooltip=_PIN, layout=widgets.Layout(width="56px")
        )
        self.words, self.why = Shows(), Shows()
        # In a narrow page what a lane runs stands below its slider.
        row = widgets.Layout(flex_flow="row wrap")
        self.box = widgets.VBox([widgets.HBox([self.slider, self.pin, self.words], layout=row), self.why])
        self.members = members
        self.most_units = units
        self.told = ""


class SliderPanel(EditorPanel):
    """A panel over a plan editor."""

    def __init__(self, editor: PlanEditor) -> None:
        super().__init__(editor)
        state = editor.state
        self._units = state.units
        self._unit = state.unit
        self._rows: list[_LaneRow] = []
        self.figures, self.message, self.why = Shows(), Shows(), Shows()
        small = widgets.Layout(width="96px")
        self.over = widgets.Checkbox(
            description="lanes may sum to more than the device",
            tooltip="predicted as if lanes did not disturb each other",
            indent=False,
            layout=widgets.Layout(width="300px"),
        )
        self.path = widgets.Text(value="plan.json", layout=widgets.Layout(width="190px"), tooltip="where it is written")
        self.buttons = {
            name: widgets.Button(description=name.capitalize(), tooltip=tooltip, layout=small)
            for name, tooltip in (
                ("save", "write the plan as JSON"),
                ("export", "write the plan as a script (PATH.py)"),
            )
        }
        self._lanes = widgets.VBox()
        keep = [self.path, self.buttons["save"], self.buttons["export"]]
        self.box = widgets.VBox(
            [
                self.figures,
                self.message,
                self._lanes,
                self.over,
                widgets.HBox(keep, layout=widgets.Layout(flex_flow="row wrap")),
                self.why,
            ]
        )
        self._connect()
        self._follow()

    # --- from the user -------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        editor = self._editor
        self.over.observe(lambda change: self._users(lambda: editor.oversubscribe(change["new"])), names="value")
        slow: dict[str, Callable[[], Any]] = {
            "save": lambda: editor.save(self.path.value),
            "export": lambda: editor.export(self.path.value.removesuffix(".json").removesuffix(".py") + ".py"),
        }
        for name, act in slow.items():
            self.buttons[name].on_click(lambda _, act=act: self._acts.beside(act))

    def _row(self, members: tuple[str, ...]) -> _LaneRow:
        row = _LaneRow(members, self._units)
        row.slider.observe(lambda change: self._moved(row, change["new"]), names="value")
        row.pin.observe(lambda change: self._pinned(row, change["new"]), names="value")
        return row

    def _moved(self, row: _LaneRow, units: int) -> None:
        members, most = row.members, row.most_units
        held = min(units, most)  # what there is no room for is held at the most there is, and that is said
        told = _at_most(most, self._unit) if units > most else ""
        # One slider's moves in a row are one step of undo.
        gesture = (id(self), members)
        self._users(lambda: self._editor.share({members[0]: held}, gesture=gesture), row, told)

    def _pinned(self, row: _LaneRow, pinned: bool) -> None:
        name = row.members[0]
        self._users(lambda: self._editor.pin(name) if pinned else self._editor.unpin(name), row)

    def _tell(self, where: _LaneRow | None, told: str) -> bool:
        if where is not None and where not in self._rows:  # its lane is no more
            return False
        for row in self._rows:
            row.told = ""
        self._told = told if where is None else ""
        if where is not None:
            where.told = told
        return True

    # --- to the user ---------------------------------------------------------------------------------------------

    def _draw(self, state: EditorState) -> None:
        self.figures.show(_figures(state))  # first: it is what whoever moves a slider looks at
        known = {row.members: row for row in self._rows}
        self._rows = [
            known.pop(lane.members) if lane.members in known else self._row(lane.members) for lane in state.lanes
        ]
        for number, (row, lane) in enumerate(zip(self._rows, state.lanes, strict=True), 1):
            share = views.share(lane.units, state.units, state.unit)
            row.most_units = lane.most_units
            row.slider.description = f"lane {number}"
            row.slider.value = lane.units
            row.slider.disabled = lane.pinned or bool(state.stuck)
            row.pin.value = lane.pinned
            row.pin.tooltip = _UNPIN if lane.pinned else _PIN
            limits = " ← limits" if number - 1 == state.limiting else ""
            members = element("b", " → ".join(lane.members))
            row.words.show(joined([f"{share}: ", members, f" {lane.predicted_text}{limits}"]))
            row.why.show(red(row.told))
        shown = tuple(row.box for row in self._rows)
        if self._lanes.children != shown:
            self._lanes.children = shown
        for gone in known.values():
            close_all(gone.box)
        self.over.value = state.oversubscribe
        self.why.show(red(self._told))
        notes = [*views.editor_notes(state), *([state.stuck] if state.stuck else [])]
        self.message.show(red(" ".join(notes)) if state.failed else " ".join(notes).replace("`", ""))
        self.buttons["export"].disabled = not state.can_apply


def _at_most(units: int, unit: str) -> str:
    return f"At most {format_units(units, unit)}: pinned lanes keep their share, every other lane at least 1."


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
