"""Whether a plan fits an ensemble and a device: one question, one set of rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from esen_lab.ensemble import Ensemble
from esen_lab.errors import UsageError
from esen_lab.planner.fits import changed_since, check_fits, fits
from esen_lab.planner.plan import Lane, Plan


@dataclass
class Device:
    units: int
    identity: Any = field(default_factory=lambda: SimpleNamespace(unit="core"))


def members(*names: str) -> Ensemble:
    """As far as the question looks at an ensemble."""
    return cast("Ensemble", SimpleNamespace(names=names, fingerprints={name: f"now {name}" for name in names}))


def plan_of(*lanes: Sequence[str], units: int = 4, **fields: Any) -> Plan:
    return Plan(lanes=tuple(Lane(units=1, members=tuple(lane)) for lane in lanes), units=units, **fields)


def test_a_plan_of_the_same_sub_models_fits_a_device_that_is_as_large() -> None:
    plan = plan_of("a", "b")
    check_fits(plan, members("b", "a"))
    check_fits(plan, members("a", "b"), Device(units=4))
    assert fits(plan, members("a", "b"), Device(units=8))


def test_other_sub_models_are_named_on_both_sides() -> None:
    with pytest.raises(UsageError, match=r"'b' is in the plan only; 'c' is in the ensemble only"):
        check_fits(plan_of("a", "b"), members("a", "c"))


def test_members_that_it_leaves_out_may_be_there_or_not() -> None:
    plan = plan_of("a", left_out=("b",))
    assert fits(plan, members("a", "b"))
    assert fits(plan, members("a"))
    assert not fits(plan, members("a", "b", "c"))


def test_a_smaller_device_is_said_with_its_units() -> None:
    with pytest.raises(UsageError, match=r"This device has 2 cores. Given: a plan for 4 \(unknown device\)"):
        check_fits(plan_of("a"), members("a"), Device(units=2))


def test_what_is_only_planned_fits_nowhere() -> None:
    stages = Plan(
        lanes=(Lane(units=1, members=("a",)), Lane(units=1, members=("b",), stage=1)), units=1, reach=(1.0, 0.5)
    )
    assert not fits(stages, members("a", "b"))


def test_what_changed_since_it_was_made_is_named() -> None:
    plan = plan_of("a", "b", "c", fingerprints={"a": "now a", "b": "before"})
    assert changed_since(plan, members("a", "b", "c")) == ["b"]
