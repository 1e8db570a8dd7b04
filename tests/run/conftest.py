"""One fork server for the runtime's tests, and executors that are closed after each."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from esen_lab.devices import CpuDevice
from esen_lab.ensemble import Ensemble
from esen_lab.planner.plan import Plan
from esen_lab.run import Executor, ForkServer


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    fork_server = ForkServer()
    fork_server.worker(CpuDevice().place([1])[0]).close()
    yield fork_server
    fork_server.close()


@pytest.fixture
def start(fork_server: ForkServer) -> Iterator[Callable[[Plan, Ensemble], Executor]]:
    """Start executors on a device with as many (shared) cores as the test asks for."""
    started: list[Executor] = []

    def start(plan: Plan, ensemble: Ensemble) -> Executor:
        executor = Executor.start(plan, ensemble, CpuDevice(cores=[(0,)] * plan.units), fork_server)
        started.append(executor)
        return executor

    yield start
    for executor in started:
        executor.close()
