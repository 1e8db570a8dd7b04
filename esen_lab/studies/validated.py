"""What every member answered on labelled data, kept: what any of them together are worth is looked up from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esen_lab.ensemble import Ensemble
from esen_lab.errors import UsageError
from esen_lab.run import Worth
from esen_lab.studies.front import accuracy_of
from esen_lab.studies.validation import Answers


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Validated:
    """Answers of all members on validation data, and the right ones.

    Attributes:
        answers: Of each member.
        labels: The right class of each sample, shape (samples,).
    """

    answers: Answers
    labels: NDArray[np.int64]
    _known: dict[tuple[Any, ...], float | None] = field(default_factory=dict, repr=False)

    def holds_for(self, ensemble: Ensemble, names: Sequence[str]) -> bool:
        """Whether these members of an ensemble are those that answered."""
        before = {member.name: member for member in self.answers.ensemble.submodels}
        return all(name in before and before[name].same_as(ensemble.get(name)) for name in names)

    def accuracy(self, names: Sequence[str], ensemble: Ensemble) -> float | None:
        """The part of the samples that these members together get right, under the ensemble's rule; None: unknown.

        Args:
            names: Some of the members.
            ensemble: As it is now; its rule may be another one by now.
        """
        if not names or not self.holds_for(ensemble, names):
            return None
        key = (ensemble.combine, *names)
        if key not in self._known:
            answers = replace(self.answers, ensemble=ensemble)
            find = accuracy_of(answers.outputs, self.labels, answers.combined)
            try:
                self._known[key] = find(tuple(names))
            except UsageError:  # a rule that answers with no classes
                self._known[key] = None
        return self._known[key]

    def most_accurate(self, names: Sequence[str]) -> float:
        """What no set of these members can exceed: the part of the samples that one of them could get right.

        A mean, weighted or not, ranks the right class of a sample first only where for every other class some member
        ranks the right one before it, or level; and a majority elects only a class that somebody votes for.
        """
        rows = np.arange(len(self.labels))
        above: NDArray[np.bool_] | None = None
        for name in names:
            scores = self.answers.outputs[name]
            own = scores[rows, self.labels][:, None] >= scores
            above = own if above is None else above | own
        return 1.0 if above is None else float(above.all(axis=1).mean())

    def worth(self, names: Sequence[str], all_names: Sequence[str], ensemble: Ensemble) -> Worth | None:
        """What an answer of some members is worth beside that of all; None where that is not known of them."""
        own, of_all = self.accuracy(names, ensemble), self.accuracy(all_names, ensemble)
        if own is None or of_all is None:
            return None
        return Worth(accuracy=own, of_all=of_all, samples=len(self.labels))
