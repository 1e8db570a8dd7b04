"""What calls of a network change is put back: the same objects, with what they held."""

from __future__ import annotations

import functools
import random
import threading
import types
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from esen_lab.ensemble import make_submodel
from esen_lab.ensemble.as_it_was import AsItWas
from esen_lab.ensemble.reach import Reach, reach_of

X = torch.ones(4, 8)


class Slotted:
    """An object without a dict."""

    __slots__ = ("n",)

    def __init__(self) -> None:
        self.n = 0


class PrivatelySlotted:
    """An object without a dict, whose slot has a private name."""

    __slots__ = ("__n",)

    def __init__(self) -> None:
        self.__n = 0

    def count(self) -> None:
        self.__n += 1

    @property
    def n(self) -> int:
        return self.__n


class Table:
    """An object that computes something once."""

    @functools.cached_property
    def rows(self) -> int:
        return 3


class Holder(nn.Module):
    """Holds one thing."""

    def __init__(self, thing: Any) -> None:
        super().__init__()
        self.thing = thing

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def added(row: Any) -> None:
    row.append(1) if hasattr(row, "append") else row.add(1)


THINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], object], Callable[[Any], object]]] = {
    "a list": (list, added, list),
    "a list in a dict": (lambda: {"a": []}, lambda d: d["a"].append(1), lambda d: list(d["a"])),
    "a set": (set, added, set),
    "a deque": (lambda: deque([1, 2], maxlen=2), added, list),
    "an ordered dict": (lambda: OrderedDict(a=1, b=2), lambda d: d.move_to_end("a"), list),
    "bytes": (lambda: bytearray(b"ab"), lambda b: b.extend(b"c"), bytes),
    "a namespace": (lambda: types.SimpleNamespace(n=0), lambda s: setattr(s, "n", 1), lambda s: s.n),
    "a new attribute": (types.SimpleNamespace, lambda s: setattr(s, "n", 1), lambda s: vars(s).copy()),
    "slots": (Slotted, lambda s: setattr(s, "n", 1), lambda s: s.n),
    "private slots": (PrivatelySlotted, lambda s: s.count(), lambda s: s.n),
    "an array": (lambda: np.zeros((2, 3)).T, lambda a: a.fill(2), lambda a: a.tolist()),
    "a tensor": (lambda: torch.zeros(3), lambda t: t.add_(1), lambda t: t.tolist()),
    "a tensor that was written to unseen": (lambda: torch.zeros(3), lambda t: t.data.add_(1), lambda t: t.tolist()),
    "a tensor that was moved": (
        lambda: torch.zeros(3),
        lambda t: setattr(t, "data", torch.ones(5)),
        lambda t: t.tolist(),
    ),
    "a generator of torch": (
        lambda: torch.Generator().manual_seed(1),
        lambda g: torch.rand(1, generator=g),
        lambda g: g.get_state().tolist(),
    ),
    "a generator of NumPy": (
        lambda: np.random.default_rng(1),
        lambda g: g.random(),
        lambda g: str(g.bit_generator.state),
    ),
    "an old generator of NumPy": (lambda: np.random.RandomState(1), lambda g: g.rand(), lambda g: g.get_state()[2]),
    "a generator of Python": (lambda: random.Random(1), lambda g: g.random(), lambda g: g.getstate()),
}


@pytest.mark.parametrize("kind", THINGS)
def test_what_has_changed_is_named_and_put_back_in_the_same_object(kind: str) -> None:
    make, change, look = THINGS[kind]
    thing = make()
    module = Holder(thing)
    before, was = AsItWas(module), look(thing)
    assert before.what() == ()
    change(thing)
    assert look(thing) != was, "the test changes nothing"
    assert before.put_back() == ("its attribute thing",)
    assert module.thing is thing
    assert look(thing) == was
    assert before.what() == ()


def test_a_networks_own_attributes_buffers_and_parts_are_put_back() -> None:
    module = nn.Sequential(OrderedDict(norm=nn.BatchNorm1d(8)))
    weight = module.norm.weight
    before = AsItWas(module)
    with torch.inference_mode():
        module.norm.running_mean.add_(3)  # type: ignore[union-attr, operator]
        module.norm.cache = torch.ones(2)
    module.norm.register_forward_hook(lambda *_: None)
    module.norm.weight = nn.Parameter(torch.zeros(8))
    assert set(before.put_back()) >= {"the values of norm.running_mean", "its attribute norm.cache"}
    assert torch.equal(module.norm.running_mean, torch.zeros(8))  # type: ignore[arg-type]
    assert not hasattr(module.norm, "cache")
    assert not module.norm._forward_hooks
    assert module.norm.weight is weight


def test_whether_it_trains_is_nothing_that_is_put_back() -> None:
    module = nn.Sequential(nn.ReLU())
    before = AsItWas(module)
    module.eval()
    assert before.put_back() == ()
    assert not module[0].training


def test_a_buffer_made_in_inference_mode_is_put_back_too() -> None:
    with torch.inference_mode():
        module = Holder(torch.zeros(3))
        before = AsItWas(module)
        module.thing.add_(1)
    before.put_back()
    assert module.thing.tolist() == [0, 0, 0]


def test_not_a_number_equals_itself() -> None:
    module = Holder(torch.tensor([float("nan"), 1.0]))
    assert AsItWas(module).what() == ()


def test_what_an_object_computes_once_is_no_change() -> None:
    module = Holder(Table())
    before = AsItWas(module)
    assert module.thing.rows == 3
    assert before.what() == ()


def test_threads_of_a_pool_and_locks_are_left_alone() -> None:
    with ThreadPoolExecutor(1) as pool:
        module = Holder({"pool": pool, "lock": threading.Lock()})
        before = AsItWas(module)
        pool.submit(int).result()
        assert before.put_back() == ()
        assert len(pool._threads) == 1


def test_a_network_that_reaches_itself_is_gone_through_once() -> None:
    module = Holder(None)
    module.thing = [module, types.SimpleNamespace(back=[])]
    module.thing[1].back.append(module.thing)
    before = AsItWas(module)
    module.thing.append(1)
    assert before.put_back() == ("its attribute thing",)
    assert len(module.thing) == 2


# --- outside of the network -------------------------------------------------------------------------------------------

DRAWS = torch.Generator().manual_seed(5)
COUNT = 0
SEEN = types.SimpleNamespace(calls=0)
TOTAL = torch.zeros(())


class DrawsOutside(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rand((), generator=DRAWS)


class Encloses(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        calls, seen = [0], 0

        def count(x: torch.Tensor) -> torch.Tensor:
            nonlocal seen
            seen += 1
            calls[0] += 1
            return x * calls[0] + seen

        self.count = count

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.count(x)


class CountsOnItsFunction(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        function: Any = CountsOnItsFunction.forward
        function.calls = getattr(function, "calls", 0) + 1
        return x * function.calls


class CountsOnItsClass(nn.Module):
    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        CountsOnItsClass.calls += 1
        return x * self.calls


class CountsInAName(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        global COUNT  # noqa: PLW0603  what is tested
        COUNT += 1
        return x * COUNT


class CountsInAnObject(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        SEEN.calls += 1
        return x * SEEN.calls


class AddsToATensor(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + TOTAL.add_(1)


class CountsInADefault(nn.Module):
    def forward(self, x: torch.Tensor, calls: list[int] = [0]) -> torch.Tensor:  # noqa: B006  what is tested
        calls[0] += 1
        return x * calls[0]


def enclosed(module: Any) -> object:
    calls, seen = (cell.cell_contents for cell in module.count.__closure__)
    return list(calls), seen


OUTSIDE: dict[type[nn.Module], tuple[str, Callable[[Any], object]]] = {
    DrawsOutside: ("the global name DRAWS", lambda _: DRAWS.get_state().tolist()),
    Encloses: ("the enclosed name calls", enclosed),
    CountsOnItsFunction: ("the attributes of CountsOnItsFunction.forward", lambda m: dict(vars(type(m).forward))),
    CountsOnItsClass: ("CountsOnItsClass.calls", lambda m: m.calls),
    CountsInAName: ("the global name COUNT", lambda _: COUNT),
    CountsInAnObject: ("the global name SEEN", lambda _: SEEN.calls),
    AddsToATensor: ("the global name TOTAL", lambda _: float(TOTAL)),
    CountsInADefault: ("the defaults of CountsInADefault.forward", lambda m: list(type(m).forward.__defaults__[0])),
}


@pytest.mark.parametrize("kind", OUTSIDE)
def test_registering_leaves_the_users_own_state_as_it_was_and_names_it(kind: type[nn.Module]) -> None:
    module = kind()
    name, look = OUTSIDE[kind]
    before = look(module)
    made = make_submodel("a", module, X)
    assert look(module) == before
    assert name in made.traits.state
    module(X)
    assert look(module) != before, "a call does change it"


@pytest.mark.parametrize("kind", OUTSIDE)
def test_registering_puts_it_back_also_where_the_network_raises(kind: type[nn.Module]) -> None:
    class Raises(kind):  # type: ignore[valid-type, misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            super().forward(x)
            raise ValueError("later")

    module = Raises()
    _, look = OUTSIDE[kind]
    seen = module if kind is Encloses else kind()
    before = look(seen)
    with pytest.raises(Exception, match="raised"):
        make_submodel("a", module, X)
    assert look(seen) == before


def test_names_of_installed_packages_are_left_alone() -> None:
    class Asks(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.relu(x)

    kept = AsItWas(None, reach_of(Asks()))
    assert (id(vars(torch.nn.functional)), "relu") not in kept.things


def test_an_attribute_that_is_replaced_by_an_equal_row_of_plain_values_has_not_changed() -> None:
    """As tracing a network does with the sizes of its kernels."""
    module = nn.Conv2d(1, 2, 3)
    before = AsItWas(module, Reach())
    module.kernel_size = tuple([3, 3])  # noqa: C409  another object
    assert before.what() == ()
    module.kernel_size = (3, True)
    assert before.what() == ("its attribute kernel_size",)
