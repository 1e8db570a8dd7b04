"""The mean of small outputs, prepared ahead."""

from __future__ import annotations

import pytest
import torch

from esen_lab.ensemble import make_combine
from esen_lab.ensemble.small_mean import small_mean


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("shape", [(), (1,), (5, 3), (4, 7, 11)], ids=str)
def test_it_equals_the_combine_rule_to_the_bit(dtype: torch.dtype, count: int, shape: tuple[int, ...]) -> None:
    made = torch.Generator().manual_seed(count)
    outputs = {f"m{i}": torch.randn(shape, dtype=dtype, generator=made) * 10**i for i in range(count)}
    rule = make_combine("mean")
    ahead = rule.ahead(outputs)
    assert ahead is not None
    assert torch.equal(ahead.into(ahead.reserve()), rule(outputs))


def test_it_reads_what_lies_there_at_the_end_and_every_result_is_its_own() -> None:
    a, b = torch.zeros(3), torch.zeros(3)
    ahead = small_mean([a, b])
    assert ahead is not None
    reserved = ahead.reserve()
    ahead.into(reserved)  # a rehearsal
    a.fill_(1.0)
    b.fill_(3.0)
    first = ahead.into(reserved)
    assert first.tolist() == [2.0, 2.0, 2.0]
    a.fill_(9.0)
    ahead.into(ahead.reserve())
    assert first.tolist() == [2.0, 2.0, 2.0]


def test_nan_and_infinity_come_out_as_the_rule_gives_them() -> None:
    outputs = {"a": torch.tensor([float("nan"), float("inf"), 1.0]), "b": torch.tensor([1.0, -float("inf"), 2.0])}
    ahead = make_combine("mean").ahead(outputs)
    assert ahead is not None
    torch.testing.assert_close(ahead.into(ahead.reserve()), make_combine("mean")(outputs), equal_nan=True)


@pytest.mark.parametrize(
    "outputs",
    [
        [],
        [(torch.ones(2),)],
        [torch.ones(2), torch.ones(3)],
        [torch.ones(2), torch.ones(2, dtype=torch.float64)],
        [torch.ones(2, dtype=torch.float16)],
        [torch.ones(2, dtype=torch.int64)],
        [torch.ones(4, 2).t()],
        [torch.ones(200_000)],
    ],
    ids=["none", "tuple", "shapes", "dtypes", "half", "whole numbers", "strided", "large"],
)
def test_what_it_is_not_made_for_is_left_to_the_rule(outputs: list[object]) -> None:
    assert small_mean(outputs) is None


def test_only_the_plain_mean_is_prepared() -> None:
    outputs = {"a": torch.ones(2), "b": torch.ones(2)}
    for rule in ("softmax-mean", "majority", "stack"):
        assert make_combine(rule).ahead(outputs) is None
    assert make_combine("weighted", weights=[1, 1]).ahead(outputs) is None
    assert make_combine(lambda named: named["a"]).ahead(outputs) is None
