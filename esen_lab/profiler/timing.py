"""One measurement, inside the worker whose share is in force: warm up, repeat, say how sure the median is.

How sure: by the interval of `esen_lab.common.statistics`, whatever the distribution. Latencies are skewed and have
several modes, so nothing that assumes a normal distribution is used.

The interval is looked at after 6 repeats and then each time there are a quarter more. Looking after each single repeat
would stop at the first lucky moment. With this spacing, simulated latencies (log-normal of 5, 10 and 30 %, exponential
tail, two modes; 400 runs each) had their true median within 2 % of the found one in 95.5 to 99 % of the runs.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from esen_lab.common.statistics import FEWEST_FOR_INTERVAL, median_interval, quantile, spread
from esen_lab.common.units import now
from esen_lab.profiler.records import Figures, Point

if TYPE_CHECKING:
    from esen_lab.ensemble import SubModel

ACCURACY = 0.02
FEWEST_WARMUPS = 2
FEWEST_REPEATS = 3
LONG_S = 0.02  # a longer step reads far more than the caches hold


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing(Figures):
    """What `measure` measured. Plain data: it travels from the worker to the parent.

    Of the figures, `repeats` are at least 3 and `warmups` at least 2; `readings` hold load and place, and on a GPU what
    `gpu_counters.py` reads.

    Attributes:
        growth_bytes: Growth of the process, or of its memory on the GPU, while the sub-model ran, without its weights;
            None where it can't be read.
    """

    growth_bytes: int | None


def as_point(found: Timing, submodel: SubModel, units: int, budget_s: float, backend: str = "eager") -> Point:
    """What was measured of a sub-model at a share just now, as a point."""
    return Point(
        name=submodel.name,
        units=units,
        **found.figures(),
        peak_memory_bytes=None if found.growth_bytes is None else submodel.memory_bytes + found.growth_bytes,
        measured_at=now(),
        budget_s=budget_s,
        backend=backend,
    )


@runtime_checkable
class OnGpu(Protocol):
    """A step that ran on a GPU; called, it waits until its outputs are back."""

    def __call__(self) -> object:
        """Run once."""

    @property
    def device_s(self) -> float:
        """How long the last run took on the GPU's own clock, copies of input and outputs included."""

    @property
    def meter(self) -> MemoryMeter:
        """Measures memory of the GPU."""

    @property
    def gpu(self) -> str:
        """The GPU's UUID, or ""."""


class MemoryMeter(Protocol):
    """Measures the memory that a step takes, as `memory.GrowthMeter` does."""

    def start(self) -> None:
        """Called before the step."""

    def stop(self) -> int | None:
        """Called after it: bytes, or None where they cannot be read."""


class Load(Protocol):
    """Measures what other programs take, as `esen_lab.devices.cpu.contention.LoadMeter` does."""

    def start(self) -> None:
        """Called before the timed repeats."""

    def stop(self) -> float | None:
        """Called after them: 0 to 1, or None where it cannot be read."""


def measure(
    step: Callable[[], object],
    *,
    budget_s: float = 1.0,
    clock: Callable[[], float] = time.perf_counter,
    meter: MemoryMeter | None = None,
    load: Load | bool = False,
    before: Callable[[], object] | bool = False,
    evicted: bool = False,
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
        load: Measures what other programs take of this process's cores meanwhile; True for a `LoadMeter`. Where this
            is asked for, it is also read what kind of place these cores are ("place": "one L3").
        before: Called before each timed step that takes less than `LONG_S`, and not timed; True for a `CacheFiller`,
            with which a step finds caches as in a lane. On a GPU it does nothing.
        evicted: Whether that one fills the caches that cores share, too: see `caches.weights_evicted`.
    """
    if load is True:
        from esen_lab.devices.cpu.contention import LoadMeter

        load = LoadMeter(own_cores=not isinstance(step, OnGpu))  # a GPU's workers are not pinned
    if isinstance(step, OnGpu):
        return _measure_on_gpu(step, budget_s, clock, meter, load or None)
    if before is True:
        from esen_lab.profiler.caches import CacheFiller, shared_cache_bytes

        before = CacheFiller(shared=shared_cache_bytes() if evicted else 0)
    timing = _measure(step, budget_s, clock, meter, load or None, before or None)
    if not load:
        return timing
    from esen_lab.devices.cpu.topology import place_now

    place = place_now()
    return replace(timing, readings={**timing.readings, "place": place}) if place else timing


def _measure_on_gpu(
    step: OnGpu, budget_s: float, clock: Callable[[], float], meter: MemoryMeter | None, load: Load | None
) -> Timing:
    """The same, with the GPU's own clock and readings of it beside the latency that a caller sees."""
    from esen_lab.profiler.gpu_counters import read_while

    on_device: list[float] = []

    def watched() -> None:
        step()
        on_device.append(step.device_s)

    timing = _measure(watched, budget_s, clock, meter or step.meter, load)
    readings: dict[str, float | str] = {
        **timing.readings,
        "events_median_s": statistics.median(on_device[-timing.repeats :]),
    }
    readings.update(read_while(step, step.gpu))
    return replace(timing, readings=readings)


def _measure(
    step: Callable[[], object],
    budget_s: float,
    clock: Callable[[], float],
    meter: MemoryMeter | None,
    load: Load | None,
    before: Callable[[], object] | None = None,
) -> Timing:
    if meter is None:
        from esen_lab.profiler.memory import GrowthMeter

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
        if load is not None:
            load.start()
        if min(warmups) > LONG_S:
            before = None
        samples, settled = _repeat(step, clock, began, budget_s, before)
        taken = None if load is None else load.stop()
    finally:
        if collecting:
            gc.enable()
    return Timing(
        median_s=statistics.median(samples),
        spread_s=spread(samples),
        quantile_90_s=quantile(samples, 0.9),
        repeats=len(samples),
        warmups=len(warmups),
        settled=settled,
        growth_bytes=growth_bytes,
        readings={} if taken is None else {"load": round(taken, 4)},
    )


def _time(step: Callable[[], object], clock: Callable[[], float]) -> float:
    began = clock()
    step()
    return clock() - began


def _warm_up(
    step: Callable[[], object], clock: Callable[[], float], warmups: list[float], began: float, budget_s: float
) -> None:
    """Append to `warmups` until steps get no faster, or a quarter of the budget is spent."""
    check_at = 6
    while (elapsed := clock() - began) < budget_s / 4:
        if len(warmups) >= check_at:
            check_at = _next_check(check_at)
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
    step: Callable[[], object],
    clock: Callable[[], float],
    began: float,
    budget_s: float,
    before: Callable[[], object] | None,
) -> tuple[list[float], bool]:
    """Timed latencies in the order they came, and whether their median is known."""
    samples: list[float] = []
    check_at = FEWEST_FOR_INTERVAL
    while True:
        if before is not None:
            before()
        samples.append(_time(step, clock))
        count = len(samples)
        if count >= check_at:
            if median_is_known(samples):
                return samples, True
            check_at = _next_check(check_at)
        limit_s = budget_s if count >= FEWEST_FOR_INTERVAL else 3 * budget_s
        if count >= FEWEST_REPEATS and clock() - began >= limit_s:
            return samples, median_is_known(samples)


def _next_check(count: int) -> int:
    return max(count + 1, count * 5 // 4)


def median_is_known(samples: Sequence[float]) -> bool:
    """Whether the 95 % interval of the median lies within `ACCURACY` (relative) of the median of `samples`."""
    low, high = median_interval(samples)
    middle = statistics.median(samples)
    return max(middle - low, high - middle) <= ACCURACY * middle
