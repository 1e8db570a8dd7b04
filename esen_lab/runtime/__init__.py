"""RUN A PLAN: the executor, the report of a run, the comparison of plans."""

from __future__ import annotations

from esen_lab.runtime.comparison import Comparison, Row, compare
from esen_lab.runtime.executor import Executor
from esen_lab.runtime.report import LaneReport, RunReport, Span
from esen_lab.runtime.strategies import STRATEGIES
from esen_lab.workers import (
    Nursery,
)  # whoever runs plans keeps one, and gives it to everything that starts lanes

__all__ = [
    "STRATEGIES",
    "Comparison",
    "Executor",
    "LaneReport",
    "Nursery",
    "Row",
    "RunReport",
    "Span",
    "compare",
]
