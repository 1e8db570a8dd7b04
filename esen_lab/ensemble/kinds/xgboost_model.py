"""XGBoost: its estimators and boosters, and the files it saves (.ubj, .json), which run nothing when they are read."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from esen_lab.ensemble.fingerprint import bytes_digest
from esen_lab.ensemble.kinds.adapted import Adapted, check_options, loading, needs, watched_files
from esen_lab.ensemble.kinds.estimator import Estimator, adapted_estimator, check_fitted, method_of
from esen_lab.ensemble.recipes import FileRecipe
from esen_lab.errors import UsageError, first_line
from esen_lab.files import read_bytes

_BOOSTER = "Booster"
_PLAIN = (bool, int, float, str)


class XGBoost(Estimator):
    """A booster, or an estimator around one."""

    runs_in = "XGBoost"

    def answer(self, table: Any) -> Any:
        """What it predicts."""
        if type(self.estimator).__name__ != _BOOSTER:
            return super().answer(table)
        import xgboost

        return self.estimator.predict(xgboost.DMatrix(table), validate_features=False)

    def set_threads(self, count: int) -> None:
        """Those of the booster, too: it keeps a number of its own."""
        super().set_threads(count)
        booster = self.estimator if type(self.estimator).__name__ == _BOOSTER else self.estimator.get_booster()
        booster.set_param({"nthread": count})


def adapt(source: Any, options: Mapping[str, Any]) -> Adapted | None:
    """A member made of a booster, an estimator of XGBoost, or their file; None for anything else."""
    if isinstance(source, Path):
        if source.suffix.lower() not in (".ubj", ".json"):
            return None
        check_options(options, (), "A booster's file")
        found = _adapted_booster(_read(source), options)
        return replace(found, watch=watched_files(source, [source]))
    if not any(base.__module__.partition(".")[0] == "xgboost" for base in type(source).__mro__):
        return None
    if type(source).__name__ == _BOOSTER:
        return _adapted_booster(source, options)
    if not hasattr(source, "get_booster"):
        return None
    check_fitted(source)
    raw = bytes(source.get_booster().save_raw("ubj"))
    method = method_of(source, options.get("method"))
    recipes = []
    if type(source).__module__.partition(".")[0] == "xgboost":
        parameters = _plain_parameters(source)
        kept = {"class": type(source).__name__, "method": method, "parameters": parameters}
        if not any(isinstance(value, float) and math.isinf(value) for value in parameters.values()):
            recipes = [partial(FileRecipe, form="xgboost", files={"ubj": raw}, options=kept)]  # JSON has no infinity
    return adapted_estimator(source, options, recipes, values=bytes_digest(raw), size=len(raw), make=XGBoost)


def load(files: Mapping[str, bytes], options: Mapping[str, Any]) -> XGBoost:
    """The module of a booster that was kept."""
    needs("xgboost", "trees", "A booster of XGBoost")
    with loading("xgboost"):
        import xgboost

    name = options["class"]
    kinds = {kind.__name__: kind for kind in (*_subclasses(xgboost.XGBModel), xgboost.Booster)}
    if name not in kinds:
        raise UsageError("XGBoost has the estimator that was kept", given=name)
    made = kinds[name](**options.get("parameters", {}))
    made.load_model(bytearray(files["ubj"]))
    return XGBoost(made, options["method"], own=True)


def _plain_parameters(estimator: Any) -> dict[str, Any]:
    """Those that JSON has and that say something, numbers of NumPy among them: which values count as missing, say."""
    found = {
        name: value.item() if type(value).__module__ == "numpy" and getattr(value, "ndim", 1) == 0 else value
        for name, value in estimator.get_params(deep=False).items()
    }
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, _PLAIN) and value == value  # noqa: PLR0124  NaN is the default of `missing`
    }


def _subclasses(kind: Any) -> list[Any]:
    return [kind, *itertools.chain.from_iterable(map(_subclasses, kind.__subclasses__()))]


def _read(path: Path) -> Any:
    needs("xgboost", "trees", "A booster of XGBoost")
    with loading("xgboost"):
        import xgboost

    booster = xgboost.Booster()
    try:
        booster.load_model(bytearray(read_bytes(path)))
    except xgboost.core.XGBoostError as problem:
        raise UsageError("XGBoost can read a booster's file", given=f"{path.name}: {first_line(problem)}") from problem
    return booster


def _adapted_booster(booster: Any, options: Mapping[str, Any]) -> Adapted:
    """A booster has no parameters of its own; it answers with `predict`."""
    raw = bytes(booster.save_raw("ubj"))
    kept = {"class": _BOOSTER, "method": "predict"}
    return adapted_estimator(
        booster,
        options,
        [partial(FileRecipe, form="xgboost", files={"ubj": raw}, options=kept)],
        params=f"{booster.num_boosted_rounds()} rounds of {booster.num_features()} features",
        values=bytes_digest(raw),
        size=len(raw),
        make=XGBoost,
    )
