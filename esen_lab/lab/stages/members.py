"""Who is in the ensemble."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from esen_lab.common.surroundings import step
from esen_lab.common.trees import Tree, flatten, tree_spec
from esen_lab.ensemble import Combine, Ensemble, Registered, SubModel, check_combine, check_member, make_combine
from esen_lab.ensemble import register as make_submodel
from esen_lab.errors import EsenError, UsageError
from esen_lab.lab.backend_choice import in_other_precision, in_own_precision
from esen_lab.lab.live_modules import Originals
from esen_lab.lab.plan_checks import same_code, with_values_changed
from esen_lab.lab.runtime import Runtime
from esen_lab.lab.state import LabState
from esen_lab.lanes.settings import left_as_set


def check_sample(example: Tree, whose: str = "") -> None:
    """Refuse an example that holds no number.

    Raises:
        UsageError: It holds none.
    """
    tensors = flatten(example)[0]
    if tensors and not any(leaf.numel() for leaf in tensors):
        raise UsageError(
            "An example has at least one sample: what it is answered and how fast is found out with it",
            given=f"one of shape {tuple(tensors[0].shape)}{whose}",
        )


def register(
    runtime: Runtime,
    name: str,
    source: Any,
    example: Tree,
    *,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None,
    namespace: Mapping[str, Any] | None,
) -> SubModel:
    """See `Lab.register`."""
    ensemble = runtime.state.ensemble
    if example is None:
        if not ensemble.submodels:
            raise UsageError(
                "The first sub-model needs an example input",
                given=f"none for {name!r}",
                hint=f"Pass {step('example=...', '--example x')}, a tensor, or a tuple or dict of tensors.",
            )
        example = ensemble.submodels[0].example
    make = partial(make_submodel, name, source, example, args=args, kwargs=kwargs, namespace=namespace)
    registered = _made(make)
    submodel = registered.submodel
    check_sample(submodel.example, f" for {name!r}")
    if name not in ensemble.names:  # one that is replaced may come first of several that change together
        check_member(ensemble.with_submodel(submodel), name)

    options = registered.options

    def again(held: Any) -> Registered:
        return make_submodel(name, held, submodel.example, kwargs=options)

    runtime.change(lambda state: _with(state, registered, again))
    runtime.own_answers.keep(submodel, runtime.fork_server.session_here())
    if (executor := runtime.state.executor) is not None:
        executor.fidelity.doubt(name)
    runtime.fork_server.warm()  # imports torch in the background while the user goes on
    return runtime.state.ensemble.get(name)


def _made(make: Callable[[], Registered]) -> Registered:
    """Register; what calls of a network set for this process is put back, and said."""
    with left_as_set() as told:
        registered = make()
    if not told:
        return registered
    note = f"sets what holds for its whole process: {', '.join(told)}; here that is put back, in its lane it stays"
    return replace(registered, submodel=replace(registered.submodel, notes=(*registered.submodel.notes, note)))


def _with(state: LabState, registered: Registered, again: Callable[[Any], Registered] | None) -> LabState:
    submodel = registered.submodel
    name = submodel.name
    if name in state.ensemble.names:
        before = state.ensemble.get(name)
        if before.fingerprint != submodel.fingerprint:  # what was checked of it in another precision holds no more
            state = in_own_precision(state, [name], measured=same_code(before, submodel))
        if _look_alike(before, submodel):
            submodel = replace(submodel, calibration=before.calibration)
    originals = state.originals.kept(name, registered, again)
    return _of(state, state.ensemble.with_submodel(submodel), originals)


def _of(state: LabState, ensemble: Ensemble, originals: Originals) -> LabState:
    """With other members, each of which says with whom it shares state, and whether its example is another batch."""
    sharing, inputs = originals.sharing(), ensemble.inputs
    for submodel in ensemble.submodels:
        name = submodel.name
        ensemble = ensemble.with_submodel(submodel.sharing(sharing.get(name, ())).run_on(inputs[name]))
    return replace(state, ensemble=ensemble, originals=originals)


def _look_alike(before: SubModel, after: SubModel) -> bool:
    """Whether two sub-models take the same inputs, but for the number of samples."""
    specs = [tree_spec(submodel.example) for submodel in (before, after)]
    looks = [[(tensor.dtype, tensor.shape[1:]) for tensor in spec.tensors] for spec in specs]
    return specs[0].structure == specs[1].structure and looks[0] == looks[1]


def unregister(runtime: Runtime, name: str) -> None:
    """See `Lab.unregister`."""
    runtime.change(lambda state: _of(state, state.ensemble.without(name), state.originals.dropped(name)))


def combine(runtime: Runtime, rule: str | Callable[..., Any], weights: Any) -> Combine:
    """See `Lab.combine`."""
    chosen = make_combine(rule, weights=weights)

    def change(state: LabState) -> LabState:
        ensemble = state.ensemble.with_combine(chosen.named(state.ensemble.names))
        check_combine(ensemble)
        return replace(state, ensemble=ensemble)

    return runtime.change(change).ensemble.combine


def follow(runtime: Runtime, *, whole: bool = True) -> None:
    """Have sub-models be what the networks are now, for a caller that has no turn and looks at what is registered.

    Looks as `Watch.changed` does; raises as `follow_changes` does.
    """
    if not runtime.turns.locked:  # whoever has the turn has looked for himself, and lanes have what he has set
        with runtime.turns.turn("a look at the session", refused=False):
            runtime.fork_server.look_at_session()
    state = runtime.state
    if state.originals.those_changed(state.ensemble.names, whole=whole):
        with runtime.turns.turn("a look at changed sub-models"):
            follow_changes(runtime, whole=whole)


def follow_changes(
    runtime: Runtime, *, whole: bool = False, failed: dict[str, EsenError] | None = None
) -> tuple[str, ...]:
    """Register again the networks that have changed since they were registered. The caller has the turn.

    Args:
        runtime: The lab's.
        whole: See `Watch.changed`.
        failed: Takes networks that cannot be registered any more, and why; None: that is an error.

    Returns:
        What a report says of it.

    Raises:
        UsageError: The code that a sub-model was made by has changed, and nothing the user holds can be asked.
        EsenError: A network that changed cannot be registered any more.
    """
    told = []
    state = runtime.state
    for name, original in state.originals.those_changed(state.ensemble.names, whole=whole).items():
        what = ", ".join(original.watch.what())
        before = state.ensemble.get(name)
        source, again = original.watch.registered, original.again
        make = original.rebuilt
        if make is None:
            if again is None:
                raise UsageError(
                    f"The code that sub-model {name!r} is made by is what it was when it was registered",
                    given=f"something else now: {what}",
                    hint="Register it again: it is then built by the code as it is now.",
                )
            if source is None:  # nobody holds it any more: what was registered is what there is
                note = (
                    f"runs as it was registered, although {what} is something else now: its network is held by nobody "
                    "any more, so it cannot be followed. Register it again to have it as it is now"
                )
                original.watch.renew()
                # Kept with it: whoever looks first, such as a profile, has no report to say it in.
                runtime.change(partial(_noted, name=name, note=note))
                told.append(f"{name} {note}.")
                continue
            make = partial(again, source)
        try:
            registered = _made(make)
        except EsenError as problem:
            if failed is None:
                raise
            failed[name] = problem
            continue
        submodel = registered.submodel
        if submodel.same_as(before):
            # The same again, such as a cell that ran twice, or what no picture shows, such as the level of a logger.
            original.watch.renew()
            runtime.own_answers.keep(submodel, runtime.fork_server.look_at_session())
            if (executor := runtime.state.executor) is not None:
                executor.fidelity.doubt(name)
            continue
        plan = runtime.state.plan
        lower = plan is not None and name in in_other_precision(plan)
        runtime.change(partial(_changed, before=before, registered=registered, again=again))
        runtime.own_answers.keep(submodel, runtime.fork_server.look_at_session())
        told.append(f"{name} has changed since it was registered ({what}); it was registered again as it is now.")
        if lower:
            check = step("lab.lanes.choose_precision(...)", "%esen precision")
            told.append(f"{name} computes in its own precision until {check} has checked it as it is now.")
    return tuple(told)


def _noted(state: LabState, *, name: str, note: str) -> LabState:
    """With one more remark on a sub-model."""
    submodel = state.ensemble.get(name)
    notes = tuple(dict.fromkeys((*submodel.notes, note)))
    return replace(state, ensemble=state.ensemble.with_submodel(replace(submodel, notes=notes)))


def _changed(
    state: LabState, *, before: SubModel, registered: Registered, again: Callable[[Any], Registered] | None
) -> LabState:
    """With a network as it is now: points and plan stay where its values alone have changed."""
    after = registered.submodel
    state = _with(state, registered, again)
    if not same_code(before, after):
        return state
    changed = after.name, before.fingerprint, after.fingerprint
    return replace(
        state,
        known={device: known.values_changed(*changed) for device, known in state.known.items()},
        plan=with_values_changed(state.plan, *changed),
    )
