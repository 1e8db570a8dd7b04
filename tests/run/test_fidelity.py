"""Whether lanes answer as the notebook does, asked of answers that are given here."""

from __future__ import annotations

import pytest
import torch
from models import Draws, mlp
from torch import nn

from esen_lab.ensemble import Ensemble, make_combine, make_submodel
from esen_lab.lanes import ForkServer
from esen_lab.run.fidelity import Fidelity

X = torch.zeros(2, 8)


def suspects(module: nn.Module, *, on_gpu: bool) -> set[str]:
    """Of one sub-model whose lane answers otherwise than the notebook, with the same seed where it draws."""
    ensemble = Ensemble(submodels=(make_submodel("a", module, X),), combine=make_combine("mean"))
    lane = {"executed": lambda: {"a": "eager"}, "in_lanes": lambda: [("a",)]}
    fidelity = Fidelity(ForkServer(), [], {}, on_gpu=on_gpu, **lane)
    return set(fidelity.unlike_to({"a": torch.zeros(2, 3)}, {"a": torch.ones(2, 3)}, ensemble, X))


@pytest.mark.parametrize("on_gpu", [False, True])
def test_a_lane_that_answers_otherwise_is_told_of_wherever_it_computes(on_gpu: bool) -> None:
    assert suspects(mlp(), on_gpu=on_gpu) == {"a"}


def test_a_member_that_draws_is_not_compared_where_a_gpu_draws_for_it() -> None:
    assert suspects(Draws(), on_gpu=False) == {"a"}
    assert suspects(Draws(), on_gpu=True) == set()
