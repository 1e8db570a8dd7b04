"""What complete curves of the same device teach about a curve that is known at a few shares only.

Lines and Amdahl's law know nothing of a device: where its groups of SMs or its caches make certain shares better than
their neighbours, the curves of many sub-models bend alike. Whoever has profiled many sub-models completely can use
that:

1. Of the complete curves, take those whose shape through the measured shares is nearest: their latencies there, each
   divided by their geometric mean, compared by the Euclidean distance of the logarithms.
2. Each says by what factor the ordinary prediction from the same shares is off, at every share. Multiply by the median
   of these factors (k-nearest-neighbour regression of the residuals).

That is done only where it has proven itself on the curves that are known: each is predicted from the same shares by the
others, with and without. For a sub-model that few of the curves are of, the others are those of other sub-models: what
batches of one network teach about each other says nothing about another network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from esen_lab.cost_model.curves import Array

Key = tuple[str, str]
"""(fingerprint of a sub-model, what its example looks like): what one curve is of."""
Predict = Callable[[tuple[tuple[int, float], ...], Array], Array]
"""The ordinary prediction: measured points and shares in, seconds out."""

NEIGHBOURS = 10
LEAST_CURVES = 16
"""With fewer curves, a gain on them is chance."""
LEAST_GAIN = 0.05
"""Used only where it makes the mean error on the known curves smaller by this part."""
_LEAST_TESTED = 2  # shares that a curve must be known at besides the measured ones


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """What to multiply a prediction by.

    Attributes:
        factors: One per share asked for.
        curves: How many curves it rests on.
        error: Mean relative error of predicting those curves with it, each by the others.
        error_before: The same without it.
    """

    factors: Array
    curves: int
    error: float
    error_before: float


class Experience:
    """Curves measured on one device, each at many shares.

    Args:
        curves: For each sub-model and example, seconds by share in units.
    """

    def __init__(self, curves: Mapping[Key, Mapping[int, float]]) -> None:
        self._curves = {key: dict(sorted(points.items())) for key, points in sorted(curves.items())}
        self._residuals: dict[tuple[tuple[int, ...], str], _Residuals] = {}
        self._trials: dict[tuple[tuple[int, ...], str, bool], tuple[float, float]] = {}

    def __len__(self) -> int:
        return len(self._curves)

    def correction(
        self, of: Key, measured: tuple[tuple[int, float], ...], at: Array, predict: Predict, method: str
    ) -> Correction | None:
        """What to multiply `predict(measured, at)` by; None where the known curves are no help.

        Args:
            of: The sub-model and example that `measured` is of.
            measured: (share, seconds), by ascending share.
            at: Shares in units, shape (k,).
            predict: The ordinary prediction.
            method: Its name: predictions of one name at the same shares are tried out once.
        """
        if len(measured) < 2:
            return None
        shares = tuple(share for share, _ in measured)
        if (shares, method) not in self._residuals:
            self._residuals[shares, method] = _Residuals(self._curves, shares, predict)
        residuals = self._residuals[shares, method]
        siblings = sum(key[0] == of[0] and key != of for key in residuals.keys)
        stranger = siblings < NEIGHBOURS
        if (shares, method, stranger) not in self._trials:
            self._trials[shares, method, stranger] = _tried(residuals, stranger)
        error, before = self._trials[shares, method, stranger]
        if not error <= before * (1 - LEAST_GAIN):
            return None
        own = np.flatnonzero([key == of for key in residuals.keys])
        factors = residuals.factors(_shape(np.array([[seconds for _, seconds in measured]]))[0], at, own=own)
        return Correction(factors=factors, curves=len(residuals.keys), error=error, error_before=before)


def _tried(residuals: _Residuals, stranger: bool) -> tuple[float, float]:
    """The mean relative error of predicting each curve with the others' help and without; NaN with too few of them."""
    names = np.array([name for name, _ in residuals.keys])
    errors, before = [], []
    for index, (shares, residual) in enumerate(residuals.tested):
        own = np.flatnonzero(names == names[index]) if stranger else np.array([index])
        if len(names) < LEAST_CURVES or len(names) - len(own) < LEAST_CURVES // 2:
            return float("nan"), float("nan")
        factors = residuals.factors(residuals.shapes[index], shares, own=own)
        # predicted / true - 1, with a residual of log(true / predicted)
        errors.append(np.mean(np.abs(factors * np.exp(-residual) - 1)))
        before.append(np.mean(np.abs(np.exp(-residual) - 1)))
    return (float(np.mean(errors)), float(np.mean(before))) if errors else (float("nan"), float("nan"))


class _Residuals:
    """For each curve that is known at `shares` and others: its shape there, and log(true / predicted) at the others."""

    def __init__(self, curves: Mapping[Key, Mapping[int, float]], shares: tuple[int, ...], predict: Predict) -> None:
        self.keys: list[Key] = []
        self.tested: list[tuple[Array, Array]] = []  # (shares, residuals) where the curve itself was measured
        self._steps: list[tuple[Array, Array]] = []  # the same with the shares that predict, for what lies between
        through = []
        for key, points in curves.items():
            others = np.array([share for share in points if share not in shares], dtype=np.float64)
            if len(others) < _LEAST_TESTED or not all(share in points for share in shares):
                continue
            mine = tuple((share, points[share]) for share in shares)
            every = np.array(list(points), dtype=np.float64)
            residual = np.log(np.array(list(points.values())) / predict(mine, every))
            self.keys.append(key)
            self.tested.append((others, residual[np.isin(every, others)]))
            self._steps.append((every, residual))
            through.append([points[share] for share in shares])
        self.shapes = _shape(np.array(through).reshape(len(through), len(shares)))

    def factors(self, shape: Array, at: Array, *, own: NDArray[np.intp]) -> Array:
        """The median factor of the nearest curves, `own` left out; 1 outside the shares they were measured at."""
        distance = np.linalg.norm(self.shapes - shape, axis=1)
        distance[own] = np.inf
        usable = np.flatnonzero(np.isfinite(distance))
        nearest = usable[np.argsort(distance[usable], kind="stable")[:NEIGHBOURS]]
        rows = [
            np.interp(-1.0 / at, -1.0 / every, residual, left=0.0)
            for every, residual in (self._steps[index] for index in nearest)
        ]
        factors: Array = np.exp(np.median(rows, axis=0))
        return factors


def _shape(latencies_s: Array) -> Array:
    logs = np.log(latencies_s)
    shape: Array = logs - logs.mean(axis=1, keepdims=True)
    return shape
