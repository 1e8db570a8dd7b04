"""Measured points for tests that need some; change them with `dataclasses.replace`."""

from __future__ import annotations

from typing import Any

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


def a_point(name: str = "wide", units: int = 1, median_s: float = 0.004, **known: Any) -> Point:
    """A point like those of a quiet machine."""
    return Point(
        **{
            "name": name,
            "units": units,
            "median_s": median_s,
            "spread_s": median_s / 50,
            "quantile_90_s": median_s * 1.1,
            "repeats": 20,
            "warmups": 3,
            "settled": True,
            "peak_memory_bytes": 1_000_000,
            "measured_at": "2026-11-01T12:00:00+00:00",
            **known,
        }
    )
