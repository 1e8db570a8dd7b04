"""CHOOSE WITH MORE THAN TABLES: searches that need the ensemble itself, its measured memory, or its warm lanes.

`planner/` decides from numbers alone and needs neither torch nor a device; this part brings it the numbers.
"""

from __future__ import annotations

from esen_lab.planner.refine import Round
from esen_lab.studies.adaptive_profiling import AdaptiveProfileJob
from esen_lab.studies.groups_and_parts import Candidates, DerivedPoints, candidates, measured_sets, measured_splits
from esen_lab.studies.lane_runs import LaneRuns, measured_defaults
from esen_lab.studies.members import (
    cascade_of_members,
    device_tables,
    front_of_members,
    placed,
    plan_of_cascade,
    plan_of_choice,
    plan_of_placement,
    replicated,
)
from esen_lab.studies.memory_limits import with_memory
from esen_lab.studies.other_backends import executed
from esen_lab.studies.placed_stages import place_stages, plan_of_stages
from esen_lab.studies.precision import check_precision
from esen_lab.studies.precision_table import PrecisionTable
from esen_lab.studies.refinement import Refined, refine_plan
from esen_lab.studies.validated import Validated
from esen_lab.studies.validation import Answers, answers, labels_of, samples_of

__all__ = [
    "AdaptiveProfileJob",
    "Answers",
    "Candidates",
    "DerivedPoints",
    "LaneRuns",
    "PrecisionTable",
    "Refined",
    "Round",
    "Validated",
    "answers",
    "candidates",
    "cascade_of_members",
    "check_precision",
    "device_tables",
    "executed",
    "front_of_members",
    "labels_of",
    "measured_defaults",
    "measured_sets",
    "measured_splits",
    "place_stages",
    "placed",
    "plan_of_cascade",
    "plan_of_choice",
    "plan_of_placement",
    "plan_of_stages",
    "refine_plan",
    "replicated",
    "samples_of",
    "with_memory",
]
