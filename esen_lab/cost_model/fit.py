"""Fits one cost model per sub-model to a profile."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

import numpy as np

from esen_lab.common.units import check_units, format_percent, format_seconds
from esen_lab.common.words import unknown
from esen_lab.cost_model.curves import Array, amdahl, interpolate
from esen_lab.cost_model.model import CostModel, Method
from esen_lab.cost_model.similar_curves import Correction, Experience, Key
from esen_lab.errors import UsageError
from esen_lab.profiler.backend_trials import WORTH
from esen_lab.profiler.records import Profile, curves_by_backend, curves_of, wrong_shares

Quantile: TypeAlias = Literal["median", "q90"]
QUANTILES: Mapping[str, str] = {"median": "median_s", "q90": "quantile_90_s"}
WrongAt: TypeAlias = tuple[str, int]
"""A backend and a share in units at which a sub-model's answers were wrong."""
TIE = 1e-9
"""Latencies closer than this, relatively, count as equal when choosing which share attains the minimum."""


def fit(
    profile: Profile,
    units: int | None = None,
    *,
    quantile: Quantile = "median",
    experience: Experience | None = None,
    wrong: Mapping[str, Collection[WrongAt]] | None = None,
    backends: Mapping[str, Collection[str]] | None = None,
) -> dict[str, CostModel]:
    """One cost model per sub-model of `profile`, in its order: at every share that of its fastest backend.

    Args:
        profile: What was measured.
        units: Up to which share to predict; all units of the profile's device when None.
        quantile: What to plan with: "median", or "q90" (the 90th percentile) for noisy profiles.
        experience: Complete curves of the same device, which correct predicted medians where that has proven itself.
        wrong: For a sub-model, the (backend, share) at which its answers were wrong, besides those of which the profile
            says so. Where eager's are, no backend has that share.
        backends: For a sub-model, which of its measured backends count besides eager; None: all that were measured.

    Raises:
        UsageError: A sub-model has no measured point (the message quotes its first failure), a latency is not a
            positive number, or `quantile` is unknown.
    """
    if quantile not in QUANTILES:
        raise unknown(f"A quantile is one of {', '.join(QUANTILES)}", quantile, QUANTILES, given=str(quantile))
    units = profile.units if units is None else check_units(units, profile.units, "the share to predict up to")
    failed = (failure.name for failure in profile.failures)
    names = tuple(dict.fromkeys((*profile.fingerprints, *profile.examples, *profile.names, *failed)))
    if not names:
        raise UsageError("A fit needs a profile of at least one sub-model", given="none", hint="Profile first.")
    profiled_wrong = wrong_shares(profile.failures)
    curves = curves_of(profile.points, QUANTILES[quantile])
    others = curves_by_backend(profile.backend_points, QUANTILES[quantile])
    models = {}
    for name in names:
        points = curves.get(name, {})
        if not points:
            failure = next((f"; {f.units} units failed: {f.message}" for f in profile.failures if f.name == name), "")
            raise UsageError(
                "A fit needs at least one measured point per sub-model",
                given=f"none of {name!r}{failure}",
                hint="Profile it again, or unregister it.",
            )
        key = (profile.fingerprints.get(name, ""), profile.examples.get(name, ""))
        found_wrong = set((wrong or {}).get(name, ()))
        avoid = profiled_wrong.get(name, set()) | {share for backend, share in found_wrong if backend == "eager"}
        corrected = experience if quantile == "median" else None
        counting = {
            backend: curve
            for backend, curve in others.get(name, {}).items()
            if backends is None or backend in backends.get(name, ())
        }
        models[name] = fit_points(
            name, points, units, experience=corrected, of=key, avoid=avoid, others=counting, wrong=found_wrong
        )
    return models


def fit_points(
    name: str,
    points: Mapping[int, float],
    units: int,
    *,
    experience: Experience | None = None,
    of: Key = ("", ""),
    avoid: Collection[int] = (),
    others: Mapping[str, Mapping[int, float]] | None = None,
    wrong: Collection[WrongAt] = (),
) -> CostModel:
    """The cost model of one sub-model from its measured latencies.

    Every share measured: a table. More than three shares, or at least half of them: interpolated. Two or three of
    many: halfway between a + b / share fitted to them and the lines through them, which is closer to recorded curves
    than either: the one evens out noise, the other follows a curve that bends otherwise. One: a constant.

    Args:
        name: The sub-model.
        points: Seconds by share in units.
        units: Up to which share to predict.
        experience: Complete curves of the same device, which correct the prediction where that has proven itself.
        of: The fingerprint and example of the sub-model, by which curves of its own are told from strangers'.
        avoid: Shares at which its answers were wrong.
        others: For other backends than eager, seconds by share; see `_fastest`.
        wrong: The (backend, share) at which their answers were wrong.

    Raises:
        UsageError: No point, a share below 1, or a latency that is not a positive number.
    """
    measured = tuple(sorted(points.items()))
    if not measured:
        raise UsageError("A fit needs at least one measured point per sub-model", given=f"none of {name!r}")
    for share, latency_s in measured:
        if share < 1 or not (math.isfinite(latency_s) and latency_s > 0):
            raise UsageError(
                "A measured point is a positive latency at a share of at least 1 unit",
                given=f"{latency_s!r} s at {share!r} units for {name!r}",
                hint="Profile it again.",
            )
    method = _method(measured, units)
    at = np.arange(1, units + 1, dtype=np.float64)
    raw = _predict(method, measured, at)
    corrected = None
    if experience is not None and method not in ("table", "constant"):
        corrected = experience.correction(of, measured, at, lambda *given: _predict(method, *given), method)
    if corrected is not None:
        raw = raw * corrected.factors
    avoid = sorted(share for share in avoid if share <= units)
    others = others or {}
    raw, fastest = _fastest(raw, others, wrong)
    table_s, active_units = _running_minimum(raw, {share for share, _ in measured}, avoid)
    backends = tuple(fastest[active - 1] for active in active_units)
    if set(backends) == {"eager"}:
        backends = ()
    model = CostModel(
        name=name,
        latency_s=table_s,
        active_units=active_units,
        method=method,
        error=_leave_one_out(method, measured) if corrected is None else corrected.error,
        points=tuple(
            (share, min([seconds, *(curve[share] for curve in others.values() if share in curve)]))
            for share, seconds in measured
        ),
        notes=(*_wrong(avoid), *_notes(method, measured, units, corrected)),
        avoid=tuple(avoid),
        backends=backends,
    )
    return replace(model, notes=(*model.notes, model.by)) if model.by else model


def _fastest(
    eager: Array, curves: Mapping[str, Mapping[int, float]], wrong: Collection[WrongAt]
) -> tuple[Array, tuple[str, ...]]:
    """Seconds at the shares 1, 2, ... with the fastest backend at each, and which that is.

    A backend is known at some shares. There its time is a part of the eager one; between them that part is linear in
    1/share, and outside of them it is not used. It is taken where that part is at most `WORTH`.
    """
    at = np.arange(1, len(eager) + 1, dtype=np.float64)
    names, parts = ["eager"], [np.ones(len(at))]
    for backend, curve in curves.items():
        shares = np.array(sorted(share for share in curve if share <= len(at)), dtype=np.float64)
        if not len(shares):
            continue
        known = [curve[int(share)] / eager[int(share) - 1] for share in shares]
        part = np.interp(-1.0 / at, -1.0 / shares, known)
        part[(at < shares[0]) | (at > shares[-1]) | (part > WORTH)] = np.inf
        part[[share - 1 for name, share in wrong if name == backend and share <= len(at)]] = np.inf
        names.append(backend)
        parts.append(part)
    table = np.stack(parts)
    return eager * table.min(axis=0), tuple(names[index] for index in table.argmin(axis=0))


def _method(measured: tuple[tuple[int, float], ...], units: int) -> Method:
    inside = sum(1 for share, _ in measured if share <= units)
    if inside == units:
        return "table"
    if len(measured) == 1:
        return "constant"
    if len(measured) <= 3 and 2 * inside < units:
        return "parametric"
    return "interpolated"


def _predict(method: Method, measured: tuple[tuple[int, float], ...], at: Array) -> Array:
    shares, latencies_s = zip(*measured, strict=True)
    if method == "constant":
        return np.full(len(at), latencies_s[0])
    if method != "parametric":
        return interpolate(shares, latencies_s, at)
    return (amdahl(shares, latencies_s, at) + interpolate(shares, latencies_s, at)) / 2


def _running_minimum(
    raw: Array, measured: set[int], avoid: Collection[int]
) -> tuple[tuple[float, ...], tuple[int, ...]]:
    latency_s: list[float] = []
    active_units: list[int] = []
    best, attained = math.inf, 1
    for share, latency in enumerate(raw.tolist(), start=1):
        ties = best < math.inf and abs(latency - best) <= TIE * best
        if share in avoid and best < math.inf:
            pass  # a wider lane must not run as this share does
        elif (latency < best and not ties) or attained in avoid:
            best, attained = latency, share
        elif ties and (share in measured or attained not in measured):
            attained = share
        latency_s.append(best)
        active_units.append(attained)
    return tuple(latency_s), tuple(active_units)


def _leave_one_out(method: Method, measured: tuple[tuple[int, float], ...]) -> float | None:
    if method == "table" or len(measured) < 3:
        return None
    errors = []
    for left_out in measured[1:-1]:
        others = tuple(point for point in measured if point is not left_out)
        predicted = _predict(method, others, np.array([float(left_out[0])]))[0]
        errors.append(abs(predicted / left_out[1] - 1))
    return float(np.mean(errors))


def _wrong(avoid: Sequence[int]) -> tuple[str, ...]:
    shares = ", ".join(map(str, avoid))
    return (f"kept off {shares} units, where its answers were wrong",) if avoid else ()


def _notes(
    method: Method, measured: tuple[tuple[int, float], ...], units: int, corrected: Correction | None
) -> tuple[str, ...]:
    notes = []
    if corrected is not None:
        notes.append(
            f"corrected by {corrected.curves} complete curves of this device: predicted from the same shares, those "
            f"are off by {format_percent(corrected.error)} instead of {format_percent(corrected.error_before)}"
        )
    if method == "constant":
        share, latency_s = measured[0]
        notes.append(
            f"measured at {share} of {units} units only ({format_seconds(latency_s)}): how its latency depends on "
            "the share is not known, and it is taken as the same at every share"
        )
    elif method != "table":
        if measured[0][0] > 1:
            notes.append(f"below {measured[0][0]} units: extrapolated")
        if measured[-1][0] < units:
            notes.append(f"above {measured[-1][0]} units: taken to gain nothing more")
    return tuple(notes)
