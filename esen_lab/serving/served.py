"""What is served, as the server sees it: something that runs one batch at a time and starts anew what has ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from esen_lab.common.trees import Tree
from esen_lab.ensemble import Ensemble
from esen_lab.planner.plan import Plan
from esen_lab.run.options import RunOptions
from esen_lab.run.report import RunReport

RUN_TIMEOUT_S = 60.0
"""How long a batch may take before its lanes are taken to hang: they are ended, and started anew."""
_PLAIN_RUN = RunOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedBatch:
    """What a batch is run with.

    Attributes:
        deadline_s: Seconds from now after which the answer is made of the members that are done; None: of all.
        at_least: How many of them it needs then.
        trial: Whether nobody asked for it: it prepares something, and is no run that anybody is shown.
    """

    deadline_s: float | None = None
    at_least: int | None = None
    trial: bool = False

    @property
    def options(self) -> RunOptions:
        """The same as the options of a run."""
        return _PLAIN_RUN if self.at_least is None else RunOptions(deadline_s=self.deadline_s, at_least=self.at_least)


PLAIN = AskedBatch()
TRIAL = AskedBatch(trial=True)


class Served(Protocol):
    """A lab, or an exported folder that runs. All methods are called by one thread; any may ask for `stands_for`."""

    @property
    def ensemble(self) -> Ensemble:
        """Its sub-models and combine rule."""

    @property
    def stands_for(self) -> tuple[object, ...]:
        """What says what is answered, and how: other objects once that is something else."""

    @property
    def plan(self) -> Plan:
        """By which it runs."""

    @property
    def begins_anew(self) -> bool:
        """Whether a member keeps state or draws random numbers."""

    @property
    def fallen_back(self) -> tuple[str, ...]:
        """The sub-models that are not executed as the plan says."""

    def run(self, x: Tree, asked: AskedBatch) -> tuple[Tree, RunReport | None]:
        """The answer, and what happened.

        Raises:
            EsenError: There is none.
        """

    def mend(self) -> bool:
        """Have all lanes warm: start anew what has ended. Whether anything had since this was last asked, also in runs.

        Raises:
            EsenError: A lane could not be started.
        """

    def close(self) -> None:
        """Let go of what it started for the server."""
