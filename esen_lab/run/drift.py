"""A run that is far from its prediction: whether it is, why that may be, and what to do. Words for people.

    ratio    median of the last few runs of the same plan and shape / predicted JCT
    far      beyond `FAR` in either direction, and so are three of four of these runs, to a weaker limit

The run that starts lanes is cold and does not count; one or two runs alone must be further off before they do. Reasons
are looked for, never guessed: each is something read or known. Where none is found, that is said.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from esen_lab.common.surroundings import step
from esen_lab.common.units import OLD_DAYS, days_since, format_change, format_percent, format_seconds, marked
from esen_lab.devices.cpu.contention import LOADED
from esen_lab.planner.plan import Plan
from esen_lab.run.report import Span

if TYPE_CHECKING:
    from esen_lab.devices.cpu.interference import Interference

FAR = 1.5
FAR_WHEN_FEW = 2.0
"""With one or two runs."""
RECENT = 7
"""So many of the last runs are looked at."""
_ENOUGH = 3
_MOST = 0.5  # an overhead, or a late start, that makes up so much of what is too much is a reason


def _not_known() -> None:
    """Nobody has looked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What is known around a run that is far from its prediction.

    Attributes:
        plan: What ran.
        runs_s: The JCTs of the last few runs of this plan and shape, in the order they ran.
        spans: Of the last one.
        overhead_s: What the last one cost besides its slowest lane.
        copy_s: Of that, copying the input.
        load: What other programs took of the lanes' time, 0 to 1; None where that is not known.
        device: The identity of the device it ran on, as plain data; empty where that is not known.
        fallen_back: Sub-models that are not executed as the plan says.
        doubts: What is known against the measurements behind the prediction, sentences.
        of_lab: Whether a lab ran it: elsewhere, as in an exported script, nothing can be measured anew or refined.
        interference: Asked, where lanes worked side by side, for what they take of each other's memory bandwidth.
    """

    plan: Plan
    runs_s: tuple[float, ...]
    spans: Sequence[Span] = ()
    overhead_s: float = 0.0
    copy_s: float = 0.0
    load: float | None = None
    device: Mapping[str, Any] | None = None
    fallen_back: Sequence[str] = ()
    doubts: Sequence[str] = ()
    of_lab: bool = True
    interference: Callable[[], Interference | None] = _not_known


def far_off(runs_s: Sequence[float], predicted_s: float | None) -> float | None:
    """How many times their prediction runs take, where that is far from it; else None, and where nothing is predicted.

    Args:
        runs_s: JCTs of runs of one plan and shape, the oldest first.
        predicted_s: Their prediction.
    """
    if predicted_s is None or not (math.isfinite(predicted_s) and predicted_s > 0):
        return None
    known = [seconds for seconds in runs_s if math.isfinite(seconds) and seconds > 0]
    if not known:
        return None
    ratio = statistics.median(known) / predicted_s
    far = FAR if len(known) >= _ENOUGH else FAR_WHEN_FEW
    if 1 / far < ratio < far:
        return None
    weaker = math.sqrt(far)
    same_way = sum(s / predicted_s > weaker if ratio > 1 else s / predicted_s < 1 / weaker for s in known)
    return ratio if same_way >= 0.75 * len(known) else None


def drift(around: Circumstances) -> tuple[str, ...]:
    """What to say of runs that are far from their prediction: how far, why, what to do. () where they are not."""
    ratio = far_off(around.runs_s, around.plan.jct_s)
    if ratio is None:
        return ()
    count = len(around.runs_s)
    runs = f"median of the last {count} runs" if count > 1 else "one run"
    first = (
        f"Far from its prediction: {format_seconds(statistics.median(around.runs_s))} ({runs}), predicted "
        f"{format_seconds(around.plan.jct_s)}: {format_change(ratio)}."
    )
    reasons = list(_reasons(around, ratio))
    if reasons:
        return (first, f"Likely why: {'; '.join(reasons)}.", *around.doubts, _advice(around, ratio))
    if around.doubts:
        return (first, *around.doubts, _advice(around, ratio))
    return (first, f"Nothing that was looked at explains it. {_left_over(around, ratio)}", _advice(around, ratio))


def _reasons(around: Circumstances, ratio: float) -> Iterable[str]:
    plan = around.plan
    busy = _is_busy(around, ratio)
    if busy:
        yield f"the machine is busy: other programs took {format_percent(around.load)} of the lanes' time"
    there, here = plan.device, around.device or {}
    for key in ("kind", "name", "units"):
        if there and here and there.get(key) != here.get(key):
            yield f"the plan was made on another device ({key} {there.get(key)}, here {here.get(key)})"
            break
    if here.get("simulated"):
        yield "the device is simulated, and the networks really run on this CPU"
    if around.fallen_back:
        yield f"{', '.join(around.fallen_back)} not executed as the plan says"
    if plan.unmeasured:
        yield f"no measurement near these shares ({marked('predicted', plan.unmeasured)})"
    if plan.oversubscribed:
        yield "the shares sum to more than the device, so that lanes compete"
    age = days_since(plan.created_at)
    if age is not None and age > OLD_DAYS:
        yield f"the plan was made {age:.0f} days ago"
    if ratio > 1:
        yield from _within_the_run(around, busy=busy)
        yield from () if busy else _by_memory(around, ratio)


def _is_busy(around: Circumstances, ratio: float) -> bool:
    """Whether other programs slow the lanes; where shares sum to more than the device, lanes slow each other."""
    return ratio > 1 and not around.plan.oversubscribed and around.load is not None and around.load > LOADED


def _within_the_run(around: Circumstances, *, busy: bool) -> Iterable[str]:
    """Reasons that the last run shows itself; on a busy machine everything is late, so that is not said again."""
    too_much_s = around.runs_s[-1] - (around.plan.jct_s or 0.0)
    if too_much_s <= 0:
        return
    if not busy and around.overhead_s > _MOST * too_much_s:
        cost = format_seconds(around.overhead_s)
        yield f"{cost} went into handing over, waking and combining, which is not predicted"
    began: dict[int, float] = {}
    for span in around.spans:
        began[span.lane] = min(began.get(span.lane, math.inf), span.start_s)
    for lane, start_s in () if busy else sorted(began.items()):
        if start_s - around.copy_s > _MOST * too_much_s:
            yield f"lane {lane + 1} began {format_seconds(start_s)} after the batch was handed over"
    slow = [span for span in around.spans if span.predicted_s and span.duration_s > FAR * span.predicted_s]
    if slow and len(slow) < sum(span.predicted_s is not None for span in around.spans):
        longer = ", ".join(
            f"{span.name} ({format_seconds(span.duration_s)}, predicted {format_seconds(span.predicted_s)})"
            for span in slow
        )
        yield f"only {longer} took longer"


def _by_memory(around: Circumstances, ratio: float) -> Iterable[str]:
    """Whether lanes that work side by side take so much of each other's memory bandwidth that it would explain it."""
    if (around.device or {}).get("kind") != "cpu" or around.plan.oversubscribed or not _side_by_side(around.spans):
        return
    found = around.interference()
    if found is not None and found.significant and 1 / found.factor - 1 > _MOST * (ratio - 1):
        yield (
            f"lanes take memory bandwidth from each other, where weights come from memory: {found.together_gb_s:.3g} "
            f"GB/s of a lane beside another one, {found.alone_gb_s:.3g} GB/s alone, as points are measured"
        )


def _side_by_side(spans: Sequence[Span]) -> bool:
    """Whether two lanes worked at the same time."""
    ordered = sorted(spans, key=lambda span: span.start_s)
    return any(
        other.lane != span.lane and other.start_s < span.end_s
        for place, span in enumerate(ordered)
        for other in ordered[place + 1 :]
    )


def _left_over(around: Circumstances, ratio: float) -> str:
    if ratio < 1:
        return "The machine may have been slower when the points were measured."
    beside = "sub-models side by side may disturb each other, or " if len(around.plan.lanes) > 1 else ""
    return f"{beside[:1].upper()}{beside[1:]}{'the' if beside else 'The'} processor may be slower now (heat, battery)."


def _advice(around: Circumstances, ratio: float) -> str:
    busy = _is_busy(around, ratio)
    if not around.of_lab:
        first = "Close other programs and run again; otherwise measure" if busy else "Measure"
        return f"{first} and search in a notebook on this machine, and export the plan again."
    first = "Close other programs and run again; then measure" if busy else "Measure"
    refine = f" {step('lab.studies.refine(x)', '%esen refine x')} corrects the prediction by runs."
    refine = refine if len(around.plan.names) > 1 else ""
    return f"{first} anew: {step('lab.profile(fresh=True)', '%esen profile --fresh')}, and search again.{refine}"
