"""Tune a plan by hand: move shares and sub-models, see the predicted JCT at once, let the search fill in the rest.

draft.py    the nouns: a draft of lanes, and what it promises
moves.py    the verbs: draft in, draft out, each a pure function
state.py    all there is to show at one moment
tuning.py   `Tuning`: the one shared object, with undo, search, apply and measure; safe from any thread
"""

from esen_lab.tuning.draft import Draft, DraftLane, Forecast, forecast
from esen_lab.tuning.state import Measured, TunedLane, TuningState
from esen_lab.tuning.tuning import Bench, Tuning

__all__ = [
    "Bench",
    "Draft",
    "DraftLane",
    "Forecast",
    "Measured",
    "TunedLane",
    "Tuning",
    "TuningState",
    "forecast",
]
