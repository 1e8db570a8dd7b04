"""Groups of equal networks and parts of a batch, as sub-models of their own."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from models import Draws, mlp
from torch import nn

from esen_lab.common.answers import difference
from esen_lab.common.trees import call_with
from esen_lab.ensemble import SubModel, make_submodel
from esen_lab.ensemble.batch_part import BatchPart, bounds, joined
from esen_lab.ensemble.batched import Batched
from esen_lab.ensemble.derived import group_of, kind_of, part_of, why_not_grouped, why_not_split
from esen_lab.errors import UsageError

X = torch.randn(7, 8, generator=torch.Generator().manual_seed(0))


def submodel(name: str, module: nn.Module, example: object = X) -> SubModel:
    return make_submodel(name, module, example)


class Tied(nn.Module):
    """One weight in two places, a buffer, an input by keyword, an output that is a dict."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.one = nn.Linear(8, 8)
        self.two = nn.Linear(8, 8)
        self.two.weight = self.one.weight
        self.norm = nn.BatchNorm1d(8)
        self.norm.running_mean.normal_()
        self.register_buffer("shift", torch.randn(8), persistent=False)

    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": self.norm(self.two(self.one(x)) + self.shift) * scale, "z": x.sum(1)}


class MeanOfBatch(nn.Module):
    """Each row's answer depends on the others: not with rows that are all the same."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(0)


class LargestOfBatch(nn.Module):
    """Pixels as parts of the batch's largest: not told by rows that all hold it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / x.max()


class LongestOfBatch(nn.Module):
    """A mean over as many columns as the longest row of a mask has: not told by a mask that is full."""

    def forward(self, mask: torch.Tensor) -> torch.Tensor:
        return mask[:, : int(mask.sum(1).max())].float().mean(1)


class SumOfBatch(nn.Module):
    """One answer for the whole batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum()


class Branches(nn.Module):
    """Looks at a value: `torch.func` refuses that."""

    def __init__(self) -> None:
        super().__init__()
        self.limit = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.limit.item() > 0 else -x


class NoParameters(nn.Module):
    """Nothing to stack."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


# --- groups -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_group_answers_as_each_of_its_members_does(count: int) -> None:
    modules = [mlp(seed=seed) for seed in range(count)]
    answers = Batched(modules)(X)
    assert all(difference(one, module(X)).agrees for one, module in zip(answers, modules, strict=True))
    assert len({float(one.sum().detach()) for one in answers}) == count, "they have other weights"


def test_tied_weights_buffers_keywords_and_dicts_are_kept_in_a_group() -> None:
    modules = [Tied(seed).eval() for seed in range(3)]
    x = {"x": X, "scale": torch.tensor(3.0)}
    answers = call_with(Batched(modules), x)
    assert [sorted(one) for one in answers] == [["y", "z"]] * 3
    assert all(difference(one, module(**x)).agrees for one, module in zip(answers, modules, strict=True))


def test_a_group_without_parameters_is_one_too() -> None:
    assert all(torch.equal(one, X * 2) for one in Batched([NoParameters(), NoParameters()])(X))


def test_a_group_does_not_touch_the_modules_it_is_made_of() -> None:
    modules = [mlp(seed=1), mlp(seed=2)]
    before = [module(X) for module in modules]
    Batched(modules)(X)
    assert all(torch.equal(module(X), old) for module, old in zip(modules, before, strict=True))
    assert all(parameter.device.type == "cpu" for module in modules for parameter in module.parameters())


def test_a_group_moves_and_changes_type_as_any_module() -> None:
    modules = [mlp(seed=1), mlp(seed=2)]
    answers = Batched(modules).double()(X.double())
    assert all(one.dtype is torch.float64 for one in answers)


def test_a_group_is_built_from_what_crosses_to_a_worker() -> None:
    group = group_of("a+b", [submodel("a", mlp(seed=1)), submodel("b", mlp(seed=2))])
    built = pickle.loads(group.payload())()
    assert all(difference(one, mlp(seed=seed)(X)).agrees for seed, one in enumerate(built(X), start=1))
    assert not built.training


def test_groups_of_one_size_share_a_fingerprint_and_differ_in_content() -> None:
    a, b, c = (submodel(name, mlp(seed=seed)) for seed, name in enumerate("abc"))
    other = submodel("d", mlp(width=5))
    ab, bc, abc = group_of("a+b", [a, b]), group_of("b+c", [b, c]), group_of("a+b+c", [a, b, c])
    assert ab.fingerprint == bc.fingerprint != abc.fingerprint
    assert not ab.same_as(bc), "a lane that has one has not the other"
    assert kind_of(a) == kind_of(b) != kind_of(other)
    assert ab.memory_bytes == a.memory_bytes + b.memory_bytes


def test_networks_of_two_kinds_and_networks_that_draw_are_no_group() -> None:
    with pytest.raises(UsageError, match="one architecture"):
        group_of("a+b", [submodel("a", mlp(width=4)), submodel("b", mlp(width=5))])
    with pytest.raises(UsageError, match="random numbers"):
        group_of("a+b", [submodel("a", Draws()), submodel("b", Draws())])


def test_what_torch_cannot_batch_is_refused_with_its_reason() -> None:
    assert "item" in why_not_grouped([submodel("a", Branches()), submodel("b", Branches())])
    assert not why_not_grouped([submodel("a", mlp(seed=1)), submodel("b", mlp(seed=2))])


# --- parts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 7, 64])
@pytest.mark.parametrize("parts", [2, 3, 4])
def test_parts_cover_every_row_once_in_order_and_the_first_is_never_the_smallest(rows: int, parts: int) -> None:
    found = [bounds(rows, part, parts) for part in range(1, parts + 1)]
    assert [row for start, stop in found for row in range(start, stop)] == list(range(rows))
    sizes = [stop - start for start, stop in found]
    assert sizes[0] == max(sizes)
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 7, 64])
@pytest.mark.parametrize("parts", [2, 3, 4])
def test_joined_parts_are_the_answer_of_the_whole_also_with_fewer_rows_than_parts(rows: int, parts: int) -> None:
    module, x = mlp(), torch.randn(rows, 8)
    answers = [BatchPart(module, part, parts)(x) for part in range(1, parts + 1)]
    assert difference(joined(answers), module(x)).agrees
    assert joined(answers).shape == (rows, 3)


def test_inputs_and_answers_of_several_tensors_are_split_leaf_by_leaf() -> None:
    class Pair(nn.Module):
        def forward(self, x: torch.Tensor, *, more: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, Any]]:
            return x + 1, {"ids": more["ids"][:, :2]}

    x = {"x": X, "more": {"ids": torch.arange(14).reshape(7, 2)}}
    answers = [call_with(BatchPart(Pair(), part, 3), x) for part in (1, 2, 3)]
    assert difference(joined(answers), call_with(Pair(), x)).agrees


def test_a_part_refuses_tensors_of_other_lengths_and_answers_without_rows() -> None:
    with pytest.raises(UsageError, match="5 rows, 7 rows"):
        BatchPart(Tied(0).eval(), 1, 2)(X, torch.ones(5, 8))
    with pytest.raises(UsageError, match="none"):
        BatchPart(SumOfBatch(), 1, 2)(X)


@pytest.mark.parametrize(
    ("make", "example", "told"),
    [
        (MeanOfBatch, X, "depends on other rows"),
        (MeanOfBatch, torch.ones(6, 8), "depends on other rows"),
        (SumOfBatch, X, "rows along dimension 0"),
        (Draws, X, "random numbers"),
        (mlp, torch.randn(1, 8), "1 rows, fewer than 2 parts"),
        (mlp, torch.randn(8), "cannot run a part"),
        (lambda: nn.Softmax(dim=0), X, "depends on other rows"),
        (lambda: nn.MultiheadAttention(8, 1).eval(), (X, X, X), "cannot run a part"),
        (LargestOfBatch, torch.randint(0, 256, (6, 8)).index_fill(1, torch.tensor([0]), 255), "depends on other rows"),
        (LargestOfBatch, torch.full((6, 8), 7), "depends on other rows"),
        (LongestOfBatch, torch.ones(6, 8, dtype=torch.bool), "depends on other rows"),
    ],
)
def test_a_batch_whose_rows_depend_on_each_other_is_not_split(
    make: Callable[[], nn.Module], example: object, told: str
) -> None:
    assert told in why_not_split(submodel("a", make(), example), 2)


def test_batch_norm_that_learns_is_not_split() -> None:
    class AlwaysTraining(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.norm.train()
            return self.norm(x)

    assert "keeps state" in why_not_split(submodel("a", AlwaysTraining()), 2)
    assert not why_not_split(submodel("a", nn.BatchNorm1d(8).eval()), 2)


def test_whole_numbers_are_tried_in_another_order_and_stay_what_the_network_takes() -> None:
    ids = torch.randint(0, 5, (6, 4), generator=torch.Generator().manual_seed(0))
    assert not why_not_split(submodel("a", nn.Embedding(5, 3).eval(), ids), 3)


def test_the_parts_of_one_size_share_a_fingerprint() -> None:
    a = submodel("a", mlp())
    one, two, third = part_of("a 1/2", a, 1, 2), part_of("a 2/2", a, 2, 2), part_of("a 1/3", a, 1, 3)
    assert one.fingerprint == two.fingerprint != third.fingerprint
    assert not one.same_as(two)


def test_looking_for_groups_and_parts_leaves_generators_where_they_were() -> None:
    a, b = submodel("a", mlp(seed=1)), submodel("b", mlp(seed=2))
    torch.manual_seed(3)
    wanted = torch.rand(3)
    torch.manual_seed(3)
    why_not_split(a, 2)
    why_not_grouped([a, b])
    assert torch.equal(torch.rand(3), wanted)


def test_a_group_takes_members_whose_equal_classes_are_not_one_object() -> None:
    text = """
class Own(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)

    def forward(self, x):
        return self.layer(x)
"""
    spaces: list[dict[str, Any]] = [{"torch": torch, "__name__": "own"} for _ in range(2)]
    for space in spaces:
        exec(text, space)
    modules = [space["Own"]() for space in spaces]
    x = torch.randn(3, 4)
    answers = Batched(modules)(x)
    for module, answer in zip(modules, answers, strict=True):
        assert torch.allclose(module(x), answer, atol=1e-6)
