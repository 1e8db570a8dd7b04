"""One nursery for the runtime's tests, and executors that are closed after each."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from esen_lab.devices import CpuDevice
from esen_lab.ensemble import Ensemble
from esen_lab.planning import Plan
from esen_lab.runtime import Executor, Nursery


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    nursery.worker(CpuDevice().place([1])[0]).close()
    yield nursery
    nursery.close()


@pytest.fixture
def start(nursery: Nursery) -> Iterator[Callable[[Plan, Ensemble], Executor]]:
    """Start executors on a device with as many (shared) cores as the test asks for."""
    started: list[Executor] = []

    def start(plan: Plan, ensemble: Ensemble) -> Executor:
        executor = Executor.start(plan, ensemble, CpuDevice(cores=[(0,)] * plan.units), nursery)
        started.append(executor)
        return executor

    yield start
    for executor in started:
        executor.close()
