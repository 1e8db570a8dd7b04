"""Another device: what stays, what is put away, what the store knows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from esen_lab.common.surroundings import step
from esen_lab.devices import Device, open_device
from esen_lab.errors import UsageError
from esen_lab.lab.backend_choice import allowed, in_own_precision, is_allowed
from esen_lab.lab.lab_status import DeviceChange, meaning_of_change
from esen_lab.lab.runtime import Runtime
from esen_lab.lab.state import LabState
from esen_lab.planner.fits import changed_since, fits
from esen_lab.profiler import Profile, stored_profile


def use_device(runtime: Runtime, device: str | Device | None) -> DeviceChange:
    """See `Lab.use_device`."""
    if runtime.state.profiling:
        raise UsageError(
            "The device is changed while nothing is being measured on it",
            given="a profile that is still running",
            hint=f"Wait for it, or cancel it: {step('lab.job.cancel()', '%esen cancel')}.",
        )
    chosen = open_device(device)
    with runtime.turns.turn("a change of device"):
        state = runtime.state
        if state.search_job is not None:
            state.search_job.cancel()
        runtime.lanes.end()
        runtime.readings.close()
        before = state.device
        if before is not chosen:
            before.close()
        stored = _stored(runtime, chosen)
        left = runtime.state.plan
        after = runtime.change(lambda state: _moved(state, chosen, stored))
    measured = after.measured
    profiled = {name: 0 if measured is None else len(measured.of(name)) for name in after.ensemble.names}
    same = before.identity == chosen.identity
    put_away = None if same else left
    meaning = meaning_of_change(profiled, put_away, after.plan, same=same)
    return DeviceChange(
        before=before.identity.to_dict(),
        after=chosen.identity.to_dict(),
        device_notes=chosen.notes,
        profiled=profiled,
        plan=after.plan,
        put_away=put_away,
        notes=(
            *meaning,
            *_on_precision(state, after),
            *_on_server(after),
        ),
    )


def _on_server(after: LabState) -> Iterator[str]:
    """What a change of the device means for what is served."""
    server = after.server
    if server is None:
        return
    stop = step("lab.serve(None)", "%esen serve --stop")
    yield (
        f"{server.settings.name} is served at {server.url}: where its lanes cannot be started here, it is not ready "
        f"and requests are answered 503. {stop} ends it."
    )


def _on_precision(before: LabState, after: LabState) -> Iterator[str]:
    """What a change of the device means for the precision that was chosen."""
    chosen, here = before.here.precision, after.here.precision
    if here is not None and here is not chosen:
        yield f"Here {here.precision} was checked before, and may be taken."
    elif here is None and chosen is not None:
        wanted = chosen.precision
        check = step(f"lab.lanes.choose_precision({wanted!r})", f"%esen precision {wanted}")
        yield f"Here all compute in their own precision: {check} checks the other one."


def _stored(runtime: Runtime, chosen: Device) -> Profile | None:
    """What the store knows of the sub-models on a device that this lab knows nothing of."""
    state = runtime.state
    known = state.known.get(chosen.identity.key)
    if not state.ensemble.submodels or (known is not None and known.measured(state.ensemble) is not None):
        return None
    session = runtime.fork_server.session_here()  # points are told apart by it, and no lane need have been told of it
    return stored_profile(state.ensemble, chosen, runtime.store(), session, allowed(replace(state, device=chosen)))


def _moved(state: LabState, chosen: Device, stored: Profile | None) -> LabState:
    """The state on another device, with what the store knows of it."""
    before = state.device.identity
    put_away = {**state.put_away, before.key: state.plan}
    moved = replace(
        state,
        device=chosen,
        put_away=put_away,
        improving=None,
        previous_plan=None,
        report=None,
        comparison=None,
        numerics=None,
        backends=None,
    )
    if before == chosen.identity:
        return moved
    moved = moved.knowing(moved.here.merged(state.ensemble, stored))
    back = put_away.get(chosen.identity.key)
    plan = back if back is not None and fits(back, state.ensemble, chosen) else None
    moved = replace(moved, plan=plan, profile_job=None, editor=None, proof=None)
    if plan is None:
        return moved
    # What was checked of weights that have changed since holds no more.
    changed = set(changed_since(plan, state.ensemble))
    if moved.here.precision is not None:
        changed |= {name for name in plan.names if not is_allowed(moved, name)}
    return in_own_precision(moved, changed, measured=False)
