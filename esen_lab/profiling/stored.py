"""What the store knows already about an ensemble on a device, without measuring anything."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from esen_lab.profiling.order import default_shares
from esen_lab.profiling.records import Profile
from esen_lab.profiling.store import PointKey, ProfileStore, device_key, library_versions
from esen_lab.trees import tree_spec

if TYPE_CHECKING:
    from esen_lab.devices import Device
    from esen_lab.ensemble import Ensemble


def stored_curves(device: Device, store: ProfileStore) -> dict[tuple[str, str], dict[int, float]]:
    """Medians of everything that was measured on `device`: (fingerprint, example) -> seconds by share in units."""
    return store.curves(device_key(device.identity), library_versions())


def stored_profile(ensemble: Ensemble, device: Device, store: ProfileStore) -> Profile | None:
    """The points of the shares that are usually measured, as far as they are stored; None where there are none."""
    identity, versions = device_key(device.identity), library_versions()
    examples = {submodel.name: str(tree_spec(submodel.example)) for submodel in ensemble.submodels}
    points = []
    for submodel in ensemble.submodels:
        for units in sorted(default_shares(device.units)):
            key = PointKey(
                fingerprint=submodel.fingerprint,
                example=examples[submodel.name],
                device=identity,
                versions=versions,
                units=units,
            )
            point = store.get(key)
            if point is not None:
                points.append((submodel.name, point))
    if not points:
        return None
    return Profile(
        device=device.identity.to_dict(),
        units=device.units,
        points=tuple(replace(point, name=name) for name, point in points),
        examples=examples,
        fingerprints=dict(ensemble.fingerprints),
    )
