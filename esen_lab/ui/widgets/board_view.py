"""What the board shows, as plain data for the page: cost models once, and the state of the editor at each change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from esen_lab.terminal import visible_line
from esen_lab.ui import views
from esen_lab.ui.colours import COLOURS, ink_on
from esen_lab.ui.markup import directed

if TYPE_CHECKING:
    from esen_lab.planner.editor import EditorState, LastRun, Offered, PastPlan, PlanEditor


def models_data(models: Mapping[str, Any], units: int, unit: str) -> dict[str, Any]:
    """What the page predicts from.

    Args:
        models: The cost models (`CostModel`), by step.
        units: Units of the device.
        unit: What a unit is called.

    Returns:
        {"units", "unit", "models": [{"name", "label", "seconds" at 1..units units, "words": what predictions without a
        measurement nearby are called, "ways": backends, "avoid": shares, "colour", "ink"}]}
    """
    known = [
        {
            "name": name,
            "label": directed(visible_line(name)),
            "seconds": list(model.latency_s[:units]),
            "words": [model.unmeasured(share) for share in range(1, units + 1)],
            "ways": [model.backend(share) for share in range(1, units + 1)],
            "avoid": list(model.avoid),
            "colour": COLOURS.of(name),
            "ink": ink_on(COLOURS.of(name)),
        }
        for name, model in models.items()
    ]
    return {"units": units, "unit": visible_line(unit), "models": known}


def view_data(editor: PlanEditor, state: EditorState) -> dict[str, Any]:
    """All else that the page shows at one moment."""
    measured = state.measured
    notes = [note.replace("`", "") for note in views.editor_notes(state)]
    return {
        "lanes": [{"units": lane.units, "members": list(lane.members), "pinned": lane.pinned} for lane in state.lanes],
        "oversubscribe": state.oversubscribe,
        "proven_s": state.proven_s,
        "in_force": state.in_force,
        "can_apply": state.can_apply,
        "can_undo": state.can_undo,
        "can_redo": state.can_redo,
        "searching": state.searching is not None,
        "doing": state.doing,
        "stuck": visible_line(state.stuck),
        "notes": [visible_line(note) for note in notes],
        "failed": state.failed,
        "measured": "" if measured is None else visible_line(views.measured_text(measured, state.describe())),
        "ran": _ran(editor.ran()),
        "past": [_past(past) for past in editor.past],
        "offered": [_offered(offered) for offered in editor.offered],
    }


def _ran(ran: LastRun | None) -> dict[str, Any] | None:
    if ran is None:
        return None
    return {"jct_s": ran.jct_s, "lanes": _lanes(ran.lanes), "spans": [list(span) for span in ran.spans]}


def _past(past: PastPlan) -> dict[str, Any]:
    return {
        "number": past.number,
        "lanes": _lanes(past.lanes),
        "described": directed(visible_line(past.described)),
        "predicted_s": past.predicted_s,
        "measured_s": past.measured_s,
        "in_force": past.in_force,
    }


def _offered(offered: Offered) -> dict[str, Any]:
    return {
        "number": offered.number,
        "members": directed(visible_line(", ".join(offered.members))),
        "jct_s": offered.jct_s,
        "accuracy": offered.accuracy,
        "in_force": offered.in_force,
    }


def _lanes(lanes: Any) -> list[dict[str, Any]]:
    return [{"units": units, "members": list(members)} for units, members in lanes]
