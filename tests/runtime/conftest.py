"""Ensembles of small modules, and one nursery for the runtime's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from esen_lab.devices import CpuDevice
from esen_lab.ensemble import Ensemble, make_combine, make_submodel
from esen_lab.planning import Lane, Plan
from esen_lab.runtime import Executor, Nursery

X = torch.randn(4, 8)


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    nursery.worker(CpuDevice().place([1])[0]).close()
    yield nursery
    nursery.close()


def ensemble_of(combine: str = "mean", example: object = X, **modules: nn.Module) -> Ensemble:
    submodels = tuple(make_submodel(name, module, example) for name, module in modules.items())
    return Ensemble(submodels=submodels, combine=make_combine(combine))


def plan_of(*lanes: tuple[str, ...], units: int | None = None, mode: str = "serial") -> Plan:
    """One core per lane, on a device of at least that many."""
    return Plan(lanes=tuple(Lane(units=1, members=lane, mode=mode) for lane in lanes), units=units or max(len(lanes), 1))


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
