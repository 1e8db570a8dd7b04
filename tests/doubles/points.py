"""A measured point for tests that need one; change it with `dataclasses.replace`."""

from __future__ import annotations

from esen_lab.profiler.records import Point

POINT = Point(
    name="wide",
    units=2,
    median_s=0.004,
    spread_s=0.0001,
    quantile_90_s=0.005,
    repeats=9,
    warmups=2,
    settled=True,
    peak_memory_bytes=None,
    measured_at="2026-11-01T12:00:00+00:00",
)
