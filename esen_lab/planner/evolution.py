"""Subsets that no other beats in two values at once, evolved: where there are too many to look at each.

NSGA-II (Deb, Pratap, Agarwal and Meyarivan, IEEE Trans. Evol. Comp. 6, 2002), as Optuna has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from esen_lab.planner.optuna_search import imported_optuna, quiet

POPULATION, GENERATIONS = 40, 25


def evolved_subsets(
    names: Sequence[str],
    values: Callable[[int], tuple[float, float]],
    *,
    seed: int,
) -> list[int]:
    """Subsets of `names`, as bit masks, that none of those tried beats in both values.

    Args:
        names: What to choose from.
        values: For a subset that is not empty, what should be large and what should be small; asked once for each.
        seed: Of the evolution.

    Raises:
        UsageError: Optuna is not installed.
    """
    optuna = imported_optuna("Evolving subsets")
    tried: dict[int, tuple[float, float]] = {}

    def objective(trial: Any) -> tuple[float, float]:
        mask = sum(trial.suggest_categorical(name, (0, 1)) << i for i, name in enumerate(names))
        if not mask:
            raise optuna.TrialPruned("it is empty")
        if mask not in tried:
            tried[mask] = values(mask)
        return tried[mask]

    with quiet(optuna):
        study = optuna.create_study(
            directions=("maximize", "minimize"),
            sampler=optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=seed),
        )
        # The ends of the front are known to matter: each alone, and all of them.
        for chosen in (*((name,) for name in names), tuple(names)):
            study.enqueue_trial({name: int(name in chosen) for name in names})
        study.optimize(objective, n_trials=POPULATION * GENERATIONS)
    return [mask for mask, own in tried.items() if not any(_beats(other, own) for other in tried.values())]


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] >= other[0] and one[1] <= other[1] and one != other
