"""A plan against the ways ensembles run today, as records; `side_by_side.py` makes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from esen_lab.common.display import Shown
from esen_lab.common.records import to_dict, to_frame
from esen_lab.common.units import format_percent, format_seconds, format_table, with_marks
from esen_lab.common.words import unknown
from esen_lab.errors import UsageError
from esen_lab.planner.plan import Plan

CHOSEN = "plan"
"""The name of the chosen plan among strategies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One strategy.

    Attributes:
        strategy: Its name; "plan" is the chosen plan.
        lanes: Its lanes and shares, for people.
        median_s: Median JCT in seconds; NaN when it failed.
        spread_s: Interquartile range of the JCT in seconds.
        ratio_to: Median over rounds of this JCT / the other strategy's JCT in the same round. Below 1: faster. Absent
            for strategies that were never in the same round.
        ratio_to_bound: Median JCT / the proven bound of the plan, or None.
        agreement: How the outputs compare with the sequential reference, for people.
        max_abs_diff: Largest absolute difference of any sub-model's output or the combined one; NaN when it failed.
        agrees: Whether the differences are within what a different order of summation explains.
        failed: Why it could not run, or "".
        applicable: Whether this way to run ensembles exists for this one; else `failed` says why not.
        times_s: The JCT of every round.
        setting: Of a peer (see `peers.py`): by what it runs, of which version, and how it was set.
        fallen_back: Sub-models that run eagerly although the strategy says otherwise, each with a sentence why.
        same_class: Of a plan in stages: the fraction of rows in the class that all members give, 0 to 1; else None.
        accuracy: The fraction of rows in their right class, where labels were given.
    """

    strategy: str
    lanes: str
    median_s: float
    spread_s: float
    ratio_to: Mapping[str, float] = field(default_factory=dict)
    ratio_to_bound: float | None = None
    agreement: str = ""
    max_abs_diff: float = math.nan
    agrees: bool = False
    failed: str = ""
    applicable: bool = True
    times_s: tuple[float, ...] = ()
    setting: str = ""
    fallen_back: Mapping[str, str] = field(default_factory=dict)
    same_class: float | None = None
    accuracy: float | None = None

    @property
    def unsteady(self) -> bool:
        """Whether the JCT spreads by more than its median: nothing can be told by it."""
        return self.spread_s > self.median_s

    @property
    def outputs(self) -> str:
        """How its outputs compare, or that there are none."""
        if not self.failed:
            right = "" if self.accuracy is None else f", accuracy {format_percent(self.accuracy)}"
            return f"{self.agreement}{right}"
        return "failed" if self.applicable else "not applicable"

    @property
    def _how(self) -> str:
        how = self.setting or self.lanes
        return f"{how}, but eagerly: {', '.join(self.fallen_back)}" if self.fallen_back else how

    @property
    def cells(self) -> Mapping[str, str]:
        """What tables show of it, by column."""
        return {
            "strategy": self.strategy,
            "lanes": self._how,
            "JCT median": format_seconds(self.median_s),
            "spread": with_marks(format_seconds(self.spread_s), "unsteady" if self.unsteady else ""),
            "outputs": self.outputs,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison(Shown):
    """All strategies on one input.

    Attributes:
        rows: The reference first, the chosen plan last.
        rounds: How many rounds ran.
        verdict: Plainly, whether the plan wins.
        bound_s: The proven bound of the plan under its cost models, or None.
        predicted_s: The JCT that the plan predicted for this batch, or None.
        unmeasured: Of that prediction: see `Plan.unmeasured`.
        batch: What the input looked like.
        device: The device's name.
        notes: What else the reader should know.
        plans: By what plan each strategy ran that had one, with what was measured of it: see `plan_of`.
    """

    rows: tuple[Row, ...]
    rounds: int
    verdict: str
    bound_s: float | None = None
    predicted_s: float | None = None
    unmeasured: Mapping[str, str] = field(default_factory=dict)
    batch: str = ""
    device: str = ""
    notes: tuple[str, ...] = ()
    plans: Mapping[str, Plan] = field(default_factory=dict, repr=False)

    def row(self, strategy: str) -> Row:
        """The row of one strategy.

        Raises:
            UsageError: It was not compared.
        """
        for row in self.rows:
            if row.strategy == strategy:
                return row
        known = [row.strategy for row in self.rows]
        raise unknown("A comparison has rows for what was compared", strategy, known, given=strategy)

    def plan_of(self, strategy: str) -> Plan:
        """By what plan a strategy ran: put in force, the ensemble runs as that strategy did.

        Raises:
            UsageError: It was not compared, did not run, is a function of the user's own, or answers otherwise.
        """
        row = self.row(strategy)
        rule = "A strategy is put in force where it ran by a plan and answers as the sub-models one after another do"
        if row.failed:
            raise UsageError(rule, given=f"{strategy} did not run: {row.failed.rstrip('.')}")
        if strategy not in self.plans:
            raise UsageError(rule, given=f"{strategy}, a function of your own")
        if not row.agrees:
            raise UsageError(rule, given=f"{strategy}: {row.agreement}")
        return self.plans[strategy]

    def __str__(self) -> str:
        """The table and the verdict, for a terminal."""
        columns = ("strategy", "JCT median", "spread", "outputs")
        table = format_table(columns, [[row.cells[column] for column in columns] for row in self.rows])
        return "\n".join([table, self.verdict, *self.reasons, *self.settings, *self.notes])

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why strategies did not run, a sentence each."""
        return tuple(f"{row.strategy}: {row.failed.rstrip('.')}." for row in self.rows if row.failed)

    @property
    def settings(self) -> tuple[str, ...]:
        """How each peer was set, a sentence each."""
        return tuple(f"{row.strategy}: {row.setting}." for row in self.rows if row.setting)

    def to_frame(self) -> Any:
        """A pandas table with a row per strategy.

        Raises:
            UsageError: pandas is not installed.
        """
        kept = (
            "strategy",
            "lanes",
            "median_s",
            "spread_s",
            "ratio_to_bound",
            "agreement",
            "agrees",
            "same_class",
            "accuracy",
            "failed",
            "setting",
        )
        return to_frame(
            [
                {**{key: row[key] for key in kept}, **{f"ratio_to_{name}": r for name, r in row["ratio_to"].items()}}
                for row in self.to_dict()["rows"]
            ]
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data; absent figures are None. Without the plans, which are saved by themselves: `Plan.save`."""
        return {name: value for name, value in to_dict(self).items() if name != "plans"}
