"""Made-up entries of a history."""

from __future__ import annotations

from typing import Any

from esen_lab.history import Entry, EntryKind, Member, Strategy
from esen_lab.planner.plan import Lane, Plan

DEVICE = {"kind": "cpu", "name": "Fake", "units": 4, "unit": "core", "details": {}, "simulated": True}


def a_small_plan(units: int = 1, **known: Any) -> Plan:
    return Plan(
        lanes=(Lane(units=units, members=("a",)), Lane(units=2, members=("b",))),
        units=4,
        searcher="exact",
        jct_s=0.003,
        bound_s=0.0025,
        **known,
    )


def an_entry(jct_s: float | None = 0.004, code: str = "c1", **known: Any) -> Entry:
    """A comparison of `a_small_plan`; its interval is 5 % to both sides."""
    return Entry(
        **{
            "kind": EntryKind.COMPARISON,
            "at": "2026-11-01T12:00:00+00:00",
            "device": DEVICE,
            "versions": {"esen_lab": "0.1.0", "torch": "2.13.0"},
            "members": {
                "a": Member(fingerprint=f"weights of {code}", code=code),
                "b": Member(fingerprint="b", code="b"),
            },
            "combine": "mean",
            "batch": "float32[4, 8]",
            "plan": a_small_plan(),
            "jct_s": jct_s,
            "low_s": None if jct_s is None else 0.95 * jct_s,
            "high_s": None if jct_s is None else 1.05 * jct_s,
            "runs": 20,
            "strategies": (
                Strategy(name="sequential", median_s=0.008, spread_s=0.001, agrees=True),
                Strategy(name="vmap"),
                Strategy(name="wrong", median_s=0.001, spread_s=0.001),
                Strategy(name="plan", median_s=jct_s, spread_s=0.0001, agrees=True),
            ),
            "notes": ("the plan wins",),
            **known,
        }
    )


def a_profile(seconds: float = 0.002, **known: Any) -> Entry:
    """A profile of two sub-models, one of them by two backends."""
    return an_entry(
        None,
        kind=EntryKind.PROFILE,
        plan=None,
        batch="",
        runs=0,
        strategies=(),
        notes=(),
        latency_s={"a": {1: seconds, 2: seconds / 2}, "a by openvino": {1: 0.001}, "b": {1: 0.003}},
        load=0.02,
        **known,
    )
