from __future__ import annotations

import pytest
import torch
from torch import nn

from esen_lab.common.trees import tree_spec
from esen_lab.ensemble import Ensemble, make_combine, make_submodel
from esen_lab.errors import UsageError

X = torch.ones(1, 2)


def members(*names: str) -> Ensemble:
    return Ensemble(submodels=tuple(make_submodel(name, nn.Linear(2, 2), X) for name in names))


def test_a_new_submodel_goes_to_the_end_and_an_old_name_keeps_its_place() -> None:
    ensemble = members("a", "b")
    assert ensemble.with_submodel(make_submodel("c", nn.Identity(), X)).names == ("a", "b", "c")
    changed = ensemble.with_submodel(make_submodel("a", nn.Identity(), X))
    assert changed.names == ("a", "b")
    assert changed.get("a").class_name == "Identity"
    assert ensemble.get("a").class_name == "Linear", "the old ensemble is as it was"


def test_a_member_can_leave() -> None:
    assert members("a", "b").without("a").names == ("b",)


def test_a_member_of_another_batch_is_run_on_the_examples_of_the_first() -> None:
    first, second = make_submodel("a", nn.Linear(2, 2), torch.ones(8, 2)), make_submodel("b", nn.Linear(2, 2), X)
    ensemble = Ensemble(submodels=(first, second))
    assert ensemble.inputs == {"a": "float32[8, 2]", "b": "float32[8, 2]"}
    assert ensemble.as_run(first) is first
    assert ensemble.as_run(second).example is first.example
    assert ensemble.as_run(second).fingerprint == second.fingerprint


class _Named(nn.Module):
    def forward(self, **given: torch.Tensor) -> torch.Tensor:
        return sum(given.values(), torch.zeros(1))


def test_members_that_take_different_parts_of_a_dict_are_run_on_their_own_examples() -> None:
    first = make_submodel("a", _Named(), {"p": torch.ones(4, 2), "q": torch.ones(4, 1)})
    second = make_submodel("b", _Named(), {"q": torch.ones(4, 1), "r": torch.ones(4, 3)[:, :1]})
    ensemble = Ensemble(submodels=(first, second))
    assert [ensemble.as_run(submodel) for submodel in (first, second)] == [first, second]
    assert ensemble.inputs == {submodel.name: str(tree_spec(submodel.example)) for submodel in (first, second)}


def test_an_unknown_name_is_told_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"'z'.*It has a, b"):
        members("a", "b").get("z")
    with pytest.raises(UsageError, match="register one first"):
        Ensemble().without("z")


def test_one_name_cannot_be_there_twice() -> None:
    one = make_submodel("a", nn.Identity(), X)
    with pytest.raises(UsageError, match="own name"):
        Ensemble(submodels=(one, one))


def test_the_combine_rule_is_the_mean_until_another_is_set() -> None:
    assert Ensemble().combine.name == "mean"
    assert Ensemble().with_combine(make_combine("stack")).combine.name == "stack"


def test_fingerprints_are_those_of_the_members() -> None:
    ensemble = members("a", "b")
    assert ensemble.fingerprints == {"a": ensemble.get("a").fingerprint, "b": ensemble.get("b").fingerprint}


def test_the_example_of_all_joins_keyword_arguments() -> None:
    one = make_submodel("a", nn.Bilinear(2, 2, 1), {"input1": X, "input2": X * 2})
    two = make_submodel("b", nn.Linear(2, 1), {"input": X})
    example = Ensemble(submodels=(one, two)).example
    assert sorted(example) == ["input", "input1", "input2"]
    assert torch.equal(members("a").example, X)
    with pytest.raises(UsageError, match="at least one"):
        _ = Ensemble().example


def test_it_describes_itself_in_plain_data() -> None:
    described = members("a").to_dict()
    assert described["combine"] == "mean"
    assert described["submodels"][0]["parameters"] == 6
