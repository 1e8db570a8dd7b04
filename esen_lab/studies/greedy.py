"""Weights of members, learned greedily: forward selection with replacement.

Caruana, Niculescu-Mizil, Crew, Ksikes: Ensemble Selection from Libraries of Models, ICML 2004. Beginning with nobody,
the member whose output, added to the sum so far, gives the best accuracy is taken, again and again, and may be taken
more than once; a member's weight is how often. The best sum of all steps is kept.

What is fitted to data looks better on it than it is: weights are selected on one half, and reported on the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from esen_lab.errors import UsageError
from esen_lab.studies.validation import Floats

STEPS = 40
"""So often a member is taken at most."""
_LEAST_SAMPLES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Halves:
    """The validation samples in two halves, by number, each in rising order: one to select on, one to report on."""

    selection: NDArray[np.int64]
    report: NDArray[np.int64]

    @classmethod
    def of(cls, samples: int, seed: int = 0) -> Halves:
        """Drawn without replacement.

        Raises:
            UsageError: There are too few samples for two halves.
        """
        if samples < _LEAST_SAMPLES:
            raise UsageError(
                f"Weights are learned on one half of at least {_LEAST_SAMPLES} samples, and reported on the other",
                given=samples,
            )
        drawn = np.random.default_rng(seed).permutation(samples)
        half = samples // 2
        return cls(selection=np.sort(drawn[:half]), report=np.sort(drawn[half:]))


def greedy_weights(outputs: Mapping[str, Floats], labels: NDArray[np.int64]) -> dict[str, float]:
    """Weights of members that add up to 1; some may be 0.

    Args:
        outputs: For each member its scores on the samples to select on, shape (n, C).
        labels: Their right classes, shape (n,).
    """
    names = list(outputs)
    stacked = np.stack([outputs[name] for name in names]).astype(np.float64)
    counts = np.zeros(len(names), dtype=np.int64)
    total = np.zeros_like(stacked[0])
    best_accuracy, best = -1.0, counts.copy()
    for _ in range(STEPS):
        tried = total + stacked  # the sum decides as the mean does: the largest stays the largest
        accuracies = (tried.argmax(axis=-1) == labels).mean(axis=-1)
        # Of equal ones the member that was taken least, so that weights do not pile up on the first.
        taken = min(range(len(names)), key=lambda i: (-accuracies[i], counts[i], i))
        counts[taken] += 1
        total = tried[taken]
        if accuracies[taken] > best_accuracy:
            best_accuracy, best = float(accuracies[taken]), counts.copy()
    return {name: float(count / best.sum()) for name, count in zip(names, best, strict=True)}
