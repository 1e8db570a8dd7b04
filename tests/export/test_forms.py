from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from esen_lab.ensemble import Ensemble, FileRecipe, SkeletonRecipe, make_submodel
from esen_lab.errors import UsageError
from esen_lab.export.forms import saved_form


class Branches(nn.Module):
    """Neither a skeleton (an object with slots) nor a program (a branch on values)."""

    class Slots:
        __slots__ = ("sign",)

    def __init__(self) -> None:
        super().__init__()
        self.slots = Branches.Slots()
        self.slots.sign = -1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum().item() > 0 else x * self.slots.sign


def test_each_recipe_has_its_saved_form(ensemble: Ensemble) -> None:
    assert [saved_form(s).kind for s in ensemble.submodels] == ["skeleton", "source", "import", "program"]


def test_a_module_that_no_form_fits_says_why_and_what_to_do() -> None:
    submodel = make_submodel("tricky", Branches(), torch.ones(2))
    with pytest.raises(UsageError, match=r"(?s)'tricky'.*slots.*torch\.export.*package\.module:build"):
        saved_form(submodel)


def test_a_form_that_gives_other_bits_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    submodel = make_submodel("a", nn.Linear(3, 2), torch.ones(1, 3))

    def wrong(module: Any) -> dict[str, torch.Tensor]:
        return {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}

    monkeypatch.setattr("esen_lab.ensemble.skeleton.tensors_of", wrong)
    assert saved_form(submodel).kind == "program"


def test_a_module_that_writes_into_its_input_is_saved_too() -> None:
    submodel = make_submodel("a", nn.ReLU(inplace=True), torch.tensor([-1.0, 2.0]))
    assert saved_form(submodel).kind == "skeleton"


def test_a_function_whose_source_cannot_be_kept_is_pickled_and_gives_the_same_bits() -> None:
    import numpy as np

    weight = np.ones((8, 3), dtype="float32")
    submodel = make_submodel("a", lambda table: table @ weight, np.ones((2, 8), dtype="float32"))
    form = saved_form(submodel)
    assert isinstance(form, FileRecipe)
    assert form.form == "pickle"
    assert torch.equal(form.build()(torch.ones(2, 8)), submodel.answer)


def test_a_function_whose_source_can_be_kept_is_saved_as_source() -> None:
    from other_kinds import Scale

    form = saved_form(make_submodel("a", Scale(2.0), torch.ones(2, 8)))
    assert isinstance(form, SkeletonRecipe)
