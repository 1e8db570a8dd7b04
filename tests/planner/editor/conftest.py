from __future__ import annotations

import pytest
from editor_bench import UNITS, FakeBench, models

from esen_lab.planner.editor import PlanEditor


@pytest.fixture
def bench() -> FakeBench:
    return FakeBench()


@pytest.fixture
def editor(bench: FakeBench) -> PlanEditor:
    """Three sub-models in one lane."""
    return PlanEditor(models(a=0.08, b=0.04, c=0.02), UNITS, bench=bench)
