"""How long requests take that come at random and are answered in batches, computed and not simulated.

Requests of one row arrive as a Poisson process. One batch is worked on at a time: when it is done, all that wait are
taken, up to b; when none waits, the next one is begun as soon as it comes. (A queue M/G^[1,b]/1: N. T. J. Bailey, On
queueing processes with bulk service, J. R. Statist. Soc. B 16, 1954.)

lam   arrivals a second                    n   waiting when a batch is done
b     the largest batch                    k   rows of the batch that is begun: min(n, b), or 1 after an idle time
S(k)  its time, times a random factor      r   left waiting: n - k

1. The chain of n from batch to batch: n' = r + Poisson(lam S(k)). Its stationary distribution is solved for.
2. A request that comes u after a batch has begun finds p = r + Poisson(lam u) before it. It waits for the rest of the
   batch, for floor(p / b) full batches, and takes part in its own, with those that come behind it until then.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from esen_lab.common.units import check_count, check_number
from esen_lab.planner.rate.service import ServiceTimes

Array = NDArray[np.float64]
_LEAST_STATES, _MOST_STATES = 64, 1024
_NEGLIGIBLE = 1e-8
_MOMENTS = 8  # at which a request comes within a batch: the middles of equal parts
_BINS_PER_STEP = 64  # of the distribution of latencies, to the shortest batch
_MOST_BINS = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class Latencies:
    """How long requests take, from their arrival to their answer.

    Attributes:
        rate_per_s: At which they come.
        most_rows: The largest batch.
        mean_s: Mean latency in seconds; inf where the queue does not end.
        p50_s: The median.
        p90_s: The 90th percentile.
        p95_s: The 95th.
        p99_s: The 99th.
        busy: The part of the time in which a batch is worked on, 0 to 1.
        mean_rows: Of a batch.
    """

    rate_per_s: float
    most_rows: int
    mean_s: float
    p50_s: float
    p90_s: float
    p95_s: float
    p99_s: float
    busy: float
    mean_rows: float

    @property
    def held(self) -> bool:
        """Whether the queue ends."""
        return math.isfinite(self.p99_s)


def latencies(service: ServiceTimes, rate_per_s: float, most_rows: int) -> Latencies:
    """The latencies of requests that come at a rate.

    Args:
        service: Times of batches.
        rate_per_s: Requests of one row a second, at random.
        most_rows: The largest batch, at least 1.

    Raises:
        UsageError: A number is not possible.
    """
    check_number(rate_per_s, "A rate is a number of requests a second above 0", above=0.0, below=math.inf)
    most_rows = check_count(most_rows, "The largest batch is a whole number of rows above 0")
    lam, b = rate_per_s, most_rows
    times = np.array([service.at_s(k) for k in range(1, b + 1)])
    waiting = None
    # Hopeless ones need no matrix; and none is large enough for a queue that hardly ends.
    if lam < 0.995 * b / (times[-1] * service.mean_factor):
        waiting = _waiting(times, service.factors, lam, b)
    if waiting is None:
        every = dict.fromkeys(("mean_s", "p50_s", "p90_s", "p95_s", "p99_s"), math.inf)
        return Latencies(rate_per_s=lam, most_rows=b, busy=1.0, mean_rows=float(b), **every)
    began = waiting.copy()  # by n, with an idle time turned into a batch of one
    began[1] += began[0]
    began[0] = 0.0
    by_rows = np.concatenate([began[1:b], [began[b:].sum()]])
    working_s = float(by_rows @ times) * service.mean_factor
    found = _Waits(times, service, lam, rows=b, states=len(waiting))
    found.add(np.zeros(1), np.zeros(1, dtype=np.int64), waiting[:1])  # those that come to an idle plan
    for k in range(1, b + 1):
        left = began[b:] if k == b else by_rows[k - 1 : k]  # by r
        if left.sum() > _NEGLIGIBLE:
            for factor, weight in service.factors:
                found.add_arrivals(left * weight, float(times[k - 1] * factor))
    took = found.latencies()
    p50_s, p90_s, p95_s, p99_s = (took.quantile(q) for q in (0.5, 0.9, 0.95, 0.99))
    cycle_s = working_s + float(waiting[0]) / lam
    return Latencies(
        rate_per_s=lam,
        most_rows=b,
        mean_s=took.mean(),
        p50_s=p50_s,
        p90_s=p90_s,
        p95_s=p95_s,
        p99_s=p99_s,
        busy=working_s / cycle_s,
        mean_rows=float(by_rows @ np.arange(1, b + 1)),
    )


def _waiting(times: Array, factors: tuple[tuple[float, float], ...], lam: float, b: int) -> Array | None:
    """The stationary distribution of n; None where it has no end that matters."""
    most = max(_MOST_STATES, 2 * b)  # more than one full batch may wait
    states = min(max(_LEAST_STATES, 4 * b), most)
    while states <= most:
        arrivals = np.zeros((b, states))
        for factor, weight in factors:
            for k in range(1, b + 1):
                arrivals[k - 1] += weight * _poisson(lam * times[k - 1] * factor, states)
        chain = np.zeros((states, states))
        chain[0] = arrivals[0]
        for n in range(1, states):
            k = min(n, b)
            chain[n, n - k :] = arrivals[k - 1, : states - (n - k)]
        chain[:, -1] += 1.0 - chain.sum(axis=1)  # what goes beyond stays at the end
        # pi (P - I) = 0 with the sum of pi in the place of one equation.
        system = chain.T - np.eye(states)
        system[-1] = 1.0
        right = np.zeros(states)
        right[-1] = 1.0
        found: Array = np.clip(np.linalg.solve(system, right), 0.0, None)
        found /= found.sum()
        if found[-max(1, states // 8) :].sum() < 1e-5:
            return found
        states *= 2
    return None


class _Waits:
    """How long requests wait until their own batch begins, and how many rows that has: weights by both."""

    def __init__(self, times: Array, service: ServiceTimes, lam: float, *, rows: int, states: int) -> None:
        self._times, self._factors, self._lam, self._b = times, service.factors, lam, rows
        self._full_s = float(times[-1]) * service.mean_factor
        largest = max(factor for factor, _ in service.factors)
        longest_s = float(times[-1]) * largest + (states // rows + 1) * self._full_s
        finest_s = float(times[0]) * min(factor for factor, _ in service.factors) / _BINS_PER_STEP
        self._width_s = max(finest_s, longest_s / _MOST_BINS)
        self._bins = int(longest_s / self._width_s) + 2
        self._weights = np.zeros(rows * self._bins)

    def add(self, wait_s: Array, size: NDArray[np.int64], weights: Array) -> None:
        """Add weights by how long is waited, and rows of the own batch less one."""
        at = np.minimum(np.rint(wait_s / self._width_s).astype(np.int64), self._bins - 1) + size * self._bins
        np.add.at(self._weights, at, weights)

    def add_arrivals(self, left: Array, lasts_s: float) -> None:
        """Add those that come while a batch is worked on that lasts `lasts_s`, with `left` by r."""
        b = self._b
        waits, sizes, weights = [], [], []
        for moment in range(_MOMENTS):
            u = (moment + 0.5) / _MOMENTS * lasts_s
            before = np.convolve(left, _poisson(self._lam * u, _reach(self._lam * u)))
            before *= self._lam * lasts_s / _MOMENTS
            for number in range(len(before) // b + 1):
                mass = before[number * b : (number + 1) * b]  # by place in the own batch
                if mass.sum() < _NEGLIGIBLE:
                    continue
                wait_s = lasts_s - u + number * self._full_s
                behind = _poisson(self._lam * wait_s, b)
                # Rows of the own batch: those before and itself, and those that come behind until it begins.
                joint = np.convolve(mass, behind)[:b]
                joint[-1] += mass.sum() - joint.sum()  # the batch is full, with more behind
                waits.append(np.full(b, wait_s))
                sizes.append(np.arange(b))
                weights.append(joint)
        if waits:
            self.add(np.concatenate(waits), np.concatenate(sizes), np.concatenate(weights))

    def latencies(self) -> _Histogram:
        """Waits and the time of the own batch together."""
        found = _Histogram(self._width_s)
        by_size = self._weights.reshape(self._b, self._bins)
        for size_s, weights in zip(self._times, by_size, strict=True):
            for factor, weight in self._factors:
                found.add(round(float(size_s) * factor / self._width_s), weights * weight)
        return found


def _reach(mean: float) -> int:
    return int(mean + 8 * math.sqrt(mean) + 12)


def _poisson(mean: float, count: int) -> Array:
    """The probabilities of 0 .. count - 1."""
    k = np.arange(count)
    if mean <= 0:
        return np.asarray(k == 0, dtype=np.float64)
    return np.asarray(np.exp(k * math.log(mean) - mean - _log_factorials(count)))


@functools.lru_cache(maxsize=256)
def _log_factorials(count: int) -> Array:
    """The logarithms of 0! .. (count - 1)!."""
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count)))])


class _Histogram:
    """Weights by value, in bins of one width."""

    def __init__(self, width: float) -> None:
        self._width = width
        self._bins = np.zeros(0)

    def add(self, shift: int, weights: Array) -> None:
        """Add weights that begin at a bin."""
        if shift + len(weights) > len(self._bins):
            self._bins = np.concatenate([self._bins, np.zeros(shift + len(weights) - len(self._bins))])
        self._bins[shift : shift + len(weights)] += weights

    def mean(self) -> float:
        return float(self._bins @ np.arange(len(self._bins)) / self._bins.sum()) * self._width

    def quantile(self, q: float) -> float:
        mass = np.cumsum(self._bins)
        return float(np.searchsorted(mass, q * mass[-1])) * self._width
