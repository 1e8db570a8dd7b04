"""Ensembles to plan for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from latencies import Latencies, make_latencies


@pytest.fixture
def latencies() -> Callable[..., Latencies]:
    return make_latencies
