"""LightGBM: its estimators and boosters, and the text files it saves (.txt, .lgb), which run nothing when read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from esen_lab.ensemble.fingerprint import text_digest
from esen_lab.ensemble.kinds.adapted import Adapted, check_options, loading, needs, watched_files
from esen_lab.ensemble.kinds.estimator import Estimator, adapted_estimator, check_fitted, method_of
from esen_lab.ensemble.recipes import FileRecipe
from esen_lab.errors import UsageError, first_line
from esen_lab.files import read_bytes

_BOOSTER = "Booster"
_PLAIN_METHODS = {"LGBMClassifier": "predict_proba", "LGBMRegressor": "predict", "LGBMRanker": "predict"}
"""Of estimators whose answer is the booster's own."""


class LightGbm(Estimator):
    """A booster, as itself or in the place of the estimator that trained it.

    Args:
        estimator: The booster, or an estimator.
        method: Which method answers.
        own: See `Estimator`.
        iterations: How many rounds it predicts with; None: those of its best, or all.
        both_classes: Whether it answers for two classes, of which the booster gives the second.
    """

    runs_in = "LightGBM"

    def __init__(
        self, estimator: Any, method: str, *, own: bool, iterations: int | None = None, both_classes: bool = False
    ) -> None:
        super().__init__(estimator, method, own=own)
        self._iterations = iterations
        self._both_classes = both_classes
        self._num_threads = 1

    def answer(self, table: Any) -> Any:
        """What it predicts."""
        if type(self.estimator).__name__ != _BOOSTER:
            return super().answer(table)
        threads = {"num_threads": self._num_threads} if self._own else {}
        found = self.estimator.predict(table, num_iteration=self._iterations, **threads)
        if not self._both_classes:
            return found
        import numpy

        return numpy.vstack((1.0 - found, found)).transpose()  # as LGBMClassifier does

    def set_threads(self, count: int) -> None:
        """They go into each call."""
        super().set_threads(count)
        self._num_threads = count


def adapt(source: Any, options: Mapping[str, Any]) -> Adapted | None:
    """A member made of a booster, an estimator of LightGBM, or a booster's file; None for anything else."""
    if isinstance(source, Path):
        if source.suffix.lower() not in (".txt", ".lgb"):
            return None
        check_options(options, (), "A booster's file")
        found = _adapted_booster(_booster(read_bytes(source), source.name), options)
        return replace(found, watch=watched_files(source, [source]))
    if not any(base.__module__.partition(".")[0] == "lightgbm" for base in type(source).__mro__):
        return None
    if type(source).__name__ == _BOOSTER:
        return _adapted_booster(source, options)
    if not hasattr(source, "booster_"):
        return None
    check_fitted(source)
    text = source.booster_.model_to_string(num_iteration=-1)
    method = method_of(source, options.get("method"))
    recipes = []
    predicts_otherwise = any("pred" in name for name in source.get_params())  # pred_early_stop and the like
    plain = _PLAIN_METHODS.get(type(source).__name__) == method
    if plain and not callable(source.objective) and not predicts_otherwise:
        classes = int(getattr(source, "n_classes_", 0) or 0)
        kept = {"iterations": _best(source.booster_), "both_classes": classes == 2, "method": method}
        recipes = [partial(FileRecipe, form="lightgbm", files={"txt": text.encode()}, options=kept)]
    return adapted_estimator(source, options, recipes, values=text_digest(text), size=len(text), make=LightGbm)


def load(files: Mapping[str, bytes], options: Mapping[str, Any]) -> LightGbm:
    """The module of a booster that was kept."""
    return LightGbm(
        _booster(files["txt"], "what was kept"),
        options["method"],
        own=True,
        iterations=options["iterations"],
        both_classes=options["both_classes"],
    )


def _best(booster: Any) -> int:
    """The rounds it predicts with when it is not told."""
    return int(booster.best_iteration) if booster.best_iteration > 0 else -1


def _booster(data: bytes, name: str) -> Any:
    needs("lightgbm", "trees", "A booster of LightGBM")
    with loading("lightgbm"):
        import lightgbm

    try:
        return lightgbm.Booster(model_str=data.decode())
    except (lightgbm.basic.LightGBMError, UnicodeDecodeError) as problem:
        raise UsageError("LightGBM can read a booster's file", given=f"{name}: {first_line(problem)}") from problem


def _adapted_booster(booster: Any, options: Mapping[str, Any]) -> Adapted:
    """A booster has no parameters of its own; it answers with `predict`."""
    text = booster.model_to_string(num_iteration=-1)
    kept = {"iterations": _best(booster), "both_classes": False, "method": "predict"}
    return adapted_estimator(
        booster,
        options,
        [partial(FileRecipe, form="lightgbm", files={"txt": text.encode()}, options=kept)],
        params=f"{booster.num_trees()} trees of {booster.num_feature()} features",
        values=text_digest(text),
        size=len(text),
        make=LightGbm,
    )
