"""Measuring in the background, and what becomes known of it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from numbers import Integral
from typing import Any

from esen_lab.common.surroundings import step
from esen_lab.common.units import check_backend
from esen_lab.common.words import listed
from esen_lab.devices import Device
from esen_lab.ensemble import Ensemble, SubModel
from esen_lab.errors import UsageError
from esen_lab.lab.backend_choice import allowed
from esen_lab.lab.knowledge import Knowledge
from esen_lab.lab.runtime import Runtime
from esen_lab.lab.stages.members import follow
from esen_lab.lab.state import LabState
from esen_lab.planner import Limits
from esen_lab.profiler import Profile, ProfileJob, default_shares, start_profile
from esen_lab.profiler.caches import weights_evicted
from esen_lab.profiler.job import check_times
from esen_lab.studies import AdaptiveProfileJob, candidates


def profile(
    runtime: Runtime,
    names: Sequence[str] | None,
    shares: Sequence[int] | None,
    *,
    adaptive: bool,
    within: float,
    limits: Limits | Mapping[str, Any] | None,
    backends: Sequence[str] | None,
    groups: bool,
    parts: bool,
    **each: Any,
) -> ProfileJob | AdaptiveProfileJob:
    """See `Lab.profile`; `each` is what holds for each point."""
    runtime.state.need_submodels("profile")
    backends = None if backends is None else [check_backend(name) for name in listed(backends)]
    names = None if names is None else _several("names", [names] if isinstance(names, str) else names)
    shares = None if shares is None else _several("shares", [shares] if isinstance(shares, Integral) else shares)
    check_times(**{what: each[what] for what in ("budget_s", "point_timeout_s") if what in each})
    follow(runtime)
    settings = runtime.fork_server.session_here()
    derived = _candidates(runtime, names, groups=groups, parts=parts, adaptive=adaptive)
    with runtime.lock:
        state = runtime.state
        runtime.together.check(state.ensemble)
        if state.profiling:
            raise UsageError(
                "One profile job runs at a time",
                given="a second one",
                hint=f"Wait for the first, or cancel it: {step('lab.job.cancel()', '%esen cancel')}.",
            )
        device, ensemble, store = state.device, state.ensemble, runtime.store()
        shares = default_shares(device.units, device.steps) if shares is None else shares

        def start(names: Sequence[str] | None, shares: Sequence[int] | None) -> ProfileJob:
            return start_profile(
                Ensemble(submodels=(*ensemble.submodels, *derived)),
                device,
                runtime.fork_server,
                store,
                names=names,
                shares=shares,
                backends=allowed(state) if backends is None else dict.fromkeys(ensemble.names, tuple(backends)),
                device_lock=lambda: runtime.turns.turn("a point of a profile", refused=False),
                settings=settings,
                evicted=weights_evicted(ensemble, device),  # groups and parts have no weights of their own
                **each,
            )

        job: ProfileJob | AdaptiveProfileJob
        if adaptive:
            job = AdaptiveProfileJob(
                lambda names, share: start(names, [share]),
                ensemble.names if names is None else tuple(dict.fromkeys(ensemble.get(name).name for name in names)),
                device.units,
                shares,
                within=within,
                limits=limits,
            )
        else:
            job = start(None if names is None else [*names, *(one.name for one in derived)], shares)
        called = tuple(one.name for one in derived)
        try:
            job.listen(lambda job: _heard(runtime, device, job, called))  # waits for the lock, until it is in the state
            runtime.set(profile_job=job)
        except BaseException:  # an interrupt: nobody has it who could end it
            job.cancel()
            raise
    return job


def _several(what: str, given: Any) -> list[Any]:
    """What was given as a list.

    Raises:
        UsageError: It is none.
    """
    if not isinstance(given, Iterable):
        raise UsageError(f"{what} of a profile are a list", given=repr(given))
    return list(given)


def _candidates(
    runtime: Runtime, names: Sequence[str] | None, *, groups: bool, parts: bool, adaptive: bool
) -> tuple[SubModel, ...]:
    """Groups and parts to measure besides the sub-models.

    Raises:
        UsageError: They were asked for and cannot be measured; the message says why none can be.
    """
    if not (groups or parts):
        return ()
    if adaptive:
        raise UsageError(
            "Groups and parts are measured at all shares of a profile",
            given="adaptive=True",
            hint="Profile adaptively first, and groups and parts after that.",
        )
    state = runtime.state
    if state.profiling:  # said below
        return ()
    runtime.together.check(state.ensemble)
    ensemble = state.ensemble if names is None else state.ensemble.only(names)
    found = candidates(ensemble, state.device.units, groups=groups, parts=parts, measured=state.measured)
    if not found.submodels:
        raise UsageError(
            "Groups hold equal networks, and parts are of batches whose rows do not depend on each other",
            given="; ".join(found.refused),
            hint="Profile without groups and parts.",
        )
    for why in found.refused:
        warnings.warn(why, NotDerived, stacklevel=5)
    return found.submodels


class NotDerived(UserWarning):
    """Some sub-models cannot be grouped, or their batch cannot be split."""


def _heard(
    runtime: Runtime, device: Device, job: ProfileJob | AdaptiveProfileJob, derived: tuple[str, ...] = ()
) -> None:
    """A job got further: ring; what a finished one measured is known from now on."""
    if job.state.over:
        with suppress(Exception):  # it ended before its first point; `job.result` raises why
            measured = job.outcome()
            runtime.change(lambda state: with_measured(state, measured, device, derived))
    runtime.stir()


def with_measured(
    state: LabState, found: Profile, device: Device | None = None, derived: tuple[str, ...] = ()
) -> LabState:
    """With points that were measured on a device.

    Args:
        state: What is known by now.
        found: The points.
        device: Where; None: on the one in use.
        derived: Which of its sub-models are groups and parts.
    """
    key = (device or state.device).identity.key
    known = state.known.get(key, Knowledge())
    known = replace(known.merged(state.ensemble, found), derived=known.derived.merged(found, derived))
    return replace(state, known={**state.known, key: known})
