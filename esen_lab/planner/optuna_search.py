"""Optuna as the searcher: the alternative that ESEN's users know, on the same problem and the same contract.

A trial chooses a lane for each sub-model; the shares of those lanes are then solved exactly, which leaves Optuna the
hard part only. Where the objective is the measured JCT, each trial runs its lanes, reports the median after every run,
and Optuna's pruner spares the runs of a trial that lies behind the others. Studies live in memory, or in Optuna's own
storage, where they resume, run in several processes at once and open in optuna-dashboard.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from esen_lab.common.packages import can_import
from esen_lab.common.units import check_count, check_seed
from esen_lab.common.words import unknown
from esen_lab.errors import StoreError, UsageError
from esen_lab.planner.exact.exact import Exact
from esen_lab.planner.problem import SearchProblem, breaks_limit
from esen_lab.planner.search_state import Groups, SearchWatch, check_time_limit
from esen_lab.planner.shares import best_shares

SAMPLERS = {
    "tpe": "TPESampler",
    "cmaes": "CmaEsSampler",
    "gp": "GPSampler",
    "nsga2": "NSGAIISampler",
    "random": "RandomSampler",
}
NEEDS = {"cmaes": ("cmaes",), "gp": ("scipy", "torch")}
"""Packages that a sampler needs besides optuna itself."""
_BEGUN_FOR = "esen_lab_begun_for"


@dataclass(frozen=True, slots=True, kw_only=True)
class OptunaSearch:
    """Options of the Optuna searcher.

    Attributes:
        sampler: "tpe", "cmaes", "gp", "nsga2" or "random".
        n_trials: How many trials the study is to have in all; a resumed study adds those that are missing. Pruned and
            infeasible ones count.
        seed: Of the sampler. A study that resumes, or that several processes work on, is no longer a function of it.
        storage: None for memory; an SQLAlchemy URL ("sqlite:///studies.db"); or the path of a journal file
            ("studies.log"). Not with "cmaes", which keeps its state in the study as a pickle: a study that somebody
            else made could run anything.
        study_name: None chooses a name that stands for the tables and the units, so that only the same problem resumes.
        warm_start: Whether to begin from the exact searcher's fast answer.
        prune: Whether trials that are measured may be cut short.
        time_limit_s: No trial begins after so many seconds; None for no limit.
    """

    measures: ClassVar[bool] = True
    sampler: str = "tpe"
    n_trials: int = 500
    seed: int = 0
    storage: str | os.PathLike[str] | None = None
    study_name: str | None = None
    warm_start: bool = True
    prune: bool = True
    time_limit_s: float | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        check_seed(self.seed)
        if self.sampler not in SAMPLERS:
            rule = f"A sampler is one of {', '.join(SAMPLERS)}"
            raise unknown(rule, self.sampler, SAMPLERS, given=repr(self.sampler))
        if self.sampler == "cmaes" and self.storage is not None:
            raise UsageError(
                "The sampler 'cmaes' works in memory: it keeps its state as a pickle, and a study's file is data",
                given=f"storage={self.storage!r}",
                hint="Leave the storage out, or choose another sampler.",
            )
        object.__setattr__(self, "n_trials", check_count(self.n_trials, "A study makes at least one trial, n_trials"))
        if self.storage is not None:
            if not isinstance(self.storage, (str, os.PathLike)):
                raise UsageError("A study's storage is a path, or a URL", given=f"storage={self.storage!r}")
            object.__setattr__(self, "storage", os.fspath(self.storage))
        check_time_limit(self.time_limit_s)

    def __call__(self, problem: SearchProblem, watch: SearchWatch) -> None:
        """See `Searcher`."""
        optuna = imported_optuna("The searcher 'optuna'")
        watch.limit(float("inf") if self.time_limit_s is None else self.time_limit_s)
        lanes = [f"lane of {'+'.join(problem.names[k] for k in item)}" for item in problem.items]

        def objective(trial: Any) -> float:
            watch.evaluations += 1
            groups = _groups([trial.suggest_int(lane, 0, problem.max_lanes - 1) for lane in lanes])
            solved = None if breaks_limit(problem, groups) else best_shares(problem, groups)
            if solved is None:
                raise optuna.TrialPruned("it breaks a limit")

            def hopeless(run: int, median_s: float) -> bool:
                trial.report(median_s, run)
                return self.prune and trial.should_prune()

            jct_s = watch.judge(groups, *solved, hopeless)
            if jct_s is None:
                raise optuna.TrialPruned("it was given up, or could not be run")
            return jct_s

        with quiet(optuna):
            study = self._study(optuna, problem, watch)
            done = _resume(optuna, study, problem, watch, lanes)
            if self.warm_start:
                groups = self._warm_start(problem, watch)
                if groups is not None and not done:
                    study.enqueue_trial({lanes[i]: k for k, group in enumerate(groups) for i in group})
            missing_trials = self.n_trials - done
            if missing_trials > 0 and not watch.over:
                study.optimize(
                    objective,
                    n_trials=missing_trials,
                    callbacks=[lambda study, _: study.stop() if watch.over else None],
                )

    def _warm_start(self, problem: SearchProblem, watch: SearchWatch) -> Groups | None:
        """The exact searcher's fast answer: offered at once, unless it has to be measured like all others."""
        own = SearchWatch(stop=watch.stop)
        own.raise_bound(watch.bound_s)
        Exact(proof=False, sequential_within=0.0, seed=self.seed)(problem, own)
        if own.best is None:
            return None
        if not watch.measuring:
            watch.offer(own.best.groups, own.best.shares, own.best.jct_s)
        watch.notes.append("warm start: began from the exact searcher's fast answer")
        return own.best.groups

    def _study(self, optuna: Any, problem: SearchProblem, watch: SearchWatch) -> Any:
        name = self.study_name or study_name(problem) + ("-measured" if watch.measuring else "")
        for package in NEEDS.get(self.sampler, ()):  # Optuna would notice at its second trial only, and fail that one
            if not can_import(package):
                raise UsageError(
                    f"The sampler {self.sampler!r} needs the package {package}",
                    given="it is not installed",
                    hint=f"pip install {package}",
                )
        sampler = getattr(optuna.samplers, SAMPLERS[self.sampler])(seed=self.seed)
        try:
            study = optuna.create_study(
                study_name=name,
                storage=self._storage(optuna),
                sampler=sampler,
                pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1),
                direction="minimize",
                load_if_exists=True,
            )
        except Exception as failure:
            if self.storage is None:
                raise
            raise StoreError(
                f"The Optuna storage {self.storage!r} cannot be opened: {failure}", hint="Give another path."
            ) from failure
        _check_same(study, name, study_name(problem), measured=watch.measuring)
        return study

    def _storage(self, optuna: Any) -> Any:
        storage = None if self.storage is None else os.fspath(self.storage)
        if storage is None or "://" in storage:
            return storage
        journal = optuna.storages.journal
        return optuna.storages.JournalStorage(journal.JournalFileBackend(storage))


def _check_same(study: Any, name: str, problem: str, *, measured: bool) -> None:
    """Refuse to take what a study has measured for what another problem would, and predictions for measurements.

    A study of predictions goes on with other tables: what its trials come to is computed anew.

    Raises:
        UsageError: It was begun for something else.
    """
    begun = study.user_attrs.get(_BEGUN_FOR)
    if begun is None:
        study.set_user_attr(_BEGUN_FOR, [measured, problem])
    elif begun != [measured, problem] and (measured or begun[:1] != [False]):
        raise UsageError(
            "A study goes on with predicted or with measured JCTs as it was begun; measured ones are of the same "
            "tables and limits",
            given=f"the study {name!r}, begun for others",
            hint="Give another study_name, or none: one is then chosen that stands for the tables.",
        )


def imported_optuna(what: str) -> Any:
    """The package, imported.

    Args:
        what: What needs it, for people.

    Raises:
        UsageError: It is not installed.
    """
    try:
        import optuna
    except ImportError as missing:
        raise UsageError(
            f"{what} needs the package optuna", given="it is not installed", hint="pip install optuna"
        ) from missing
    return optuna


def _groups(lane_of: Sequence[int]) -> Groups:
    """The partition that puts item i into lane lane_of[i]."""
    members: dict[int, list[int]] = {}
    for i, lane in enumerate(lane_of):
        members.setdefault(lane, []).append(i)
    return tuple(tuple(group) for group in members.values())


def _resume(optuna: Any, study: Any, problem: SearchProblem, watch: SearchWatch, lanes: Sequence[str]) -> int:
    """Offer the plans of earlier trials with what was found then, none measured again; how many trials have ended."""
    done = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    for trial in done:
        if trial.state != optuna.trial.TrialState.COMPLETE or not set(lanes) <= set(trial.params):
            continue
        groups = _groups([trial.params[lane] for lane in lanes])
        solved = None if breaks_limit(problem, groups) else best_shares(problem, groups)
        if solved is not None:
            watch.remember(groups, solved[0], trial.value if watch.measuring else solved[1])
    if done:
        watch.notes.append(f"resumed a study with {len(done)} finished trials")
    return len(done)


def study_name(problem: SearchProblem) -> str:
    """A name that is the same for the same sub-models, tables, units and limits, and for nothing else."""
    content = repr((problem.names, problem.items, problem.units, problem.capacity, problem.max_lanes))
    digest = hashlib.sha256(content.encode() + problem.table.tobytes() + problem.conflicts.tobytes())
    return f"esen-{digest.hexdigest()[:16]}"


@contextmanager
def quiet(optuna: Any) -> Iterator[None]:
    """Optuna logs a line per trial and warns of experimental samplers; both are the user's own choice here."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
