"""Ensembles and plans of small modules, shared by the runtime's tests."""

from __future__ import annotations

import torch
from torch import nn

from esen_lab.ensemble import Ensemble, make_combine, make_submodel
from esen_lab.planner.plan import Lane, Plan

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


def ensemble_of(combine: str = "mean", example: object = X, **modules: nn.Module) -> Ensemble:
    submodels = tuple(make_submodel(name, module, example) for name, module in modules.items())
    return Ensemble(submodels=submodels, combine=make_combine(combine))


def plan_of(*lanes: tuple[str, ...], units: int | None = None, mode: str = "serial") -> Plan:
    """One core per lane, on a device of at least that many."""
    return Plan(
        lanes=tuple(Lane(units=1, members=lane, mode=mode) for lane in lanes), units=units or max(len(lanes), 1)
    )
