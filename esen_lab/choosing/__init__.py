"""CHOOSE WITH MORE THAN TABLES: searches that need the ensemble itself, its measured memory, or its warm lanes.

`search/` decides from numbers alone and needs neither torch nor a device; this part brings it the numbers.
"""

from __future__ import annotations

from esen_lab.choosing.limits import with_memory
from esen_lab.choosing.plans import plan_of_allocation
from esen_lab.choosing.runs import LaneRuns, measured_defaults

__all__ = ["LaneRuns", "measured_defaults", "plan_of_allocation", "with_memory"]
