"""Edit a plan by hand: move shares and sub-models, see the predicted JCT at once, let the search fill in the rest.

draft.py        the nouns: a draft of lanes, and what it promises
moves.py        the verbs: draft in, draft out, each a pure function
undo.py         a draft and the moves that led to it: undo, redo
predictions.py  what cost models say of a draft
beside.py       what an editor needs of a lab: the last run, past plans, other choices of members
editor_state.py all there is to show at one moment
draft_editor.py `DraftEditor`: the draft as it is moved, undone, and predicted; safe from any thread
editor.py       `PlanEditor`: the one shared object: that, with search, apply, measure, save
"""

from esen_lab.planner.editor.beside import Bench, LastRun, Offered, PastPlan
from esen_lab.planner.editor.draft import Draft, DraftLane, Forecast, forecast
from esen_lab.planner.editor.editor import PlanEditor
from esen_lab.planner.editor.editor_state import EditedLane, EditorState, Measurement

__all__ = [
    "Bench",
    "Draft",
    "DraftLane",
    "EditedLane",
    "EditorState",
    "Forecast",
    "LastRun",
    "Measurement",
    "Offered",
    "PastPlan",
    "PlanEditor",
    "forecast",
]
