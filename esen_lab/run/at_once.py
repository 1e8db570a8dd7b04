"""All sub-models at once in one lane that has the whole device, by an engine that overlaps them: for `refine` to try.

Lanes divide the cores, and a sub-model has those of its lane to itself. Where its operators are too short to use two
cores well, an engine that is given all networks at once fills the gaps of one with the work of others. By how much
nothing predicts: such a plan has to be run.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from esen_lab.common.trees import tree_spec
from esen_lab.common.units import backend_parts
from esen_lab.lanes.backends import refused_before, unsteady, why_not
from esen_lab.planner.plan import Lane, Plan, backends_of
from esen_lab.planner.steps import is_plain
from esen_lab.run.peers import PEERS, peers_here, setting_of

if TYPE_CHECKING:
    from esen_lab.devices import Device
    from esen_lab.ensemble import Ensemble, SubModel


def at_once(plan: Plan, ensemble: Ensemble, device: Device, allowed: Mapping[str, Collection[str]]) -> tuple[Plan, ...]:
    """Plans that run all sub-models at once, one for each engine that can and each number of threads worth trying.

    Args:
        plan: What executes the sub-models now: the precision of each stays, and who is not taken by an engine stays
            with what executes it.
        ensemble: The sub-models.
        device: The whole of it is used.
        allowed: For each sub-model the backends that may execute it, besides what does: no other one is brought in.

    Returns:
        None for one sub-model, groups and parts of a batch, and where there is no such engine.
    """
    if len(plan.names) < 2 or not all(map(is_plain, plan.steps)):
        return ()
    ways = backends_of(plan)
    found: list[Plan] = []
    for name in peers_here(device):
        peer = PEERS[name]
        if peer.mode == "serial":
            continue
        taken = {one: _by(peer.backend, ensemble.get(one), way, allowed.get(one, ())) for one, way in ways.items()}
        if peer.backend not in {backend_parts(way)[0] for way in taken.values()}:
            continue
        for threads in peer.settings(len(ways), device.units):
            lane = Lane(
                units=device.units,
                members=tuple(taken),
                active_units=(threads,) * len(taken),
                backends=tuple(taken.values()),
                mode=peer.mode,
            )
            plan = Plan(lanes=(lane,), units=device.units, searcher=name)
            found.append(replace(plan, notes=(f"all at once: {setting_of(name, plan)}",)))
    return tuple(found)


def _by(engine: str, submodel: SubModel, way: str, allowed: Collection[str]) -> str:
    """What is to execute a sub-model: the engine, in the sub-model's precision, if it takes it; else what does now."""
    precision = backend_parts(way)[1]
    wanted = f"{engine}@{precision}" if precision else engine
    if wanted not in allowed:
        return way
    looks = str(tree_spec(submodel.example))
    refused = (
        unsteady(submodel.traits)
        or why_not(wanted)
        or refused_before(wanted, submodel.fingerprint, looks, calibration=submodel.calibration)
    )
    return way if refused else wanted
