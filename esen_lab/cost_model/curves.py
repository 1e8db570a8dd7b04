"""Latency against share through a few measured points.

    s     share in units, 1..units          x = 1 / s     share's inverse: perfect scaling is a straight line in it
    y     latency in seconds                a, b          y = a + b x: a part that no share shortens, and work to share

Why lines in 1/s: y = a + b / s is Amdahl's law (Amdahl 1967, AFIPS Spring Joint Computer Conference 30, 483-485) with
s for the number of processors. Recorded GPU curves follow it to a few percent.

Outside the measured shares:
    below the smallest    the line in 1/s through the two smallest measured shares goes on, its slope held between
                          none (as fast with fewer units) and perfect scaling (half the units, twice the time);
    above the largest     the latency at the largest measured share: no gain is promised that was not measured.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def interpolate(shares: Sequence[int], latencies_s: Sequence[float], at: Array) -> Array:
    """Latency at the shares `at`, through every measured point exactly and linear in 1/share between them.

    Args:
        shares: Measured shares in units, ascending, at least one.
        latencies_s: Their latencies.
        at: Shares to predict, shape (k,).

    Returns:
        Seconds, shape (k,).
    """
    s, y = np.asarray(shares, dtype=np.float64), np.asarray(latencies_s, dtype=np.float64)
    inside = np.interp(-1.0 / at, -1.0 / s, y)  # np.interp wants ascending abscissae, and ends flat on both sides
    slope = 0.0
    if len(s) > 1:
        slope = (y[0] - y[1]) / (1 / s[0] - 1 / s[1])
    slope = min(max(slope, 0.0), y[0] * s[0])
    below = y[0] + slope * (1.0 / at - 1.0 / s[0])
    return np.where(at < s[0], below, inside)


def amdahl(shares: Sequence[int], latencies_s: Sequence[float], at: Array) -> Array:
    """Latency at the shares `at` from y = a + b / s with a, b >= 0, fitted by least *relative* squares.

    Args and returns as for `interpolate`; at least two points. The curve need not pass through a third.
    """
    s, y = np.asarray(shares, dtype=np.float64), np.asarray(latencies_s, dtype=np.float64)
    a, b = _nonnegative_line(1 / s, y)
    curve: Array = a + b / np.minimum(at, s[-1])
    return curve


def _nonnegative_line(x: Array, y: Array) -> tuple[float, float]:
    """The a, b >= 0 that minimise sum(((a + b x - y) / y)^2): of the free optimum and the two edges, the best one."""
    u, v = 1 / y, x / y  # the residual is a u + b v - 1
    (uu, uv, vv), (u1, v1) = (u @ u, u @ v, v @ v), (u.sum(), v.sum())
    determinant = uu * vv - uv * uv
    candidates = [(u1 / uu, 0.0), (0.0, v1 / vv)]
    if determinant > 1e-15 * uu * vv:
        candidates.append(((u1 * vv - v1 * uv) / determinant, (v1 * uu - u1 * uv) / determinant))
    allowed = [(a, b) for a, b in candidates if a >= 0 and b >= 0]
    a, b = min(allowed, key=lambda ab: float(np.sum((ab[0] * u + ab[1] * v - 1) ** 2)))
    return float(a), float(b)
