"""RUN A PLAN: the executor, the report of a run, the comparison of plans."""

from __future__ import annotations

from esen_lab.lanes import ForkServer  # whoever runs plans keeps one, and gives it to everything that starts lanes
from esen_lab.lanes.settings import Settings, Switched
from esen_lab.run.answered import Answered, Missing, Worth
from esen_lab.run.at_once import at_once
from esen_lab.run.baselines import STRATEGIES
from esen_lab.run.comparison import Comparison, Row
from esen_lab.run.deadline import Deadline
from esen_lab.run.executor import Executor
from esen_lab.run.in_pairs import in_pairs
from esen_lab.run.in_place import CombineInPlace, LaneInPlace
from esen_lab.run.options import RunOptions
from esen_lab.run.outcome import MemberRun, Run
from esen_lab.run.peers import PEERS, peer_of, peers_here
from esen_lab.run.reference_answers import NotebookAnswers
from esen_lab.run.report import LaneReport, RunReport, Span
from esen_lab.run.side_by_side import compare
from esen_lab.run.stages_in_place import StagesInPlace
from esen_lab.run.turns import Turns
from esen_lab.run.uncertainty import Uncertain

__all__ = [
    "PEERS",
    "STRATEGIES",
    "Answered",
    "CombineInPlace",
    "Comparison",
    "Deadline",
    "Executor",
    "ForkServer",
    "LaneInPlace",
    "LaneReport",
    "MemberRun",
    "Missing",
    "NotebookAnswers",
    "Row",
    "Run",
    "RunOptions",
    "RunReport",
    "Settings",
    "Span",
    "StagesInPlace",
    "Switched",
    "Turns",
    "Uncertain",
    "Worth",
    "at_once",
    "compare",
    "in_pairs",
    "peer_of",
    "peers_here",
]
