"""Estimators: whatever follows scikit-learn's interface and is fitted; computed by the library that made them.

They take one table of numbers, as an array, and use as many threads as the lane has. Elsewhere they are built from a
pickle, as the library itself keeps them; XGBoost and LightGBM have formats of their own (see their files).
"""

from __future__ import annotations

import contextlib
import copy
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from esen_lab.common.trees import Tree
from esen_lab.common.words import unknown
from esen_lab.ensemble.fingerprint import text_digest, value_digest
from esen_lab.ensemble.kinds.adapted import (
    Adapted,
    Adapter,
    Hidden,
    SourceWatch,
    array_of,
    check_options,
    device_of,
    tensors_of,
)
from esen_lab.ensemble.origin import home_of, is_installed, is_module, version_of
from esen_lab.ensemble.recipes import FileRecipe
from esen_lab.ensemble.snapshot import load_snapshot, take_snapshot
from esen_lab.errors import UsageError

_METHODS = ("predict_proba", "decision_function", "predict", "transform")
_OF_CLASSES = ("predict_proba", "predict_log_proba", "decision_function")
"""Those that answer with a score for each class."""
_THREADS = ("n_jobs", "nthread", "num_threads", "thread_count")
"""What the number of threads is called, by library."""
_MOST_PARTS = 10_000
_DEEPEST = 6
_SAMPLE_BYTES = 64
_WHOLE_BYTES = 65_536  # an array of at most so many is looked at whole
_SHORT = 20
_KIND = "estimator"


class Estimator(Adapter):
    """A fitted estimator as a module of one table.

    Args:
        estimator: The estimator.
        method: Which method answers.
        own: Whether it belongs to this module, which may then set its number of threads.
    """

    kind = _KIND
    runs_in = "the library that fitted it"

    def __init__(self, estimator: Any, method: str, *, own: bool) -> None:
        super().__init__()
        self.method = method
        self._own = own
        self._estimator = Hidden(estimator)
        self._in_lane = False
        self._columns = columns_of(estimator)
        count = getattr(estimator, "num_features", None) or getattr(estimator, "num_feature", None)
        self._features = count() if type(estimator).__name__ == "Booster" and callable(count) else None
        self._asked = Hidden()
        self._count = Hidden()  # of threads that it was set to
        self._limits = Hidden({})  # by thread, in a lane: the number that holds there, and what keeps it

    @property
    def estimator(self) -> Any:
        """The estimator."""
        return self._estimator.value

    def forward(self, *args: Any, **kwargs: Any) -> Tree:
        """What its method answers to the table.

        Raises:
            UsageError: The input is not one table with the columns it was fitted on, or its answer is no numbers.
        """
        given = (*args, *kwargs.values())
        if len(given) != 1 or not isinstance(given[0], torch.Tensor):
            raise UsageError(
                "An estimator takes one table of numbers, a row for each sample",
                given=f"{len(given)} parts",
                hint="Give an example that is one tensor or array: x, or {'x': x}.",
            )
        table = array_of(given[0])
        features = getattr(self.estimator, "n_features_in_", self._features)
        if isinstance(features, int) and table.ndim == 2 and table.shape[1] != features:
            raise UsageError(
                f"This estimator takes tables of {features} columns",
                given=f"one of {table.shape[1]}",
                hint="Give it what it was fitted on.",
            )
        with self._in_threads(torch.get_num_threads()):
            answer = self.answer(table if self._columns is None else _framed(table, self._columns))
        return tensors_of(answer, device_of(args, kwargs))

    def answer(self, table: Any) -> Any:
        """What its method answers to an array."""
        return getattr(self.estimator, self.method)(table)

    def set_threads(self, count: int) -> None:
        """Have it use `count` threads, or the fewer that its user asked for."""
        if self._asked.value is None:
            self._asked.value = _threads_asked(self.estimator)
        for part, name, asked in self._asked.value:
            setattr(part, name, min(asked, count) if asked else count)

    def enter_lane(self) -> None:
        """What it sets from now on stays: setting it at each call would take longer than many an answer."""
        self._in_lane = True

    @contextlib.contextmanager
    def _in_threads(self, count: int) -> Iterator[None]:
        """Its libraries compute with `count` threads; outside of lanes, what they would for others is put back."""
        if self._own and self._count.value != count:
            self.set_threads(count)
            self._count.value = count
        if not self._in_lane:
            with _limited(count):
                yield
            return
        held, here = self._limits.value, threading.get_ident()  # each thread has its own number for OpenMP
        if here not in held or held[here][0] != count:
            held.pop(here, None)
            limits = _limited(count)
            limits.__enter__()
            held[here] = count, limits  # for as long as it is held
        yield


@contextlib.contextmanager
def _limited(count: int) -> Iterator[None]:
    """No library that is loaded computes with more threads than `count`, in this thread."""
    with contextlib.ExitStack() as opened:
        joblib = sys.modules.get("joblib")
        if joblib is not None:
            # Threads: processes would start at the first call, and outside of what the lane is measured by.
            opened.enter_context(joblib.parallel_config(backend="threading", n_jobs=count))
        with contextlib.suppress(ImportError):
            import threadpoolctl

            opened.enter_context(threadpoolctl.threadpool_limits(count))
        opened.enter_context(warnings.catch_warnings())
        # Arrays have no names of columns.
        warnings.filterwarnings("ignore", "X does not have valid feature names", UserWarning)
        yield


def adapt(source: Any, options: Mapping[str, Any]) -> Adapted | None:
    """A member made of an estimator; None for anything else."""
    if not is_estimator(source):
        return None
    return adapted_estimator(source, options, [])


def is_estimator(source: Any) -> bool:
    """Whether `source` has scikit-learn's interface."""
    return (
        not isinstance(source, type)
        and not is_module(source)
        and callable(getattr(source, "fit", None))
        and callable(getattr(source, "get_params", None))
    )


def adapted_estimator(
    source: Any,
    options: Mapping[str, Any],
    recipes: Sequence[Callable[[], Any]] = (),
    *,
    params: str = "",
    values: str = "",
    size: int = 0,
    make: type[Estimator] | None = None,
) -> Adapted:
    """What `adapt` gives, with the formats of a library before the pickle.

    Args:
        source: The estimator.
        options: The user's: `method`.
        recipes: Preferred ways to build it elsewhere.
        params: What it was told to be; "" for its parameters.
        values: A digest of its content; "" to take it apart.
        size: Bytes of its content; 0 where that is not known.
        make: The module around it; None for `Estimator`.
    """
    check_options(options, ("method",), "An estimator")
    check_fitted(source)
    method = method_of(source, options.get("method"))
    notes = []
    if method == "decision_function" and "method" not in options:
        notes.append("has no probabilities: it answers with decision_function")
    labels = _labels_of(source, method)
    if labels:
        some = labels if len(labels) <= _SHORT else [*labels[: _SHORT - 1], "..."]
        notes.append(f"its columns are those of its classes {', '.join(some)}, in this order")
    if _takes_codes(source):
        notes.append("takes codes of categories (x.cat.codes of pandas) and not their values, as it does of arrays")
    roots = sorted({home_of(type(part)).partition(".")[0] for part in (source, *_parts(source))})
    versions = [f"{root} {version_of(root)}" for root in roots]
    structure = f"{_path_of(source)} {method} {params or _params_text(source)} {_looks_of(source)} {versions}"
    code_of_the_users = any(not is_installed(type(part)) for part in (source, *_parts(source)))
    called = copy.deepcopy(source) if code_of_the_users else source  # a call may change it
    return Adapted(
        module=(make or Estimator)(called, method, own=False),
        recipes=[*recipes, partial(_pickled, source, method)],
        class_name=type(source).__name__,
        kind=_KIND,
        structure=structure,
        values=text_digest(structure, values or value_digest(source)),
        memory_bytes=size or _size_of(source),
        watch=SourceWatch(source, partial(mark_of, source), "what it was fitted to"),
        notes=tuple(notes),
        state=partial(value_digest, called) if code_of_the_users else None,
    )


def load(files: Mapping[str, bytes], options: Mapping[str, Any]) -> Any:
    """The module of what was pickled: an estimator, or a function's adapter itself. Runs what the pickle says."""
    made: Any = load_snapshot(files["pkl"])
    return made if is_module(made) else Estimator(made, options["method"], own=True)


def _pickled(estimator: Any, method: str) -> FileRecipe:
    return FileRecipe(form="pickle", files={"pkl": take_snapshot(estimator)}, options={"method": method})


def check_fitted(estimator: Any) -> None:
    """Refuse an estimator that is not fitted.

    Raises:
        UsageError: It is not.
    """
    known = getattr(estimator, "__sklearn_is_fitted__", None)
    fitted = True
    if callable(known):
        fitted = bool(known())
    elif "sklearn" in sys.modules:
        from sklearn.exceptions import NotFittedError
        from sklearn.utils.validation import check_is_fitted

        try:
            check_is_fitted(estimator)
        except NotFittedError:
            fitted = False
        except Exception:  # of another library: its first call tells
            fitted = True
    if not fitted:
        raise UsageError(
            "An estimator is fitted before it is registered",
            given=f"a {type(estimator).__name__} that is not",
            hint="Call its fit first.",
        )


def method_of(estimator: Any, asked: Any) -> str:
    """Which method of an estimator answers.

    Raises:
        UsageError: It has none, or not the one asked for.
    """
    if asked is not None:
        if not isinstance(asked, str) or not callable(getattr(estimator, asked, None)):
            known = [name for name in _METHODS if callable(getattr(estimator, name, None))]
            raise unknown("The method that answers is one of the estimator's", asked, known, given=repr(asked))
        return asked
    found = next((name for name in _METHODS if callable(getattr(estimator, name, None))), "")
    # Regressors have `predict` alone; outlier detectors and clusterers too have more, of which `predict` is meant.
    kind = getattr(estimator, "_estimator_type", "")
    with contextlib.suppress(Exception):
        from sklearn.base import is_classifier

        kind = "classifier" if is_classifier(estimator) else "other"
    if kind != "classifier" and callable(getattr(estimator, "predict", None)):
        return "predict"
    if not found:
        raise UsageError(
            f"An estimator has one of {', '.join(_METHODS)}", given=f"a {type(estimator).__name__} with none of them"
        )
    return found


def _labels_of(estimator: Any, method: str) -> list[str]:
    """The classes whose scores its columns are, where these are others than 0, 1, 2 and so on.

    Of a network the third column is class 2, and a rule combines what stands in the same column.
    """
    labels: Any = getattr(estimator, "classes_", None)
    if method not in _OF_CLASSES or getattr(labels, "ndim", 0) != 1:
        return []
    found = list(labels)
    return [] if found == list(range(len(found))) else list(map(str, found))


def _takes_codes(estimator: Any) -> bool:
    """Whether a booster was trained on categories of pandas: of a table that is no frame of pandas it takes codes."""
    get = getattr(estimator, "get_booster", None)
    booster = get() if callable(get) else getattr(estimator, "booster_", estimator)
    return bool(getattr(booster, "pandas_categorical", None)) or "c" in (getattr(booster, "feature_types", None) or ())


def columns_of(estimator: Any) -> tuple[str, ...] | None:
    """The names of its columns, where a part of it finds them by name; None where an array does."""
    names: Any = getattr(estimator, "feature_names_in_", None)
    by_name = names is not None and any(type(part).__name__ == "ColumnTransformer" for part in _parts(estimator))
    return tuple(map(str, names)) if by_name else None


def _framed(table: Any, columns: tuple[str, ...]) -> Any:
    import pandas

    return pandas.DataFrame(table, columns=list(columns))


# --- what it is made of -----------------------------------------------------------------------------------------------


def _parts(estimator: Any) -> list[Any]:
    """The estimator and those inside it, fitted ones included."""
    found: list[Any] = []
    seen: set[int] = set()
    waiting: list[tuple[Any, int]] = [(estimator, 0)]
    while waiting and len(seen) < _MOST_PARTS:
        thing, depth = waiting.pop()
        if id(thing) in seen or depth > _DEEPEST:
            continue
        seen.add(id(thing))
        if isinstance(thing, (list, tuple)):
            waiting += [(item, depth + 1) for item in thing if not isinstance(item, (int, float, str))]
        elif isinstance(thing, Mapping):
            waiting += [(item, depth + 1) for item in thing.values()]
        elif hasattr(thing, "get_params") and hasattr(thing, "__dict__") and not isinstance(thing, type):
            found.append(thing)
            waiting += [(value, depth + 1) for value in vars(thing).values()]
        elif type(thing).__module__ == "numpy" and getattr(getattr(thing, "dtype", None), "hasobject", False):
            waiting += [(item, depth + 1) for item in thing.ravel().tolist()]
    return found


def _threads_asked(estimator: Any) -> list[tuple[Any, str, int]]:
    """(part, attribute, threads) for each number of threads in an estimator; 0: as many as there are."""
    found = []
    for part in _parts(estimator):
        for name in _THREADS:
            value = vars(part).get(name, "")
            if value is None or (isinstance(value, int) and not isinstance(value, bool)):
                found.append((part, name, max(0, value or 0)))
    return found


def mark_of(estimator: Any) -> list[Any]:
    """What tells that an estimator was fitted again or changed: its attributes, and some bytes of its arrays."""
    found: list[Any] = [rounds_of(estimator)]
    waiting = [(estimator, 0)]
    while waiting and len(found) < _MOST_PARTS:
        thing, depth = waiting.pop()
        for value in vars(thing).values():
            found.append(tuple(value) if isinstance(value, list) else value)  # some make a list at each call
            for item in _within(value):
                if type(item).__module__ == "numpy" and hasattr(item, "tobytes") and item.ndim:
                    found.append(_sample(item))
                elif type(item).__name__ == "Booster":
                    found.append(rounds_of(item))
                elif depth < _DEEPEST and _holds_more(item, thing):
                    waiting.append((item, depth + 1))
    return found


def _within(value: Any) -> list[Any]:
    """A value, or what lists, tuples and mappings of it hold: all of a short one, some of a long one."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, (list, tuple)):
        return [value]
    some = value if len(value) < _SHORT else [value[0], value[len(value) // 2], value[-1]]
    return [inner for item in some for inner in (_within(item) if isinstance(item, (list, tuple)) else [item])]


def _holds_more(item: Any, owner: Any) -> bool:
    """Whether an attribute is a part of an estimator, such as a fitted one, or what its own library keeps there."""
    if isinstance(item, type) or not hasattr(item, "__dict__") or callable(item):
        return False
    home = type(owner).__module__.partition(".")[0]
    return hasattr(item, "get_params") or type(item).__module__.partition(".")[0] == home


def rounds_of(booster: Any) -> tuple[Any, ...]:
    """How far a booster has been trained, which goes on in place."""
    count = getattr(booster, "num_boosted_rounds", None) or getattr(booster, "current_iteration", None)
    return () if count is None else (count(),)


def _sample(array: Any) -> bytes:
    if array.dtype.hasobject:
        return b""
    if array.nbytes <= _WHOLE_BYTES:
        whole: bytes = array.tobytes()
        return whole
    flat = array.reshape(-1) if array.flags.c_contiguous else array.flat
    few = max(1, _SAMPLE_BYTES // max(1, array.itemsize))
    apart = max(1, array.size // 1000)
    return b"".join(bytes(part) for part in (flat[:few], flat[::apart], flat[-few:]))


def _path_of(estimator: Any) -> str:
    kind: Any = type(estimator)
    return kind.__qualname__ if kind.__module__ == "__main__" else f"{kind.__module__}.{kind.__qualname__}"


def _params_text(estimator: Any) -> str:
    """A digest of its parameters, those of estimators inside it included; how many threads it uses is left out."""
    plain: dict[str, Any] = {}
    for name, value in estimator.get_params(deep=True).items():
        if name.rpartition("__")[2] in (*_THREADS, "verbose", "verbosity"):
            continue
        inside = _parts(value)
        plain[name] = [_path_of(part) for part in inside] if inside else value
    return value_digest(plain)


def _looks_of(estimator: Any) -> str:
    """What its input and its answer look like."""
    classes = getattr(estimator, "classes_", None)
    return f"{getattr(estimator, 'n_features_in_', '')} {getattr(classes, 'shape', '')}"


def _size_of(estimator: Any) -> int:
    """Bytes of the arrays in it, of trees too; an estimate."""
    total = 0
    for part in _parts(estimator):
        for value in vars(part).values():
            size = getattr(value, "nbytes", 0)  # classes of numbers have one that is no number
            total += int(size) if isinstance(size, int) else 0
            nodes = getattr(value, "node_count", 0)  # a tree of scikit-learn: 64 bytes a node, and its values
            if isinstance(nodes, int) and nodes:
                total += nodes * 64 + int(getattr(getattr(value, "value", None), "nbytes", 0))
    return total
