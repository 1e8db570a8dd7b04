"""What happened in one stage of a run: who was asked, how many rows came and left, how long it took. Plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from esen_lab.common.units import format_percent, format_seconds
from esen_lab.planner.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class StageReport:
    """One stage of a run; times in seconds since the batch was handed over.

    Attributes:
        names: The sub-models that were asked.
        rows: How many rows came to it; 0: nobody was left, and its lanes were not woken.
        left: How many left after it, answered; all that came, after the last stage.
        of: How many rows the batch has.
        ran: How many rows its lanes ran: `rows`, filled up to one of few sizes.
        start_s: When its rows were known.
        end_s: When it was known who leaves.
        decide_s: The part of that time in which its answers were combined and it was decided who leaves.
        predicted_reach: The fraction of inputs that the plan expected here, 0 to 1.
        predicted_s: How long the plan says it takes for a whole batch, or None.
        threshold: The confidence at which a row left; None after the last stage.
    """

    names: tuple[str, ...]
    rows: int
    left: int
    of: int
    ran: int
    start_s: float
    end_s: float
    decide_s: float
    predicted_reach: float
    predicted_s: float | None = None
    threshold: float | None = None

    @classmethod
    def of_plan(cls, plan: Plan, number: int, **happened: Any) -> StageReport:
        """A stage of a plan, with what the plan says of it.

        Args:
            plan: The plan.
            number: Which of its stages, from 0.
            **happened: The other fields.
        """
        return cls(
            predicted_reach=plan.reach[number],
            predicted_s=plan.stage_s(number),
            threshold=plan.thresholds[number] if number < len(plan.thresholds) else None,
            **happened,
        )

    @property
    def reach(self) -> float:
        """The fraction of the batch that came to it, 0 to 1."""
        return self.rows / self.of if self.of else 0.0

    @property
    def duration_s(self) -> float:
        """How long it took, deciding included."""
        return self.end_s - self.start_s

    @property
    def cells(self) -> dict[str, str]:
        """What tables show of it, by column."""
        asleep = not self.rows
        return {
            "asked": " + ".join(self.names),
            "rows came": f"{self.rows} of {self.of} ({format_percent(self.reach)})",
            "planned": format_percent(self.predicted_reach),
            "left": "-" if asleep else f"{self.left} ({format_percent(self.left / self.rows)})",
            "time": "not woken" if asleep else format_seconds(self.duration_s),
        }


def stages_line(stages: Sequence[StageReport]) -> str:
    """How many rows left where, in one line; "" without stages."""
    if not stages:
        return ""
    told = []
    for number, stage in enumerate(stages, start=1):
        if not stage.rows:
            told.append(f"stage {number} not woken")
            continue
        ahead = stages[number].predicted_reach if number < len(stages) else 0.0
        share = format_percent(stage.left / stage.of if stage.of else 0.0)
        planned = format_percent(max(0.0, stage.predicted_reach - ahead))
        told.append(
            f"stage {number} answered {stage.left} of {stage.of} rows ({share}, planned {planned}) "
            f"in {format_seconds(stage.duration_s)}"
        )
    return "; ".join(told) + "."
