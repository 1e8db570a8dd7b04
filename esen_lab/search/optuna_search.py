"""Optuna as the searcher: the alternative that ESEN's users know, on the same problem and the same contract.

A trial chooses a lane for each sub-model; the shares of those lanes are then solved exactly, which leaves Optuna the
hard part only. Studies live in memory, or in Optuna's own storage, where they resume, run in several processes at once
and open in optuna-dashboard.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from esen_lab.errors import StoreError, UsageError
from esen_lab.search.exact import Exact
from esen_lab.search.problem import Problem, breaks_limit
from esen_lab.search.shares import best_shares
from esen_lab.search.watch import Watch

SAMPLERS = {
    "tpe": "TPESampler",
    "cmaes": "CmaEsSampler",
    "gp": "GPSampler",
    "nsga2": "NSGAIISampler",
    "random": "RandomSampler",
}
NEEDS = {"cmaes": ("cmaes",), "gp": ("scipy", "torch")}
"""Packages that a sampler needs besides optuna itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptunaSearch:
    """Options of the Optuna searcher.

    Attributes:
        sampler: "tpe", "cmaes", "gp", "nsga2" or "random".
        n_trials: How many trials the study is to have in all; a resumed study adds those that are missing.
        seed: Of the sampler. A study that resumes, or that several processes work on, is no longer a function of it.
        storage: None for memory; an SQLAlchemy URL ("sqlite:///studies.db"); or the path of a journal file
            ("studies.log").
        study_name: None chooses a name that stands for the tables and the units, so that only the same problem resumes.
        warm_start: Whether to begin from the exact searcher's fast answer.
    """

    sampler: str = "tpe"
    n_trials: int = 500
    seed: int = 0
    storage: str | None = None
    study_name: str | None = None
    warm_start: bool = True

    def __post_init__(self) -> None:
        """Check the options."""
        if self.sampler not in SAMPLERS:
            raise UsageError(f"A sampler is one of {', '.join(SAMPLERS)}", given=repr(self.sampler))
        if self.n_trials < 1:
            raise UsageError("A study makes at least one trial", given=f"n_trials={self.n_trials!r}")

    def __call__(self, problem: Problem, watch: Watch) -> None:
        """See `Searcher`."""
        try:
            import optuna
        except ImportError as missing:
            raise UsageError(
                "The searcher 'optuna' needs the package optuna", given="it is not installed", hint="pip install optuna"
            ) from missing

        lanes = [f"lane of {'+'.join(problem.names[k] for k in item)}" for item in problem.items]

        def objective(trial: optuna.Trial) -> float:
            watch.evaluations += 1
            jct_s = _jct_s(problem, watch, [trial.suggest_int(lane, 0, problem.max_lanes - 1) for lane in lanes])
            if jct_s is None:
                raise optuna.TrialPruned("it breaks a limit")
            return jct_s

        with _quiet(optuna):
            study = self._study(optuna, problem)
            finished = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
            for trial in finished:
                if trial.value is not None and set(lanes) <= set(trial.params):
                    _jct_s(problem, watch, [trial.params[lane] for lane in lanes])
            if finished:
                watch.notes.append(f"resumed a study with {len(finished)} finished trials")
            if self.warm_start:
                self._warm_start(problem, watch)
                if watch.best is not None and not finished:
                    study.enqueue_trial({lanes[i]: k for k, group in enumerate(watch.best.groups) for i in group})
            missing_trials = self.n_trials - len(finished)
            if missing_trials > 0:
                study.optimize(
                    objective,
                    n_trials=missing_trials,
                    callbacks=[lambda study, _: study.stop() if watch.over else None],
                )

    def _warm_start(self, problem: Problem, watch: Watch) -> None:
        Exact(proof=False, sequential_within=0.0, seed=self.seed)(problem, watch)
        watch.limit(float("inf"))
        if watch.best is not None:
            watch.notes.append("warm start: began from the exact searcher's fast answer")

    def _study(self, optuna: Any, problem: Problem) -> Any:
        name = self.study_name or study_name(problem)
        for package in NEEDS.get(self.sampler, ()):  # Optuna would notice at its second trial only, and fail that one
            if find_spec(package) is None:
                raise UsageError(
                    f"The sampler {self.sampler!r} needs the package {package}",
                    given="it is not installed",
                    hint=f"pip install {package}",
                )
        sampler = getattr(optuna.samplers, SAMPLERS[self.sampler])(seed=self.seed)
        try:
            return optuna.create_study(
                study_name=name,
                storage=self._storage(optuna),
                sampler=sampler,
                direction="minimize",
                load_if_exists=True,
            )
        except Exception as failure:
            if self.storage is None:
                raise
            raise StoreError(
                f"The Optuna storage {self.storage!r} cannot be opened: {failure}", hint="Give another path."
            ) from failure

    def _storage(self, optuna: Any) -> Any:
        if self.storage is None or "://" in self.storage:
            return self.storage
        journal = optuna.storages.journal
        return optuna.storages.JournalStorage(journal.JournalFileBackend(self.storage))


def _jct_s(problem: Problem, watch: Watch, lane_of: Sequence[int]) -> float | None:
    """The JCT of the partition with its exact shares, offered to `watch`; None where it breaks a limit."""
    members: dict[int, list[int]] = {}
    for i, lane in enumerate(lane_of):
        members.setdefault(lane, []).append(i)
    groups = tuple(tuple(group) for group in members.values())
    found = None if breaks_limit(problem, groups) else best_shares(problem, groups)
    if found is None:
        return None
    watch.offer(groups, *found)
    return found[1]


def study_name(problem: Problem) -> str:
    """A name that is the same for the same sub-models, tables, units and limits, and for nothing else."""
    content = repr((problem.names, problem.items, problem.units, problem.capacity, problem.max_lanes))
    digest = hashlib.sha256(content.encode() + problem.table.tobytes() + problem.conflicts.tobytes())
    return f"esen-{digest.hexdigest()[:16]}"


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Optuna logs a line per trial and warns of experimental samplers; both are the user's own choice here."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
