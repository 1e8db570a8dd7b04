"""What the store knows already about an ensemble on a device, without measuring anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from esen_lab.common.trees import tree_spec
from esen_lab.profiler.caches import weights_evicted
from esen_lab.profiler.records import Point, Profile, with_switches
from esen_lab.profiler.share_order import default_shares
from esen_lab.profiler.store import ProfileStore, library_versions, point_key

if TYPE_CHECKING:
    from esen_lab.devices import Device
    from esen_lab.ensemble import Ensemble
    from esen_lab.lanes.settings import Settings


def stored_curves(device: Device, store: ProfileStore) -> dict[tuple[str, str], dict[int, float]]:
    """Medians of everything that was measured on `device`: (fingerprint, example) -> seconds by share in units."""
    return store.curves(device.identity.key, library_versions())


def stored_profile(
    ensemble: Ensemble,
    device: Device,
    store: ProfileStore,
    settings: Settings | None = None,
    backends: Mapping[str, Sequence[str]] | None = None,
) -> Profile | None:
    """The points of the shares that are usually measured, as far as they are stored; None where there are none.

    Args:
        ensemble: The sub-models.
        device: Where they were measured.
        store: Of points.
        settings: What the session has set: points measured under other switches are of another time.
        backends: For each sub-model, which backends besides eager are asked for.
    """
    identity = device.identity.key
    unusual = () if settings is None else settings.unusual
    evicted = weights_evicted(ensemble, device)
    versions = {
        backend: library_versions(settings, backend, evicted=evicted)
        for backend in dict.fromkeys(("eager", *(name for names in (backends or {}).values() for name in names)))
    }
    submodels = [ensemble.as_run(submodel) for submodel in ensemble.submodels]
    examples = {submodel.name: str(tree_spec(submodel.example)) for submodel in submodels}
    points: list[Point] = []
    for submodel in submodels:
        for backend in ("eager", *(backends or {}).get(submodel.name, ())):
            for units in sorted(default_shares(device.units, device.steps)):
                point = store.get(point_key(submodel, identity, versions[backend], units))
                if point is not None:
                    points.append(with_switches(replace(point, name=submodel.name, backend=backend), unusual))
    if not any(point.backend == "eager" for point in points):
        return None
    return Profile(
        device=device.identity.to_dict(),
        units=device.units,
        points=tuple(point for point in points if point.backend == "eager"),
        examples=examples,
        fingerprints=dict(ensemble.fingerprints),
        backend_points=tuple(point for point in points if point.backend != "eager"),
    )
