"""Who leaves a cascade where, on validation data: kept stage by stage, so that another threshold costs nothing.

n   validation samples        C   classes        K   stages
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from esen_lab.studies.validation import Answers, Floats


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Exits:
    """What the members asked by the end of each stage answer to every validation sample.

    Attributes:
        sure: For each stage the probability of the likeliest class, shape (n,).
        classes: For each stage that class, shape (n,).
        labels: The right classes, shape (n,), or None.
    """

    sure: tuple[Floats, ...]
    classes: tuple[NDArray[np.int64], ...]
    labels: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, stages: Sequence[Sequence[str]], answers: Answers, labels: NDArray[np.int64] | None = None) -> Exits:
        """Combine the answers of the members of each stage and of those before it.

        Raises:
            UsageError: The combine rule gives no scores.
        """
        asked: set[str] = set()
        sure, classes = [], []
        for names in stages:
            asked |= set(names)
            found = answers.probabilities({n: answers.outputs[n] for n in answers.ensemble.names if n in asked})
            sure.append(found.max(axis=-1))
            classes.append(found.argmax(axis=-1))
        return cls(sure=tuple(sure), classes=tuple(classes), labels=labels)

    def stage_of(self, thresholds: Sequence[float]) -> NDArray[np.int64]:
        """The stage that every sample leaves in, from 0, shape (n,).

        Args:
            thresholds: One for each stage but the last.
        """
        last = len(self.sure) - 1
        left = np.full(len(self.sure[0]), last, dtype=np.int64)
        for stage in range(last - 1, -1, -1):
            left[self.sure[stage] >= thresholds[stage]] = stage
        return left

    def reach(self, thresholds: Sequence[float]) -> tuple[float, ...]:
        """For each stage the fraction of samples that get there."""
        left = self.stage_of(thresholds)
        return tuple(float((left >= stage).mean()) for stage in range(len(self.sure)))

    def answered(self, thresholds: Sequence[float]) -> NDArray[np.int64]:
        """The class that every sample leaves with, shape (n,)."""
        return np.stack(self.classes)[self.stage_of(thresholds), np.arange(len(self.sure[0]))]

    def accuracy(self, thresholds: Sequence[float]) -> float | None:
        """The fraction of samples that leave with the right class; None without labels."""
        return None if self.labels is None else float((self.answered(thresholds) == self.labels).mean())

    @property
    def whole_accuracy(self) -> float | None:
        """That of all members, asked together; None without labels."""
        return None if self.labels is None else float((self.classes[-1] == self.labels).mean())

    def agreement(self, thresholds: Sequence[float]) -> float:
        """The fraction of samples that leave with the class that all members together would give (top-1)."""
        return float((self.answered(thresholds) == self.classes[-1]).mean())
