"""The precision of a lab: chosen by the user, checked on data, and gone back from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from esen_lab.common.inputs import as_input
from esen_lab.common.surroundings import step
from esen_lab.common.trees import Tree, flatten, map_tensors, select
from esen_lab.common.units import BACKENDS, PRECISIONS, backend_parts, check_backend, check_number
from esen_lab.common.words import listed, unknown
from esen_lab.devices.cpu.precision import slower_in
from esen_lab.ensemble import Ensemble
from esen_lab.errors import UsageError
from esen_lab.lab.backend_choice import in_other_precision, in_own_precision, is_allowed
from esen_lab.lab.runtime import Runtime
from esen_lab.lab.stages.members import follow
from esen_lab.lab.state import LabState
from esen_lab.lanes.backends import why_not
from esen_lab.studies import PrecisionTable, check_precision, samples_of
from esen_lab.studies.precision import AGREE, allowed_error

OWN = "fp32"
_MOST_SAMPLES = 256
_MOST_BYTES = 64 * 10**6
"""Of the calibration data of one sub-model, which each lane is sent."""


def choose_precision(
    runtime: Runtime,
    precision: str,
    *,
    on: Any,
    agree: float | None,
    error: float | None,
    values: bool,
    backends: Sequence[str] | None,
    on_progress: Callable[[int, int, str], None] | None,
) -> PrecisionTable | None:
    """See `esen_lab.lab.lanes.Lanes.choose_precision`."""
    if precision == OWN:
        runtime.change(lambda state: _with_precision(state, None, state.ensemble))
        return None
    x, y = _data_and_labels(on)
    _check(precision, x, agree, error)
    runtime.state.need_submodels(f"check {precision} on")
    follow(runtime)
    state = runtime.state
    runtime.together.check(state.ensemble)
    ways, notes = _variants(precision, state.device.identity.kind, backends)
    settings = runtime.fork_server.session_here()
    with (
        runtime.turns.turn("a choice of precision"),
        runtime.marks.around("precision"),
        runtime.fork_server.under(settings),
    ):
        state = runtime.state
        ensemble = _calibrated(state.ensemble, x) if precision == "int8" else state.ensemble
        if state.warm is not None and in_other_precision(state.warm.plan):
            runtime.lanes.end()  # they may be quantised by other data
        found = check_precision(
            ensemble,
            state.device,
            runtime.fork_server,
            ways,
            x,
            y,
            agree=AGREE if agree is None else agree,
            error=error,
            values=values,
            on_progress=on_progress,
        )
    found = replace(found, notes=(*found.notes, *notes))
    runtime.change(lambda state: _with_precision(state, found, ensemble))
    return found


def _data_and_labels(on: Any) -> tuple[Tree, Any]:
    """(x, y) as it is, anything else as x without labels.

    Raises:
        UsageError: A tuple of other than two.
    """
    if not isinstance(on, tuple):
        return on, None
    if len(on) != 2:
        raise UsageError(
            "Data to check a precision on is x, or (x, y) with the right class of each sample",
            given=f"a tuple of {len(on)}",
            hint="An x that is a tuple itself is given as (x, None).",
        )
    return on


def _check(precision: str, x: Tree, agree: float | None, error: float | None) -> None:
    if precision not in PRECISIONS:
        known = (OWN, *PRECISIONS)
        raise unknown(f"A precision is one of {', '.join(known)}", precision, known, given=precision)
    allowed_error(precision, error)
    if agree is not None:
        check_number(agree, "Agreement is a part of the samples above 0, at most 1 (99.9 % is 0.999)", above=0, most=1)
    if x is None and (agree is not None or precision == "int8"):
        raise UsageError(
            "int8 is calibrated with data" if precision == "int8" else "Agreement is measured on data",
            given="none",
            hint=f"Pass {step('on=(x_val, y_val)', '--on x_val,y_val')}; labels may be left out.",
        )


def _variants(precision: str, kind: str, backends: Sequence[str] | None) -> tuple[list[str], tuple[str, ...]]:
    """The backends that have a precision on a kind of device, and what is to be said of it there.

    Raises:
        UsageError: None has it, or none of those that were named; or one was named with another precision.
    """
    torch_device = "cuda:0" if kind.startswith("cuda") else "cpu"
    named = [] if backends is None else [backend_parts(check_backend(name)) for name in listed(backends)]
    other = [f"{name}@{theirs}" for name, theirs in named if theirs not in ("", precision)]
    if other:
        raise UsageError(
            f"Backends are named without a precision, or with the one that is chosen ({precision})",
            given=", ".join(other),
            hint=f"Name them without: {', '.join(dict.fromkeys(name for name, _ in named))}.",
        )
    asked = BACKENDS if backends is None else [name for name, _ in named]
    lacking = {f"{name}@{precision}": why_not(f"{name}@{precision}", torch_device) for name in dict.fromkeys(asked)}
    ways = [way for way, why in lacking.items() if not why]
    if not ways:
        told = "; ".join(dict.fromkeys(f"{way}: {why}" for way, why in lacking.items()))
        raise UsageError(f"Some backend computes in {precision} on this device", given=told)
    # Unless backends were named, only what a user could change is said.
    said = [(way, why) for way, why in lacking.items() if why and (backends is not None or "installed" in why)]
    missing = [f"No {way}: {why}." for way, why in said]
    slower = slower_in(precision) if torch_device == "cpu" else ""
    return ways, tuple(filter(None, [*missing, slower]))


def _calibrated(ensemble: Ensemble, x: Tree) -> Ensemble:
    """An ensemble whose members have their parts of data as calibration data: samples from all over it, no labels."""
    x = as_input(x)
    samples = samples_of(x)
    per_sample = sum(leaf.nbytes for leaf in flatten(x)[0]) / samples
    most = max(1, min(samples, _MOST_SAMPLES, int(_MOST_BYTES / max(per_sample, 1.0))))
    rows = [round(index * (samples - 1) / max(1, most - 1)) for index in range(most)]
    some = map_tensors(lambda leaf: leaf[rows], x)
    for submodel in ensemble.submodels:
        mine = select(some, submodel.input_keys)
        ensemble = ensemble.with_submodel(replace(submodel, calibration=mine))
    return ensemble


def _with_precision(state: LabState, table: PrecisionTable | None, checked: Ensemble) -> LabState:
    """With a choice: what is executed in a precision that is not allowed by it is executed in its own."""
    ensemble = state.ensemble
    calibrate = table is not None and table.precision == "int8"
    for submodel in ensemble.submodels:
        now = checked.get(submodel.name) if submodel.name in checked.names else submodel
        data = now.calibration if calibrate and now.fingerprint == submodel.fingerprint else None
        ensemble = ensemble.with_submodel(replace(submodel, calibration=data))
    state = replace(state, ensemble=ensemble)
    state = state.knowing(replace(state.here, precision=table))
    return in_own_precision(state, [name for name in ensemble.names if not is_allowed(state, name)])
