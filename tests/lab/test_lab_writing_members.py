"""Members that write into inputs, or into memory that others read, where their example did not show it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from models import mlp
from torch import nn

from esen_lab import Lab, Plan
from esen_lab.errors import ModelError, UsageError
from esen_lab.planner.plan import Lane

X = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))


class Halves(nn.Module):
    """Converts its input as it needs it, which is a copy of some inputs and others themselves, and halves that."""

    def __init__(self, convert: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.convert = convert
        self.inner = mlp(seed=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.convert(x)
        x.mul_(0.5)
        return self.inner(x)


def to_float(x: torch.Tensor) -> torch.Tensor:
    return x.float()


def to_row_major(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous()


def alone_if_small(x: torch.Tensor) -> torch.Tensor:
    return x if len(x) > 8 else x.clone()


CASES = {
    "another dtype": (to_float, X.double(), X),
    "another layout": (to_row_major, X.t(), X.t()),
    "another batch": (alone_if_small, X, torch.cat([X, X + 1])),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("lanes", [(("a", "b"),), (("a",), ("b",)), (("b",), ("a",))])
def test_a_member_that_writes_into_some_inputs_never_changes_what_others_read(
    lab: Lab, case: str, lanes: tuple[tuple[str, ...], ...]
) -> None:
    convert, example, x = CASES[case]
    a, b = Halves(convert), Halves(torch.clone)
    for name, module in (("a", a), ("b", b)):
        lab.register(name, module if name == "a" else nn.Sequential(_Float(), module), example=example)
    lab.apply(Plan(lanes=tuple(Lane(units=1, members=members) for members in lanes), units=len(lanes)))
    with torch.no_grad():
        wanted = torch.stack([a(x.clone()), b(x.clone().float())])
    for _ in range(3):
        torch.testing.assert_close(lab.run(x), wanted)


class _Float(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float()


class Workspace(nn.Module):
    """Answers in memory that all of its class write into."""

    memory: dict[int, torch.Tensor] = {}  # noqa: RUF012  shared on purpose

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.memory.setdefault(len(x), torch.zeros_like(x))
        return torch.mul(x, self.factor, out=out)


def test_the_first_answer_to_a_look_is_what_the_member_gave_also_in_memory_that_the_next_one_writes(lab: Lab) -> None:
    for name, factor in (("a", 2.0), ("b", 5.0)):
        lab.register(name, Workspace(factor), example=X)
    for x in (X, torch.cat([X, X]), X[:3]):
        for _ in range(2):
            torch.testing.assert_close(lab.run(x), torch.stack([2 * x, 5 * x]))


class Transposes(nn.Module):
    """Takes its input with columns innermost alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.t().view(-1)[: len(x)]


class Strides(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * float(x.stride(0))


def test_what_depends_on_how_an_input_is_laid_out_is_refused_where_it_is_registered(lab: Lab) -> None:
    with pytest.raises(ModelError) as raised:
        lab.register("a", Transposes(), example=X.t())
    assert any("x.contiguous() is what was run" in note for note in raised.value.__notes__)
    with pytest.raises(UsageError, match="where the example is not contiguous"):
        lab.register("b", Strides(), example=X.t())
    images = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    assert lab.register("c", nn.Conv2d(3, 1, 3), example=images).example.is_contiguous(
        memory_format=torch.channels_last
    )
