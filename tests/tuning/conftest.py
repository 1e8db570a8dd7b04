from __future__ import annotations

import pytest
from tuning_bench import UNITS, FakeBench, models

from esen_lab.tuning import Tuning


@pytest.fixture
def bench() -> FakeBench:
    return FakeBench()


@pytest.fixture
def tuning(bench: FakeBench) -> Tuning:
    """Three sub-models in one lane."""
    return Tuning(models(a=0.08, b=0.04, c=0.02), UNITS, bench=bench)
