"""What is found out with the lanes at work: how the plan compares, whether answers are right, what is fastest."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from esen_lab.common.inputs import as_input
from esen_lab.common.surroundings import step
from esen_lab.common.trees import Tree, tree_spec
from esen_lab.common.units import BACKENDS, check_backend, check_count, format_seconds, now
from esen_lab.common.words import listed, unknown
from esen_lab.devices import Device
from esen_lab.ensemble import SubModel
from esen_lab.errors import UsageError
from esen_lab.lab.backend_choice import possible, refused, variants
from esen_lab.lab.knowledge import Knowledge
from esen_lab.lab.plan_checks import members_run_by, origin
from esen_lab.lab.runtime import Runtime
from esen_lab.lab.stages.members import follow
from esen_lab.lab.stages.plans import with_plan
from esen_lab.lab.stages.profile import with_measured
from esen_lab.lab.stages.run import ready_lanes
from esen_lab.lab.stages.search import models
from esen_lab.lab.state import LabState
from esen_lab.planner import allocate
from esen_lab.planner.fits import check_fits
from esen_lab.planner.plan import Plan
from esen_lab.planner.steps import is_plain
from esen_lab.profiler import Point, Profile, ProfileStore
from esen_lab.profiler.backends import BackendTable, measure_backends
from esen_lab.profiler.caches import weights_evicted
from esen_lab.profiler.records import with_switches
from esen_lab.profiler.store import library_versions, point_key
from esen_lab.run import PEERS, Comparison, peer_of, peers_here
from esen_lab.run import compare as compare_plans
from esen_lab.run.entries import check_asked
from esen_lab.run.numerics import NumericsVerdict
from esen_lab.run.numerics import check_numerics as check_lanes
from esen_lab.studies import executed, labels_of, samples_of

OnProgress = Callable[[int, int, str], None]
"""Called with (done, all, what is going on)."""
FULL_PLAN = "full plan"
"""What a plan in stages is compared with under this name: its members, all asked at once."""
_FULL_PLAN_S = 1.0  # of searching it
_SOON_S = 15.0  # for preparing peers that nobody named


def compare(
    runtime: Runtime,
    x: Tree,
    *,
    y: Any,
    rounds: int,
    strategies: Sequence[str] | None,
    peers: str | Sequence[str] | None,
    plans: Mapping[str, Plan | str | os.PathLike[str]] | None,
    ways: Mapping[str, Callable[[Tree], Tree]] | None,
    budget_s: float,
    on_progress: OnProgress | None,
) -> Comparison:
    """See `Lab.compare`."""
    state = runtime.state
    state.need_submodels("compare")
    as_input(x)  # before anything is started or prepared for it
    asked_peers = _peers(peers, strategies, state.device)
    check_asked(rounds, strategies, asked_peers, plans or {}, ways or {})
    others = {name: p if isinstance(p, Plan) else Plan.load(p) for name, p in (plans or {}).items()}
    for other in others.values():
        check_fits(other, state.ensemble, state.device)
    labels = None if y is None else [int(one) for one in labels_of(y, samples_of(as_input(x)))]
    if state.plan is not None and state.plan.staged and FULL_PLAN not in others:
        full = full_plan(runtime, state.plan)
        others |= {} if full is None else {FULL_PLAN: full}
    with runtime.turns.turn("a comparison"), runtime.marks.around("compare"):
        executor, notes = ready_lanes(runtime, whole=True)
        runtime.seen_kinds.check(runtime.state.ensemble.submodels, x)
        found = compare_plans(
            x,
            executor.plan,
            executor.ensemble,
            runtime.state.device,
            runtime.fork_server,
            rounds=rounds,
            strategies=strategies,
            peers=asked_peers,
            prepare_s=_SOON_S if peers in (None, "soon") else None,
            plans=others,
            ways=ways,
            labels=labels,
            budget_s=budget_s,
            chosen=executor,
            on_progress=on_progress,
        )
    here = {**origin(executor.ensemble, runtime.state.device), "left_out": executor.plan.left_out, "created_at": now()}
    taken = {name: _to_take(name, ran_by, here) for name, ran_by in found.plans.items()}
    found = replace(found, notes=(*notes, *found.notes), plans=taken)
    runtime.set(comparison=found)
    return found


def _to_take(name: str, plan: Plan, here: Mapping[str, Any]) -> Plan:
    """The plan that a strategy ran by, as one that may be put in force: it says where it comes from."""
    if plan.fingerprints:  # a plan in its own right
        return plan
    told = f"{name}, taken from a comparison: measured {format_seconds(plan.measured_s)}"
    return plan.with_origin(notes=(told,), **here)


def full_plan(runtime: Runtime, plan: Plan) -> Plan | None:
    """The best plan that asks all members of a plan in stages at once; None where they are not all measured."""
    state = runtime.state
    try:
        known = models(runtime, state.quantile)
    except UsageError:
        return None
    own = {name: known[name] for name in plan.names}
    tables = {name: model.table(model.units) for name, model in own.items()}
    found = allocate(tables, state.device.units, time_limit_s=_FULL_PLAN_S).under(own)
    ensemble = members_run_by(plan, state.ensemble)
    return found.plan.with_origin(**origin(ensemble, state.device), left_out=plan.left_out)


def _peers(asked: str | Sequence[str] | None, strategies: Sequence[str] | None, device: Device) -> Sequence[str]:
    """The names of peers that `Lab.compare` is asked for."""
    if asked is None:
        asked = "soon" if strategies is None else "none"
    names = [asked] if isinstance(asked, str) else list(asked)
    if names == ["none"]:
        return ()
    if names in (["soon"], ["all"]):
        return peers_here(device)
    alone = [name for name in ("soon", "all", "none") if name in names]
    if alone:
        raise UsageError(f"The word {alone[0]} stands for peers on its own", given=", ".join(map(str, names)))
    strange = [name for name in names if not isinstance(name, str) or not peer_of(name)]
    if strange:
        rule = f"Peers are soon, all, none, or some of: {', '.join(PEERS)}"
        raise unknown(rule, strange[0], (*PEERS, "soon", "all", "none"), given=strange[0])
    return names


def check_numerics(runtime: Runtime, x: Tree, *, runs: int, on_progress: OnProgress | None) -> NumericsVerdict:
    """See `Lab.check_numerics`."""
    check_count(runs, "The numerics check compares at least one run")
    runtime.state.need_submodels("check the answers of")
    with runtime.turns.turn("a check of answers"), runtime.marks.around("check"):
        key = runtime.state.device.identity.key  # the device may be another when the turn comes
        executor, notes = ready_lanes(runtime, whole=True)
        runtime.seen_kinds.check(runtime.state.ensemble.submodels, x)
        fingerprints = executor.ensemble.fingerprints
        found = check_lanes(
            executor.plan,
            executor.ensemble,
            runtime.state.device,
            runtime.fork_server,
            x=x,
            runs=runs,
            executor=executor,
            on_progress=on_progress,
        )

    def learn(state: LabState) -> LabState:
        known = _known(state, key).with_wrong(found.wrong, fingerprints)
        return replace(state, known={**state.known, key: known})

    state = runtime.change(learn)
    ruled_out = _known(state, key).wrong(state.ensemble)
    if any((row.backend, row.units) in ruled_out.get(row.name, ()) for row in found.wrong):
        notes = (*notes, "Searches keep off these shares from now on: search again.")
    found = replace(found, notes=(*notes, *found.notes))
    runtime.set(numerics=found)
    return found


def _known(state: LabState, key: str) -> Knowledge:
    return state.known.get(key, Knowledge())


def choose_backends(
    runtime: Runtime, *, backends: Sequence[str] | None, budget_s: float, on_progress: OnProgress | None
) -> BackendTable:
    """See `esen_lab.lab.lanes.Lanes.choose_backends`."""
    follow(runtime)
    settings = runtime.fork_server.session_here()
    state = runtime.state
    plan = state.need_plan("execute in other ways")
    fingerprints = state.ensemble.fingerprints
    serial = [lane for lane in plan.lanes if lane.mode != "vmap"]
    shares = [(name, lane.units) for lane in serial for name in lane.members if is_plain(name)]
    if not shares:
        raise UsageError(
            "Sub-models that run alone are executed in other ways",
            given=f"a plan of groups and parts alone: {plan.describe()}",
            hint=f"Search with {step('groups=False and parts=False', '--no-groups --no-parts')}.",
        )
    # What the lab was asked for, unless ways are named: then those alone, as far as the check allows them.
    more = {name: variants(state, name) if backends is None else () for name, _ in shares}
    with runtime.turns.turn("a choice of backends"), runtime.marks.around("backends"):
        device, ensemble = runtime.state.device, runtime.state.ensemble
        members = {name: ensemble.as_run(ensemble.get(name)) for name, _ in shares}
        evicted = weights_evicted(ensemble, device)
        found = measure_backends(
            [(members[name], units) for name, units in shares],
            device,
            runtime.fork_server,
            backends=BACKENDS if backends is None else backends,
            more=more,
            refused={name: refused(state, name) for name, _ in shares},
            budget_s=budget_s,
            settings=settings,
            evicted=evicted,
            on_progress=on_progress,
        )
    versions = partial(library_versions, settings, evicted=evicted)
    _store(runtime.store(), device, versions, members, found.measured)
    measured = [with_switches(point, settings.unusual) for point in found.measured]
    points = Profile(
        device=device.identity.to_dict(),
        units=device.units,
        points=tuple(point for point in measured if point.backend == "eager"),
        examples={name: str(tree_spec(member.example)) for name, member in members.items()},
        fingerprints={name: fingerprints[name] for name, _ in shares},
        backend_points=tuple(point for point in measured if point.backend != "eager"),
    )

    def change(state: LabState) -> LabState:
        current = state.plan  # a search may have found a better one meanwhile
        better = current if current is not None and set(current.steps) == set(plan.steps) else plan
        only = possible(device) if backends is None else tuple(check_backend(name) for name in listed(backends))
        state = replace(with_measured(state, points, device), backends=found, only=only)
        seconds = {p.name: p.median_s for p in found.points if p.chosen and p.median_s is not None}
        return with_plan(state, executed(better, found.chosen, seconds))

    runtime.change(change)
    return found


def _store(
    store: ProfileStore,
    device: Device,
    versions: Callable[[str], str],
    members: Mapping[str, SubModel],
    points: Sequence[Point],
) -> None:
    """Keep points for later sessions, each under the versions of its backend, but for those a busy machine spoilt."""
    for point in points:
        if not point.loaded:
            key = point_key(members[point.name], device.identity.key, versions(point.backend), point.units)
            store.put(key, point)
