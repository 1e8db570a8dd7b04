"""Networks that share what a call changes are known for it; those that share other things are not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from esen_lab.ensemble import make_submodel
from esen_lab.ensemble.registration import register
from esen_lab.ensemble.sharing import sharing

X = torch.ones(4, 8)
COUNT = 0
FACTOR = 2


class Counts(nn.Module):
    def __init__(self, counter: Any) -> None:
        super().__init__()
        self.counter = counter

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.counter.n += 1
        return x * self.counter.n


class Reads(Counts):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.counter.n


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * self.calls


class Head(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.backbone(x) + 1  # type: ignore[no-any-return]


class CountsOutside(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        global COUNT  # noqa: PLW0603  what is tested
        COUNT += 1
        return x * COUNT


class ReadsAnotherName(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * FACTOR


def found(a: nn.Module, b: nn.Module) -> dict[str, tuple[str, ...]]:
    networks = {"a": a, "b": b}
    return sharing(networks, {name: register(name, module, X).changes for name, module in networks.items()})


def pairs() -> dict[str, tuple[nn.Module, nn.Module]]:
    counter, backbone, weights = SimpleNamespace(n=0), Backbone(), nn.Linear(8, 8)
    return {
        "one counter": (Counts(counter), Counts(counter)),
        "a counter that one reads": (Reads(counter), Counts(counter)),
        "one network": (backbone, backbone),
        "one backbone": (Head(backbone), Head(backbone)),
        "one global name": (CountsOutside(), CountsOutside()),
        "counters of their own": (Counts(SimpleNamespace(n=0)), Counts(SimpleNamespace(n=0))),
        "backbones of their own": (Head(Backbone()), Head(Backbone())),
        "other names": (CountsOutside(), ReadsAnotherName()),
        "weights, which no call changes": (Head(weights), Head(weights)),
    }


@pytest.mark.parametrize("kind", list(pairs())[:5])
def test_what_a_call_changes_and_two_networks_reach_is_shared(kind: str) -> None:
    assert found(*pairs()[kind]) == {"a": ("b",), "b": ("a",)}


@pytest.mark.parametrize("kind", list(pairs())[5:])
def test_what_one_network_alone_reaches_or_no_call_changes_is_not(kind: str) -> None:
    assert found(*pairs()[kind]) == {}


def test_what_a_network_has_let_go_of_is_shared_no_more() -> None:
    counter = SimpleNamespace(n=0)
    a, b = Counts(counter), Counts(counter)
    changed = {name: register(name, module, X).changes for name, module in (("a", a), ("b", b))}
    b.counter = SimpleNamespace(n=0)
    assert sharing({"a": a, "b": b}, changed) == {}


def test_a_submodel_says_with_whom_once_and_no_more_when_they_are_gone() -> None:
    submodel = make_submodel("a", Backbone(), X)
    shared = submodel.sharing(("b",)).sharing(("b", "c"))
    assert [note for note in shared.notes if "shares state" in note] == [
        "shares state with b, c: in the notebook calls of one count for all, while lanes each have their own, so that "
        "answers differ from calls in turn"
    ]
    assert shared.same_as(submodel), "no lane is loaded anew for it"
    assert shared.sharing(()).notes == submodel.notes
