"""A memory limit needs to know what each sub-model takes: measured where it was profiled, else its weights."""

from __future__ import annotations

import dataclasses

from esen_lab.ensemble import Ensemble
from esen_lab.planner import Limits
from esen_lab.profiler import Profile


def with_memory(limits: Limits, ensemble: Ensemble, profile: Profile | None) -> tuple[Limits, tuple[str, ...]]:
    """`limits` with `memory_bytes` of every sub-model filled in, where there is a memory limit.

    Args:
        limits: What the user asked for; sizes given there stay.
        ensemble: The sub-models.
        profile: What was measured; the largest peak over its shares counts.

    Returns:
        The limits, and remarks on what could not be counted.
    """
    if limits.memory_limit_bytes is None:
        return limits, ()
    sizes = dict(limits.memory_bytes)
    unmeasured = []
    for submodel in ensemble.submodels:
        if submodel.name in sizes:
            continue
        points = () if profile is None else profile.of(submodel.name)
        peaks = [point.peak_memory_bytes for point in points if point.peak_memory_bytes is not None]
        if not peaks:
            unmeasured.append(submodel.name)
        sizes[submodel.name] = max(peaks, default=submodel.memory_bytes)
    notes = []
    if unmeasured:
        notes.append(f"memory of {', '.join(unmeasured)}: weights only, its peak could not be measured")
    if not limits.lane_bytes:
        notes.append("memory: what a lane takes besides its sub-models is not counted; lane_bytes adds it")
    return dataclasses.replace(limits, memory_bytes=sizes), tuple(notes)
