"""A lab with measurements that were not measured here: searching needs points, not workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from points import a_point

from esen_lab import Lab
from esen_lab.lab.stages.profile import with_measured
from esen_lab.profiler.records import Profile


def with_points(lab: Lab, tables: Mapping[str, Sequence[float]], **known: object) -> Lab:
    """Give `lab` a finished profile: seconds at 1, 2, ... units for each registered sub-model."""
    points = tuple(
        a_point(name, units, seconds, **{"quantile_90_s": seconds * 2, **known})
        for name, table in tables.items()
        for units, seconds in enumerate(table, start=1)
    )
    profile = Profile(
        device=lab.device.identity.to_dict(),
        units=lab.device.units,
        points=points,
        examples={name: lab.ensemble.inputs.get(name, "") for name in tables},
        fingerprints=lab.ensemble.fingerprints,
    )
    lab._runtime.change(lambda state: with_measured(state, profile))
    return lab
