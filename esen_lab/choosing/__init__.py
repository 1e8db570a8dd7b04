"""CHOOSE WITH MORE THAN TABLES: searches that need the ensemble itself, its measured memory, or its warm lanes.

`search/` decides from numbers alone and needs neither torch nor a device; this part brings it the numbers.
"""

from __future__ import annotations

from esen_lab.choosing.adaptive import AdaptiveProfileJob
from esen_lab.choosing.limits import with_memory
from esen_lab.choosing.members import (
    cascade_of_members,
    device_tables,
    front_of_members,
    plan_of_cascade,
    plan_of_choice,
    plan_of_placement,
)
from esen_lab.choosing.plans import executed, plan_of_allocation
from esen_lab.choosing.refining import Refined, Round, refine_plan
from esen_lab.choosing.runs import LaneRuns, measured_defaults
from esen_lab.choosing.validation import Answers, answers, labels_of

__all__ = [
    "AdaptiveProfileJob",
    "Answers",
    "LaneRuns",
    "Refined",
    "Round",
    "answers",
    "cascade_of_members",
    "device_tables",
    "executed",
    "front_of_members",
    "labels_of",
    "measured_defaults",
    "plan_of_allocation",
    "plan_of_cascade",
    "plan_of_choice",
    "plan_of_placement",
    "refine_plan",
    "with_memory",
]
