"""What is said of a comparison: how answers agree, what times come to, and whether the plan wins."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from esen_lab.common.answers import Difference, difference, nan_told
from esen_lab.common.statistics import median_interval, spread
from esen_lab.common.surroundings import step
from esen_lab.common.units import format_change, format_percent, format_seconds, format_spread
from esen_lab.planner.plan import Plan
from esen_lab.run.comparison import CHOSEN, Row
from esen_lab.run.fidelity import Unlike
from esen_lab.run.outcome import MemberRun

Times: TypeAlias = "Mapping[str, list[float]]"
"""The JCTs of one group, in seconds: of every strategy one for each round."""

OTHER = "OTHER THAN THE NOTEBOOK"


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How the outputs of one strategy compare with those of the reference.

    Attributes:
        text: For people.
        apart: The largest absolute difference of any sub-model's output or the combined one.
        agrees: Whether rounding explains it; of a plan in stages, that of its members' answers.
        same_class: Of a plan in stages: the fraction of rows that are put into the class that all members give.
        accuracy: The fraction of rows in their right class, where that is known.
        unjudged: Of which answers nothing is said, a sentence each: there are no numbers to compare.
    """

    text: str
    apart: float
    agrees: bool
    same_class: float | None = None
    accuracy: float | None = None
    unjudged: tuple[str, ...] = ()


def agreement(run: MemberRun, reference: MemberRun, allowed: Callable[[str | None], Mapping[str, float]]) -> Agreement:
    """How the outputs of a run compare with those of the reference.

    Args:
        run: Of the strategy.
        reference: The same sub-models on the same input.
        allowed: For a sub-model, or None for the combined answer, what rounding explains: see `Fidelity.allowed`.
    """
    found: dict[str, Difference] = {"combined": difference(run.output, reference.output, allowed(None))}
    found |= {name: difference(run.members[name], tree, allowed(name)) for name, tree in reference.members.items()}
    name, worst = max(found.items(), key=lambda item: (not item[1].agrees, item[1].apart))
    apart = max(one.apart for one in found.values())
    if worst.agrees:
        told = f"within {apart:.1e}" if apart else "bit-equal"
        told += " (NaN in both)" if any(one.nan for one in found.values()) else ""
        unjudged = nan_told({name: one for name, one in found.items() if name != "combined" or len(found) == 1})
        return Agreement(text=told, apart=apart, agrees=True, unjudged=unjudged)
    told = f"{name}: {worst.why}" if worst.why else f"DIFFERS by {worst.apart:.1e} ({name})"
    return Agreement(text=told, apart=apart, agrees=False)


def of_cascade(members: Agreement, same: float | None) -> Agreement:
    """The agreement of a plan in stages: its combined answer is another one for whoever leaves early.

    Args:
        members: That of its members, asked for every row.
        same: See `Agreement.same_class`; None where answers are no classes.
    """
    if not members.agrees:
        return members
    told = "classes cannot be compared" if same is None else f"{format_percent(same)} of rows as all members (top-1)"
    return replace(members, text=told, same_class=same)


def beside_notebook(among_lanes: Agreement, others: Mapping[str, Unlike]) -> Agreement:
    """The agreement of lanes with the reference lane; with the notebook, where that answers something else.

    Args:
        among_lanes: With the reference.
        others: Sub-models whose lanes are not what the notebook is.
    """
    wrong = {item.name: item.found for item in others.values() if item.wrong and item.found is not None}
    if not wrong:
        return among_lanes
    name, worst = max(wrong.items(), key=lambda pair: pair[1].error)
    return Agreement(text=f"{OTHER} by {worst.amount} ({name})", apart=among_lanes.apart, agrees=False)


def ratios_of(name: str, other: str, measured: Sequence[Times]) -> list[float]:
    """JCT of one over that of another, for every round that both were in."""
    return [
        a / b
        for times in measured
        if name in times and other in times
        for a, b in zip(times[name], times[other], strict=True)
        if b > 0
    ]


def failed_row(name: str, why: str, *, applicable: bool) -> Row:
    """The row of a strategy that did not run."""
    return Row(strategy=name, lanes="-", median_s=math.nan, spread_s=math.nan, failed=why, applicable=applicable)


def row_of(
    name: str, lanes: str, measured: Sequence[Times], agreed: Agreement, bound_s: float | None, **more: Any
) -> Row:
    """The row of a strategy that ran.

    Args:
        name: Its name.
        lanes: Its lanes, for people.
        measured: The times of each group.
        agreed: How its outputs compare.
        bound_s: The proven bound of the chosen plan, or None.
        **more: Further fields of the row.
    """
    own = [jct_s for times in measured for jct_s in times.get(name, ())]
    others = {other for times in measured for other in times if other != name}
    median_s = statistics.median(own)
    return Row(
        strategy=name,
        lanes=lanes,
        median_s=median_s,
        spread_s=spread(own),
        ratio_to={
            other: statistics.median(ratios) for other in sorted(others) if (ratios := ratios_of(name, other, measured))
        },
        ratio_to_bound=median_s / bound_s if bound_s else None,
        agreement=agreed.text,
        max_abs_diff=agreed.apart,
        agrees=agreed.agrees,
        same_class=agreed.same_class,
        accuracy=agreed.accuracy,
        times_s=tuple(own),
        **more,
    )


def verdict(
    rows: Sequence[Row], measured: Sequence[Times], chosen: Plan, sequential: Plan, own: Collection[str] = ()
) -> str:
    """Whether the plan wins, against the fastest baseline whose outputs agree; which of them can be put in force.

    Args:
        rows: The chosen plan's last.
        measured: The times of each group.
        chosen: The plan.
        sequential: The reference's.
        own: The strategies that are functions of the user's own: none of them is a plan.

    Nothing wins or loses where no plan was searched: what ran as the plan is then sequential running. The same lanes
    as sequential running has, found by a search, are compared with the other baselines.
    """
    plan, reference = rows[-1], next(row for row in rows if row.strategy == "sequential")
    if reference.agreement.startswith(OTHER):
        return f"The lanes do not answer as this notebook does ({reference.agreement}): no speed counts until they do."
    if not reference.agrees:
        return (
            "The sub-models answer differently from call to call (the sequential reference does not agree with itself: "
            f"{reference.agreement}), so outputs cannot be checked and no speed is reported as a gain."
        )
    if not plan.agrees:
        return f"The plan's outputs differ from the sequential reference ({plan.agreement}): its speed does not count."
    others = [row for row in rows[:-1] if not row.failed and row.agrees]
    if chosen.is_fallback:
        best = min(others, key=lambda row: row.median_s)
        return (
            f"No plan was searched: what ran as the plan is sequential running. The fastest here was {best.strategy} "
            f"({format_seconds(best.median_s)}, spread {format_spread(best.spread_s, best.median_s)}). "
            "Profile and search for a plan, then compare again."
        )
    same = ""
    if chosen.lanes == sequential.lanes:
        same = "The plan is sequential running itself. "
        others = [row for row in others if row.strategy != "sequential"]
        if not others:
            return f"{same}There is no other way here to compare it with."
    best = min(others, key=lambda row: row.median_s)
    told = same + _against(plan, best, measured, takes=best.strategy not in own)
    return told if plan.same_class is None else f"{told} It is a cascade: {plan.agreement}."


def _against(plan: Row, best: Row, measured: Sequence[Times], *, takes: bool) -> str:
    """The plan against the best baseline; how to take that, where it can be put in force."""
    ratios = ratios_of(CHOSEN, best.strategy, measured)
    ratio = plan.ratio_to.get(best.strategy, math.nan)
    if not ratios or not (math.isfinite(ratio) and ratio > 0):
        return f"Nothing can be said of the plan against {best.strategy}: no round has a time of both."
    low, high = median_interval(ratios)
    if math.isinf(high):
        return (
            f"No clear difference: {len(ratios)} {'round is' if len(ratios) == 1 else 'rounds are'} too few to be sure "
            f"(the plan took {format_seconds(plan.median_s)}, {best.strategy} {format_seconds(best.median_s)}); "
            "6 or more are needed."
        )
    unsteady = [row for row in (plan, best) if row.unsteady]
    if unsteady:
        told = " and ".join(
            f"{row.strategy} took {format_seconds(row.median_s)} with a spread of {format_seconds(row.spread_s)}"
            for row in unsteady
        )
        return f"The runs were too unsteady to tell: {told}. Close other programs, and compare again with more rounds."
    if high < 1:
        return f"The plan is {format_change(ratio)} than the best baseline, {best.strategy}."
    if low > 1:
        told = f"The plan loses: it is {format_change(ratio)} than {best.strategy}. Use {best.strategy} instead"
        take = step(f"lab.plan = lab.comparison.plan_of({best.strategy!r})", f"%esen use {best.strategy}")
        return f"{told}: {take}." if takes else f"{told}."
    told = f"No clear difference: the plan takes {ratio:.2f} times the time of {best.strategy}"
    return f"{told} (95 % interval {low:.2f} to {high:.2f} times)."
