"""CHOOSE: which sub-models share a lane, and how many units each lane gets, so that the slowest lane is done first.

`allocate` plans from bare latency tables; `search` from cost models. Around them: `SearchJob` (in the background),
`next_points` (which shares to measure), `refine` (again, after running the plan), `member_front` (which members at
all), `place` (several devices) and `cascade` (some members first). All need neither a device nor torch.
"""

from __future__ import annotations

from esen_lab.search.adaptive import NextPoints, next_points
from esen_lab.search.allocate import SEARCHERS, Measure, allocate, make_searcher, search, searcher_options
from esen_lab.search.allocation import Allocation
from esen_lab.search.cascade import Cascade, Stage, cascade, check_threshold, still_open, with_reach
from esen_lab.search.job import SearchJob
from esen_lab.search.limits import UNLIMITED, Limits
from esen_lab.search.members import Choice, Front, accuracy_of, member_front
from esen_lab.search.placement import DeviceTables, Placement, place
from esen_lab.search.problem import Table
from esen_lab.search.refine import Measured, Refinement, refine
from esen_lab.search.watch import Progress

__all__ = [
    "SEARCHERS",
    "UNLIMITED",
    "Allocation",
    "Cascade",
    "Choice",
    "DeviceTables",
    "Front",
    "Limits",
    "Measure",
    "Measured",
    "NextPoints",
    "Placement",
    "Progress",
    "Refinement",
    "SearchJob",
    "Stage",
    "Table",
    "accuracy_of",
    "allocate",
    "cascade",
    "check_threshold",
    "make_searcher",
    "member_front",
    "next_points",
    "place",
    "refine",
    "search",
    "searcher_options",
    "still_open",
    "with_reach",
]
