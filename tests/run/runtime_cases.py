"""Ensembles and plans of small modules, and runs that some members may answer, shared by the runtime's tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from esen_lab.ensemble import Ensemble, make_combine, make_submodel
from esen_lab.planner.plan import Lane, Plan
from esen_lab.run import Run, RunOptions

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


def ensemble_of(combine: str = "mean", example: object = X, **modules: nn.Module) -> Ensemble:
    submodels = tuple(make_submodel(name, module, example) for name, module in modules.items())
    return Ensemble(submodels=submodels, combine=make_combine(combine))


def plan_of(*lanes: tuple[str, ...], units: int | None = None, mode: str = "serial") -> Plan:
    """One core per lane, on a device of at least that many."""
    return Plan(
        lanes=tuple(Lane(units=1, members=lane, mode=mode) for lane in lanes), units=units or max(len(lanes), 1)
    )


def first(at_least: int, **more: Any) -> RunOptions:
    """As soon as so many are done."""
    return RunOptions(deadline_s=1e-4, otherwise="first", at_least=at_least, **more)


def missing(run: Run) -> dict[str, tuple[str, str]]:
    """Who did not answer: (why, what is told of it) by name."""
    assert run.report.answered is not None
    return {one.name: (one.why, one.told) for one in run.report.answered.missing}
