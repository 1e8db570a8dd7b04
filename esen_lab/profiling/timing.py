"""One measurement, inside the worker whose share is in force: warm up, repeat, say how sure the median is.

    n       timed repeats so far
    x(i)    the i-th smallest of them, i = 1..n
    r       the largest rank with P(Binomial(n, 1/2) < r) <= 2.5 %

[x(r), x(n+1-r)] holds the true median with at least 95 % confidence, whatever the distribution (the classical
order-statistics interval: Conover, Practical Nonparametric Statistics, section 3.2). It exists from n = 6 on. Latencies
are skewed and have several modes, so nothing that assumes a normal distribution is used.

The interval is looked at after 6 repeats and then each time there are a quarter more. Looking after each single repeat
would stop at the first lucky moment. With this spacing, simulated latencies (log-normal of 5, 10 and 30 %, exponential
tail, two modes; 400 runs each) had their true median within 2 % of the found one in 95.5 to 99 % of the runs.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

ACCURACY = 0.02
CONFIDENCE = 0.95
FEWEST_WARMUPS = 2
FEWEST_REPEATS = 3
FEWEST_FOR_INTERVAL = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What `measure` found. Plain data: it travels from the worker to the parent.

    Attributes:
        median_s: Median latency of one step, in seconds.
        spread_s: Interquartile range, in seconds.
        quantile_90_s: 90th percentile, in seconds.
        repeats: How many timed steps the figures come from, at least 3.
        warmups: How many steps ran before those, at least 2.
        settled: Whether the median is known to 2 % with 95 % confidence.
        growth_bytes: Growth of the process, or of its memory on the GPU, while the sub-model ran, without its weights;
            None where it can't be read.
        readings: What else was read, on a GPU: see `steady.py`.
    """

    median_s: float
    spread_s: float
    quantile_90_s: float
    repeats: int
    warmups: int
    settled: bool
    growth_bytes: int | None
    readings: Mapping[str, float | str] = field(default_factory=dict)


@runtime_checkable
class OnGpu(Protocol):
    """A step that ran on a GPU; called, it waits until its outputs are back."""

    def __call__(self) -> object:
        """Run once."""

    @property
    def device_s(self) -> float:
        """How long the last run took on the GPU's own clock, copies of input and outputs included."""

    @property
    def meter(self) -> Meter:
        """Measures memory of the GPU."""

    @property
    def gpu(self) -> str:
        """The GPU's UUID, or ""."""


class Meter(Protocol):
    """Measures the memory that a step takes, as `memory.GrowthMeter` does."""

    def start(self) -> None:
        """Called before the step."""

    def stop(self) -> int | None:
        """Called after it: bytes, or None where they cannot be read."""


def measure(
    step: Callable[[], object],
    *,
    budget_s: float = 1.0,
    clock: Callable[[], float] = time.perf_counter,
    meter: Meter | None = None,
) -> Timing:
    """Time `step` until its median is known to 2 % at 95 % confidence, or the budget ends.

    Warm-up takes 2 steps, then goes on while steps still get faster, for a quarter of the budget at most. A slow step
    is timed 3 times whatever the budget says, and up to 6 times (what an interval needs) within three budgets.
    Garbage collection is off meanwhile and restored after.

    Args:
        step: Runs the sub-model once. What it raises is passed on.
        budget_s: Seconds for warm-up and repeats together, above 0.
        clock: Seconds that only go forward.
        meter: Measures memory around the second step; None for that of the GPU the step is on, or else for this
            process's own `GrowthMeter`.
    """
    if isinstance(step, OnGpu):
        return _measure_on_gpu(step, budget_s, clock, meter)
    return _measure(step, budget_s, clock, meter)


def _measure_on_gpu(step: OnGpu, budget_s: float, clock: Callable[[], float], meter: Meter | None) -> Timing:
    """The same, with the GPU's own clock and readings of it beside the latency that a caller sees."""
    from esen_lab.profiling.steady import read_while

    on_device: list[float] = []

    def watched() -> None:
        step()
        on_device.append(step.device_s)

    found = _measure(watched, budget_s, clock, meter or step.meter)
    readings: dict[str, float | str] = {"events_median_s": statistics.median(on_device[-found.repeats :])}
    readings.update(read_while(step, step.gpu))
    return replace(found, readings=readings)


def _measure(step: Callable[[], object], budget_s: float, clock: Callable[[], float], meter: Meter | None) -> Timing:
    if meter is None:
        from esen_lab.profiling.memory import GrowthMeter

        meter = GrowthMeter()
    collecting = gc.isenabled()
    gc.disable()
    try:
        began = clock()
        warmups = [_time(step, clock)]
        meter.start()
        warmups.append(_time(step, clock))
        growth_bytes = meter.stop()
        _warm_up(step, clock, warmups, began, budget_s)
        samples, settled = _repeat(step, clock, began, budget_s)
    finally:
        if collecting:
            gc.enable()
    lower, middle, upper = statistics.quantiles(samples, n=4, method="inclusive")
    return Timing(
        median_s=middle,
        spread_s=upper - lower,
        quantile_90_s=statistics.quantiles(samples, n=10, method="inclusive")[-1],
        repeats=len(samples),
        warmups=len(warmups),
        settled=settled,
        growth_bytes=growth_bytes,
    )


def _time(step: Callable[[], object], clock: Callable[[], float]) -> float:
    began = clock()
    step()
    return clock() - began


def _warm_up(
    step: Callable[[], object], clock: Callable[[], float], warmups: list[float], began: float, budget_s: float
) -> None:
    """Append to `warmups` until steps get no faster, or a quarter of the budget is spent."""
    look = 6
    while (elapsed := clock() - began) < budget_s / 4:
        if len(warmups) >= look:
            look = _next_look(look)
            # Very short steps: thread pools and clock rates need some time too, not only some calls.
            if elapsed >= min(budget_s, 1.0) / 50 and no_longer_faster(warmups):
                return
        warmups.append(_time(step, clock))


def no_longer_faster(latencies: Sequence[float]) -> bool:
    """Whether the last quarter (3 at least) of `latencies` is within 5 % of the quarter before it, or slower."""
    width = max(3, len(latencies) // 4)
    if len(latencies) < 2 * width:
        return False
    before = statistics.median(latencies[-2 * width : -width])
    return statistics.median(latencies[-width:]) >= 0.95 * before


def _repeat(
    step: Callable[[], object], clock: Callable[[], float], began: float, budget_s: float
) -> tuple[list[float], bool]:
    """Timed latencies in the order they came, and whether their median is known."""
    samples: list[float] = []
    look = FEWEST_FOR_INTERVAL
    while True:
        samples.append(_time(step, clock))
        count = len(samples)
        if count >= look:
            if median_is_known(samples):
                return samples, True
            look = _next_look(look)
        limit_s = budget_s if count >= FEWEST_FOR_INTERVAL else 3 * budget_s
        if count >= FEWEST_REPEATS and clock() - began >= limit_s:
            return samples, median_is_known(samples)


def _next_look(count: int) -> int:
    return max(count + 1, count * 5 // 4)


def median_is_known(samples: Sequence[float], accuracy: float = ACCURACY) -> bool:
    """Whether the 95 % interval of the median lies within `accuracy` (relative) of the median of `samples`."""
    rank = interval_rank(len(samples))
    if rank == 0:
        return False
    ordered = sorted(samples)
    middle = statistics.median(ordered)
    return max(middle - ordered[rank - 1], ordered[-rank] - middle) <= accuracy * middle


def interval_rank(count: int, confidence: float = CONFIDENCE) -> int:
    """The rank r (see the notation above) for `count` samples; 0 where they are too few for an interval.

    Exact up to 500 samples; above, the normal approximation of the binomial, rounded outwards.
    """
    tail = (1 - confidence) / 2
    if count > 500:
        deviations = statistics.NormalDist().inv_cdf(1 - tail)
        return int((count - deviations * math.sqrt(count)) // 2)
    here = below = 0.5**count  # P(Binomial = rank) and P(Binomial <= rank)
    rank = 0
    while below <= tail:
        here *= (count - rank) / (rank + 1)
        rank += 1
        below += here
    return rank
