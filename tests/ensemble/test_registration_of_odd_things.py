"""A network that holds whatever raises when it is looked at is registered, or refused by one error of this package."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from esen_lab.ensemble.registration import register
from esen_lab.errors import ModelError, UsageError

X = torch.ones(2, 3)


class Holds(nn.Module):
    def __init__(self, value: object) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1


class RaisesWhenAsked:
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("working outside of its context")


class HasNoClass:
    @property  # type: ignore[misc]
    def __class__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("no object")

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("no object")


class Leaves:
    def __getstate__(self) -> Any:
        raise SystemExit(3)


class HasNoLength(list[int]):
    def __len__(self) -> int:
        raise RuntimeError("no length")


class HasNoValues(dict[str, int]):
    def values(self) -> Any:
        raise RuntimeError("no values")

    def __iter__(self) -> Any:
        raise RuntimeError("no keys")


class HasNoAttributes:
    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("no attributes")


class RaisesInASlot:
    __slots__ = ("held",)

    def __getattribute__(self, name: str) -> Any:
        if name == "held":
            raise RuntimeError("no slot")
        return object.__getattribute__(self, name)


WORK: dict[str, Callable[[], Any]] = {
    "times": lambda: np.zeros(3, "M8[s]"),
    "spans of time": lambda: np.zeros(3, "m8[s]"),
    "times in records": lambda: np.zeros(3, [("a", "M8[s]"), ("b", "f4")]),
    "numbers of other machines": lambda: np.zeros(3, ">f4"),
    "an integer of many digits": lambda: [10**5000, range(10**5000)],
    "no length": lambda: HasNoLength([1]),
    "no values": lambda: HasNoValues(a=1),
    "no attributes": HasNoAttributes,
}
CANNOT_TRAVEL: dict[str, Callable[[], Any]] = {
    "no class": lambda: [HasNoClass()],
    "leaves": Leaves,
    "in a slot": RaisesInASlot,
}
HELD = 0


class Reads(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if HELD is not None else x


@pytest.mark.parametrize("name", WORK)
def test_what_raises_when_it_is_looked_at_is_registered(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    register("a", Holds(WORK[name]()), X)
    monkeypatch.setitem(globals(), "HELD", WORK[name]())
    register("a", Reads(), X)
    monkeypatch.setattr(Holds, "value", WORK[name](), raising=False)
    register("a", Holds(1), X)


@pytest.mark.parametrize("name", CANNOT_TRAVEL)
def test_what_raises_when_it_is_sent_is_refused_by_the_name_of_its_attribute(name: str) -> None:
    with pytest.raises(UsageError, match=r"the attribute value of type"):
        register("a", Holds(CANNOT_TRAVEL[name]()), X)


@pytest.mark.parametrize("make", [*WORK.values(), *CANNOT_TRAVEL.values(), RaisesWhenAsked])
def test_no_other_error_than_one_of_this_package_leaves(make: Callable[[], Any]) -> None:
    for value in ([make()], {"a": make()}, (make(),)):
        with contextlib.suppress(UsageError):
            register("a", Holds(value), X)


def test_a_nested_tensor_is_refused_by_the_name_of_its_attribute() -> None:
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    with pytest.raises(UsageError, match="the attribute 'value' is a nested tensor"):
        register("a", Holds(nested), X)


def test_a_network_whose_own_text_raises_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(self: nn.Module) -> str:
        raise RuntimeError("no text")

    monkeypatch.setattr(Holds, "extra_repr", raises)
    register("a", Holds(1), X)


class NoTextError(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


class OfNobody(BaseException):
    pass


@pytest.mark.parametrize("kind", [NoTextError, OfNobody, GeneratorExit, asyncio.CancelledError, SystemExit])
def test_whatever_a_network_raises_is_one_error_that_names_it(kind: type[BaseException]) -> None:
    class Raises(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise kind

    with pytest.raises(ModelError, match=f"'a' raised on its example.*Given: {kind.__name__}"):
        register("a", Raises(), X)


def test_an_interrupt_while_a_network_runs_is_the_users() -> None:
    class Interrupted(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        register("a", Interrupted(), X)


def test_a_graph_of_torch_fx_keeps_no_state_and_is_seen_to_change() -> None:
    traced = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(3, 4), nn.ReLU()))
    found = register("a", traced, torch.randn(2, 3))
    assert not found.submodel.traits.keeps_state
    assert found.watch is not None
    assert not found.watch.changed()
    relu = next(node for node in traced.graph.nodes if node.target == "1")
    relu.replace_all_uses_with(relu.args[0])
    traced.graph.erase_node(relu)
    traced.recompile()
    assert found.watch.changed()
