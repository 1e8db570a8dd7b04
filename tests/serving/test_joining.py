"""Whether requests may be joined: members that look at other rows of their batch are found out."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from served_doubles import FakeServed

from esen_lab.errors import ModelError
from esen_lab.serving.joining import try_joining
from esen_lab.serving.served import AskedBatch


class Member(FakeServed):
    """Answers by a function of its whole batch."""

    def __init__(self, example: torch.Tensor, of: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__(example)
        self.of = of

    def run(self, x: torch.Tensor, asked: AskedBatch) -> Any:
        super().run(x, asked)
        return self.of(x), None


def why_alone(example: torch.Tensor, of: Callable[[torch.Tensor], torch.Tensor]) -> str:
    return try_joining(Member(example, of), example).why_alone  # type: ignore[arg-type]


def by_the_largest(x: torch.Tensor) -> torch.Tensor:
    return x.double() / x.double().max()


def by_the_sum(x: torch.Tensor) -> torch.Tensor:
    return x.double() / x.double().sum()


def from_the_mean(x: torch.Tensor) -> torch.Tensor:
    return x.double() - x.double().mean(0)


PIXELS = torch.arange(24, dtype=torch.uint8).reshape(2, 12) * 10
EXAMPLES = {
    "pixels": PIXELS,
    "tokens": torch.tensor([[5, 900, 17, 3]]),
    "the same tokens": torch.full((2, 4), 7),
    "zeros": torch.zeros(2, 4, dtype=torch.int64),
    "a mask": torch.ones(2, 4, dtype=torch.int64),
    "flags": torch.ones(2, 4, dtype=torch.bool),
    "forwards and backwards alike": torch.tensor([[1, 2], [2, 1]]),
    "of 16 bits": torch.arange(24).reshape(2, 12).to(torch.uint16),
    "of 32 bits": torch.arange(24).reshape(2, 12).to(torch.uint32),
    "of 64 bits": torch.arange(24).reshape(2, 12).to(torch.uint64),
    "floats": torch.linspace(-1, 2, 8).reshape(2, 4),
}


CASES = [
    (kind, of)
    for kind, of in itertools.product(EXAMPLES, (by_the_largest, by_the_sum, from_the_mean))
    if of is not by_the_largest or kind not in ("a mask", "flags")  # of which the largest is always 1
]


@pytest.mark.parametrize(("kind", "of"), CASES)
def test_a_member_that_looks_at_other_rows_is_found_out_whatever_its_example(
    kind: str, of: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    assert "other rows" in why_alone(EXAMPLES[kind], of)


@pytest.mark.parametrize("kind", list(EXAMPLES))
def test_a_member_that_does_not_is_joined_and_gets_no_number_out_of_the_range_of_its_example(kind: str) -> None:
    example = EXAMPLES[kind]
    member = Member(example, lambda x: x.double() * 2)
    assert try_joining(member, example).why_alone == ""  # type: ignore[arg-type]
    if not example.is_floating_point() and len(example.unique()) > 1:
        least, most = example.double().aminmax()
        assert all(least <= x.double().min() and x.double().max() <= most for x in member.runs)
    assert all(x.dtype is example.dtype for x in member.runs)


def test_whole_numbers_that_mean_something_are_only_put_in_another_order_where_others_are_refused() -> None:
    codes = torch.tensor([[4, 9], [16, 4]])

    def of(x: torch.Tensor) -> torch.Tensor:
        if not bool(torch.isin(x, codes).all()):
            raise ModelError("no such code")
        return x * 2

    assert why_alone(codes, of) == ""
