"""Inputs that say more than their numbers, given to a run after a plain example: lanes get plain tensors."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from esen_lab.errors import UsageError
from esen_lab.lab import Lab


class Sub(torch.Tensor):
    pass


class Asks(nn.Module):
    """Doubles what it answers where its input is found to be odd."""

    def __init__(self, odd: Callable[[torch.Tensor], object]) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.odd = odd

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) * (2 if self.odd(x) else 1)


class Pair(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + (2 if x is y else 1) * y


class AsksBoth(Asks):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return self.linear(x + y) * (2 if self.odd(x, y) else 1)  # type: ignore[call-arg]


def with_scale(x: torch.Tensor, scale: float = 3) -> torch.Tensor:
    x.scale = scale  # type: ignore[attr-defined]
    return x


X = torch.arange(8.0).reshape(2, 4)
KINDS: dict[str, tuple[Callable[[torch.Tensor], object], Callable[[], torch.Tensor]]] = {
    "a Sub": (lambda x: type(x) is Sub, lambda: X.as_subclass(Sub)),  # type: ignore[arg-type,return-value]
    "a Parameter": (lambda x: isinstance(x, nn.Parameter), lambda: nn.Parameter(X)),
    "one that requires a gradient": (lambda x: x.requires_grad, lambda: X.clone().requires_grad_()),
    "not contiguous": (lambda x: not x.is_contiguous(), lambda: torch.arange(16.0).reshape(4, 4)[::2]),
    "one with attributes of its own (scale)": (lambda x: hasattr(x, "scale"), lambda: with_scale(X.clone())),
}


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab("cpu", store=tmp_path / "store.sqlite3") as made:
        yield made


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_that_asks_for_more_than_numbers_is_refused_such_an_input(lab: Lab, kind: str) -> None:
    asks, given = KINDS[kind]
    network = Asks(asks).eval()
    lab.register("a", network, example=X)
    lab.run(X)
    for _ in range(2):
        with pytest.raises(UsageError, match=r"'a'.*plain tensors in it") as refused:
            lab.run(given())
        assert f"where the input is {kind}" in str(refused.value)
    for asked in (lab.compare, lab.check_numerics):
        with pytest.raises(UsageError, match=r"'a'.*plain tensors in it"):
            asked(given())
    torch.testing.assert_close(lab.run(X), network(X).detach())


def test_a_tensor_that_is_given_twice_is_not_given_to_a_network_that_asks(lab: Lab) -> None:
    lab.register("a", Pair(), example=(X, X.clone()))
    assert torch.equal(lab.run((X, X.clone())), 2 * X)
    with pytest.raises(UsageError, match="the same tensor more than once"):
        lab.run((X, X))


def test_an_odd_input_is_looked_at_once_of_each_kind_and_ensemble(lab: Lab) -> None:
    for name in "ab":
        lab.register(name, Asks(lambda x: False), example=X)
    looked: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("esen_lab.ensemble.as_given.check_as_given", lambda name, *rest: looked.append(name))
        for _ in range(2):
            lab.run(X)
            for _, given in KINDS.values():
                lab.run(given())
        assert looked == ["a", "b"] * len(KINDS)
        lab.register("c", Asks(lambda x: False), example=X)
        lab.run(KINDS["a Sub"][1]())
        assert looked[-3:] == ["a", "b", "c"]


class Other(torch.Tensor):
    pass


class Scaled(dict[str, Any]):
    pass


LATER: dict[str, tuple[Callable[[torch.Tensor, torch.Tensor], object], Callable[[], tuple[torch.Tensor, ...]], Any]] = {
    "another value of an attribute": (
        lambda x, y: getattr(x, "scale", 3) != 3,
        lambda: (with_scale(X.clone()), X),
        lambda: (with_scale(X.clone(), 4), X),
    ),
    "another place": (
        lambda x, y: y.requires_grad,
        lambda: (X.clone().requires_grad_(), X),
        lambda: (X, X.clone().requires_grad_()),
    ),
    "another class": (
        lambda x, y: type(x) is Other,
        lambda: (X.as_subclass(Sub), X),
        lambda: (X.as_subclass(Other), X),
    ),
    "strides in another order": (
        lambda x, y: 0 in x.stride(),
        lambda: (torch.arange(16.0).reshape(4, 4)[::2], X),
        lambda: (torch.ones(4).expand(2, 4), X),
    ),
    "a history": (
        lambda x, y: x.grad_fn is not None,
        lambda: (X.clone().requires_grad_(), X),
        lambda: (X.clone().requires_grad_() * 1, X),
    ),
}


@pytest.mark.parametrize("what", LATER)
def test_an_input_that_is_odd_in_another_way_than_the_one_before_is_looked_at_too(lab: Lab, what: str) -> None:
    asks, first, later = LATER[what]
    lab.register("a", AsksBoth(asks).eval(), example=(X, X + 1))
    lab.run(first())
    with pytest.raises(UsageError, match=r"'a'.*plain tensors in it"):
        lab.run(later())


@pytest.mark.parametrize("kind", [Scaled, OrderedDict], ids=lambda kind: kind.__name__)
def test_a_container_of_another_class_is_not_given_to_a_network_that_asks(lab: Lab, kind: type[dict[str, Any]]) -> None:
    lab.register("a", lambda given: given["x"] * (1 if type(given) is dict else 2), example=({"x": X},))
    lab.register("b", lambda given: given["x"] * 1)
    assert torch.equal(lab.run(({"x": X},)), X)
    with pytest.raises(UsageError, match=r"'a'.*plain tensors in it") as refused:
        lab.run((kind(x=X),))
    assert f"holding a {kind.__name__}" in str(refused.value)
    lab.unregister("a")
    assert torch.equal(lab.run((kind(x=X),)), X)


def test_a_function_is_asked_as_a_network_is(lab: Lab) -> None:
    lab.register("a", lambda x: x * (2 if x.requires_grad else 1), example=X)
    assert torch.equal(lab.run(X), X)
    with pytest.raises(UsageError, match=r"'a'.*plain tensors in it"):
        lab.run(X.clone().requires_grad_())


def test_a_network_that_asks_since_it_changed_is_not_answered_with(lab: Lab) -> None:
    network = Asks(lambda x: False).eval()
    lab.register("a", network, example=X)
    lab.run(X.clone().requires_grad_())
    network.odd = lambda x: x.requires_grad
    with pytest.raises(UsageError, match=r"'a'.*plain tensors in it"):
        lab.run(X.clone().requires_grad_())


def test_an_answer_that_is_due_does_not_wait_for_a_look_at_its_input_and_says_so(lab: Lab) -> None:
    lab.register("a", Asks(lambda x: False), example=X)
    lab.run(X)

    def told() -> bool:
        lab.run(X.as_subclass(Sub), deadline_s=60.0)  # type: ignore[arg-type]
        assert lab.report is not None
        return any("The input is a Sub" in note for note in lab.report.notes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("esen_lab.ensemble.as_given.check_as_given", lambda *_: pytest.fail("it was looked at"))
        assert told()
    lab.run(X.as_subclass(Sub))  # type: ignore[arg-type]
    assert not told()
