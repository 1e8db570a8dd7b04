"""Members that make an ensemble, and rules that combine them: refused before anything is measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from odd_things import Echo
from torch import nn

from esen_lab import Lab
from esen_lab.ensemble import Ensemble, check_together, make_combine, make_submodel
from esen_lab.errors import UsageError

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


class Takes(nn.Module):
    """Adds up what it is given, by name or by position."""

    def forward(self, x: torch.Tensor, y: torch.Tensor | float = 0.0) -> torch.Tensor:
        return x + y


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(device="cpu", store=tmp_path / "store.sqlite") as lab:
        yield lab


# --- one input for all --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (X, {"x": X}),
        ({"x": X}, X),
        ({"x": X}, (X, X)),
        ((X, X, X), X),
        (X, (X.double(), X, X)),
    ],
    ids=["dict beside tensor", "tensor beside dict", "tuple beside dict", "tensor beside three", "three beside tensor"],
)
def test_a_member_that_cannot_take_the_others_input_is_refused_at_once(lab: Lab, first: Any, second: Any) -> None:
    class Three(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
            return x + y + z

    def taking(example: Any) -> nn.Module:
        return Three() if isinstance(example, tuple) and len(example) == 3 else Takes()

    lab.register("first", taking(first), example=first)
    with pytest.raises(UsageError, match=r"'first'.*'second'|'second'.*'first'"):
        lab.register("second", taking(second), example=second)
    assert lab.ensemble.names == ("first",)


@pytest.mark.parametrize("other", [torch.randn(4, 9), X.double()], ids=["width", "dtype"])
def test_a_member_made_for_other_tensors_is_refused_where_it_fails_on_the_others(lab: Lab, other: torch.Tensor) -> None:
    lab.register("a", nn.Linear(8, 3), example=X)
    with pytest.raises(UsageError, match=r"'b', made for .*, fails on the float32\[4, 8\] of 'a'"):
        lab.register("b", nn.Linear(other.shape[1], 3, dtype=other.dtype), example=other)


def test_members_may_have_examples_of_other_sizes_where_they_take_each_others(lab: Lab) -> None:
    lab.register("a", nn.Linear(8, 3), example=X)
    lab.register("b", nn.Linear(8, 3), example=X[:1])
    lab.register("c", Takes(), example=(X,))
    check_together(lab.ensemble.only(["a", "b"]))


def test_dicts_of_other_arguments_are_joined(lab: Lab) -> None:
    lab.register("a", Takes(), example={"x": X})
    lab.register("b", Takes(), example={"x": X, "y": X})
    check_together(lab.ensemble)


def test_all_members_may_change_one_after_another(lab: Lab) -> None:
    for example in (X, {"x": X}, torch.randn(2, 5)):
        for name in "ab":
            lab.register(name, Takes(), example=example)
        check_together(lab.ensemble)
    lab.register("b", Takes(), example={"x": X})
    with pytest.raises(UsageError, match="all take a dict"):
        lab.profile()


# --- weights ----------------------------------------------------------------------------------------------------------


def four(lab: Lab) -> Lab:
    for name in "abcd":
        lab.register(name, nn.Linear(8, 3), example=X)
    return lab


@pytest.mark.parametrize("weights", [[1, 2], [1, 2, 3, 4, 5], {"a": 1}, {"a": 1, "b": 1, "c": 1, "d": 1, "e": 1}])
def test_weights_of_other_members_are_refused_at_once(lab: Lab, weights: Any) -> None:
    four(lab)
    with pytest.raises(UsageError, match="one weight for each"):
        lab.combine("weighted", weights=weights)
    assert lab.ensemble.combine.name == "mean"


def test_weights_that_a_later_member_makes_wrong_are_refused_before_it_is_measured(lab: Lab) -> None:
    lab.combine("weighted", weights=[1, 2, 3, 4])  # nobody is known yet
    four(lab)
    lab.register("e", nn.Linear(8, 3))
    with pytest.raises(UsageError, match="one weight for each of the 5 sub-models"):
        lab.profile()
    lab.unregister("e")
    check_together(lab.ensemble)


@pytest.mark.parametrize(
    "weights",
    [
        5,
        "1,2",
        b"12",
        {1, 2},
        [math.nan, 1],
        [math.inf, 1],
        [-1, 2],
        [True, 1],
        [10**400, 1],
        [0, 0],
        [],
        {3: 1},
        ["1"],
    ],
    ids=repr,
)
def test_what_is_no_row_of_weights_is_refused(weights: Any) -> None:
    with pytest.raises(UsageError):
        make_combine("weighted", weights=weights)


def test_weights_may_be_an_array_or_very_large() -> None:
    assert make_combine("weighted", weights=np.array([1.0, 3.0])).weights == (("", 0.25), ("", 0.75))
    assert make_combine("weighted", weights=torch.tensor([1.0, 3.0])).weights == (("", 0.25), ("", 0.75))
    assert make_combine("weighted", weights=[1.5e308, 1.5e308]).weights == (("", 0.5), ("", 0.5))


# --- what a rule can combine ----------------------------------------------------------------------------------------


def two(first: torch.Tensor, second: torch.Tensor, rule: str = "mean") -> Ensemble:
    members = (make_submodel("a", Echo(), first), make_submodel("b", Echo(), second))
    return Ensemble(submodels=members, combine=make_combine(rule))


@pytest.mark.parametrize(
    ("rule", "dtype"),
    [("mean", "int64"), ("mean", "bool"), ("mean", "complex64"), ("softmax-mean", "int32"), ("majority", "uint8")],
)
def test_a_rule_that_cannot_combine_the_outputs_is_refused_before_they_are_made(rule: str, dtype: str) -> None:
    x = X.to(getattr(torch, dtype))
    with pytest.raises(UsageError, match=f"a {dtype}"):
        check_together(two(x, x, rule))


def test_outputs_of_two_shapes_are_refused_when_the_rule_is_chosen_or_something_is_measured(lab: Lab) -> None:
    lab.register("a", nn.Linear(8, 3), example=X)
    lab.register("b", nn.Linear(8, 5))
    with pytest.raises(UsageError, match="one shape"):
        lab.profile()
    with pytest.raises(UsageError, match="one shape"):
        lab.combine("softmax-mean")
    lab.combine(lambda outputs: outputs["a"])
    check_together(lab.ensemble)


FLOAT8 = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu")


@pytest.mark.parametrize("rule", ["mean", "softmax-mean", "majority", "stack", "weighted"])
@pytest.mark.parametrize("dtype", FLOAT8)
def test_numbers_of_8_bits_are_combined_as_in_single_precision(rule: str, dtype: str) -> None:
    kind = getattr(torch, dtype)
    outputs = {name: torch.rand(4, 8).to(kind) for name in "abc"}
    combine = make_combine(rule, weights=[1, 2, 5] if rule == "weighted" else None)
    wide = combine({name: tensor.float() for name, tensor in outputs.items()})
    found = combine(outputs)
    assert found.dtype == (torch.int64 if rule == "majority" else kind)
    assert torch.equal(found.float(), wide.to(found.dtype).float())


@pytest.mark.parametrize(
    ("one", "other"), [("float8_e5m2", "float32"), ("uint16", "int64"), ("float8_e5m2", "float8_e4m3fn")]
)
@pytest.mark.parametrize("rule", ["mean", "stack"])
def test_dtypes_that_torch_does_not_join_are_a_usage_error(one: str, other: str, rule: str) -> None:
    outputs = {"a": X.abs().to(getattr(torch, one)), "b": X.abs().to(getattr(torch, other))}
    with pytest.raises(UsageError, match=f"a {one}"):
        make_combine(rule)(outputs)


@pytest.mark.parametrize(
    "result",
    [lambda x: x.to_sparse(), lambda x: x.to("meta"), lambda x: torch.nested.nested_tensor([x]), lambda x: {1, 2}],
    ids=["sparse", "meta", "nested", "set"],
)
def test_what_a_rule_of_ones_own_returns_goes_through_the_same_door(result: Callable[[torch.Tensor], Any]) -> None:
    with pytest.raises(UsageError, match="the result of the combine rule"):
        make_combine(lambda outputs: result(outputs["a"]))({"a": X})
