"""The most accurate plan within a time, and the fastest within a loss of accuracy: of members, weights and cascades.

choices    the front of members (`front.py`), and where asked for, cascades of these members at several thresholds
front      those that no other beats in accuracy and expected JCT at once
within     the most accurate choice of the front that is expected to be done in time
loss       the fastest one whose accuracy is at most so much below that of all members
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from esen_lab.common.surroundings import step
from esen_lab.common.units import check_number, format_percent, format_seconds
from esen_lab.common.words import unknown
from esen_lab.cost_model import CostModel
from esen_lab.ensemble import make_combine
from esen_lab.errors import UsageError
from esen_lab.planner import Allocation
from esen_lab.studies.front import Choice, ParetoFront, accuracy_of, undominated
from esen_lab.studies.members import cascade_of_members, front_of_members
from esen_lab.studies.validation import Answers, Floats

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""The confidences at which cascades are tried."""
_MOST_ENSEMBLES = 6
"""So many subsets of the front, the most accurate ones, are tried as cascades."""
WEIGHTS = ("", "greedy")


def front_of_choices(
    models: Mapping[str, CostModel],
    units: int,
    answers: Answers,
    labels: NDArray[np.int64],
    *,
    cascades: bool = False,
    weights: str | None = None,
    stage_overhead_s: float = 0.0,
    seed: int = 0,
) -> ParetoFront:
    """The front of accuracy against expected JCT over subsets of members, and cascades of them.

    Args:
        models: The cost models.
        units: Units of the device.
        answers: Of the members, on validation data.
        labels: The right classes.
        cascades: Whether to try cascades too.
        weights: "greedy": members are weighted as was selected on one half of the data, and every accuracy of the front
            is that of the other half. None: the ensemble's own rule, on all the data.
        stage_overhead_s: What one more stage of a cascade costs.
        seed: Of the halves, and of NSGA-II.

    Raises:
        UsageError: An option is unknown, or the outputs and the rule are not those of a classifier.
    """
    check_weights(weights)
    reported, said = labels, f"on all {answers.samples} validation samples, on which it was chosen too"
    choices: tuple[Choice, ...]
    whole = answers
    if weights == "greedy":
        halves = Halves.of(answers.samples, seed)
        said = f"on {len(halves.report)} validation samples; weights were selected on the other {len(halves.selection)}"
        reported = labels[halves.report]
        plain_front = front_of_members(
            models, units, answers.some(halves.selection), labels[halves.selection], seed=seed
        )
        exact, evaluations = plain_front.exact, plain_front.evaluations
        choices = tuple(one for choice in plain_front.choices for one in _weighted(choice, answers, labels, halves))
        whole = answers.some(halves.report)
    else:
        front = front_of_members(models, units, answers, labels, seed=seed)
        choices, exact, evaluations = front.choices, front.exact, front.evaluations
    everybody = accuracy_of_all(whole, reported)
    if cascades:
        choices = (*choices, *_cascades(choices, models, units, whole, reported, stage_overhead_s))
    kept = undominated(replace(choice, judged=said) for choice in choices)
    return ParetoFront(choices=kept, exact=exact and not cascades, evaluations=evaluations, whole_accuracy=everybody)


def accuracy_of_all(answers: Answers, labels: NDArray[np.int64]) -> float:
    """The fraction of samples that all members together get right, by the ensemble's own rule."""
    return accuracy_of(answers.outputs, labels, answers.combined)(tuple(answers.outputs))


def _weighted(choice: Choice, answers: Answers, labels: NDArray[np.int64], halves: Halves) -> Sequence[Choice]:
    """A choice with its own rule, and with learned weights; members without a weight are left out."""
    own = answers.only(choice.names)
    report = own.some(halves.report)
    plain = replace(choice, accuracy=accuracy_of_all(report, labels[halves.report]))
    selection = own.some(halves.selection)
    learned = greedy_weights(selection.outputs, labels[halves.selection])
    kept = {name: weight for name, weight in learned.items() if weight > 0}
    if set(kept) != set(choice.names):  # the front has the subsets worth having: this one is another choice's
        return [plain]
    rule = replace(own.ensemble, combine=make_combine("weighted", weights=kept))
    accuracy = accuracy_of_all(replace(report, ensemble=rule), labels[halves.report])
    return [plain, replace(choice, accuracy=accuracy, weights=kept)]


def _cascades(
    choices: Sequence[Choice],
    models: Mapping[str, CostModel],
    units: int,
    answers: Answers,
    labels: NDArray[np.int64],
    stage_overhead_s: float,
) -> list[Choice]:
    """Cascades of the members of the most accurate choices."""
    found: list[Choice] = []
    plans: dict[frozenset[str], Allocation] = {}
    ranked = sorted((one for one in choices if len(one.names) > 1), key=lambda one: -one.accuracy)
    everybody = tuple(answers.ensemble.names)
    sets = list(dict.fromkeys([*((one.names, tuple((one.weights or {}).items())) for one in ranked), (everybody, ())]))
    for names, weights in sets[:_MOST_ENSEMBLES]:
        own = answers.only(names)
        if weights:
            own = replace(own, ensemble=replace(own.ensemble, combine=make_combine("weighted", weights=dict(weights))))
        for threshold in THRESHOLDS:
            cascade = cascade_of_members(
                {name: models[name] for name in own.ensemble.names},
                units,
                own,
                threshold,
                labels=labels,
                stage_overhead_s=stage_overhead_s,
                plans=plans,
            )
            if len(cascade.stages) > 1 and cascade.accuracy is not None and cascade.at_once is not None:
                found.append(
                    Choice(
                        names=tuple(own.ensemble.names),
                        accuracy=cascade.accuracy,
                        allocation=cascade.at_once,
                        cascade=cascade,
                        weights=dict(weights) or None,
                    )
                )
    return found


def check_weights(weights: str | None) -> None:
    """Whether it is a way to weigh members.

    Raises:
        UsageError: It is not.
    """
    if weights not in (None, *WEIGHTS):
        raise unknown("Weights are 'greedy', learned, or those of the rule", weights, ("greedy",), given=repr(weights))


def check_within(within_s: float) -> None:
    """Whether it is a time.

    Raises:
        UsageError: It is not.
    """
    check_number(within_s, "A time is a number of seconds above 0", above=0.0)


def check_loss(loss: float) -> None:
    """Whether it is a loss of accuracy.

    Raises:
        UsageError: It is not.
    """
    rule = "A loss of accuracy is a fraction from 0 to below 1"
    check_number(loss, rule, least=0.0, below=1.0, hint="0.005 is half a percent.")


def best_within(front: ParetoFront, within_s: float) -> Choice:
    """The most accurate choice that is expected to be done within a time.

    Raises:
        UsageError: It is no time, or nobody is as fast.
    """
    check_within(within_s)
    in_time = [choice for choice in front.choices if choice.jct_s <= within_s]
    if not in_time:
        fastest = front.choices[0]
        raise UsageError(
            f"Some choice of members is expected within {format_seconds(within_s)}",
            given=f"the fastest, {' + '.join(fastest.names)}, takes {format_seconds(fastest.jct_s)}",
            hint="Allow more time, give less work (a smaller batch), or measure faster backends: "
            f"{step('lab.profile(backends=...)', '%esen profile --backends A,B')}.",
        )
    return in_time[-1]  # the front rises in accuracy with time


def fastest_within(front: ParetoFront, loss: float) -> Choice:
    """The fastest choice whose accuracy is at most `loss` below that of all members together.

    Args:
        front: Of choices.
        loss: 0 to 1: 0.005 is half a percent of the samples.

    Raises:
        UsageError: It is no such number, or no choice of the front is as accurate.
    """
    check_loss(loss)
    least = (front.whole_accuracy or 0.0) - loss
    good = [choice for choice in front.choices if choice.accuracy >= least - 1e-12]
    if not good:
        best = front.choices[-1]
        raise UsageError(
            f"Some choice loses at most {format_percent(loss)} of the accuracy of all members "
            f"({format_percent(front.whole_accuracy or 0.0)})",
            given=f"the best one found has {format_percent(best.accuracy)}",
        )
    return good[0]


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
    """Weights of members that add up to 1; some may be 0: forward selection with replacement.

    Caruana, Niculescu-Mizil, Crew, Ksikes: Ensemble Selection from Libraries of Models, ICML 2004. Beginning with
    nobody, the member whose output, added to the sum so far, gives the best accuracy is taken, again and again; a
    member's weight is how often. The best sum of all steps is kept. What is fitted to data looks better on it than it
    is: weights are selected on one half, and reported on the other.

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
