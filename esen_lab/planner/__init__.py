"""CHOOSE: which sub-models share a lane, and how many units each lane gets, so that the slowest lane is done first.

`allocate` plans from bare latency tables; `search` from cost models. Around them: `SearchJob` (in the background),
`next_points` (which shares to measure) and `refine` (again, after running the plan). All need neither a device nor
torch.
"""

from __future__ import annotations

from esen_lab.planner.adaptive import NextPoints, next_points
from esen_lab.planner.allocate import SEARCHERS, Measure, allocate, make_searcher, search, searcher_options
from esen_lab.planner.allocation import Allocation
from esen_lab.planner.limits import UNLIMITED, Limits
from esen_lab.planner.problem import Table
from esen_lab.planner.refine import Refinement, Round, refine
from esen_lab.planner.search_job import SearchJob
from esen_lab.planner.search_state import SearchProgress

__all__ = [
    "SEARCHERS",
    "UNLIMITED",
    "Allocation",
    "Limits",
    "Measure",
    "NextPoints",
    "Refinement",
    "Round",
    "SearchJob",
    "SearchProgress",
    "Table",
    "allocate",
    "make_searcher",
    "next_points",
    "refine",
    "search",
    "searcher_options",
]
