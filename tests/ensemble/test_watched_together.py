"""One look at several networks sees what looks at each of them see, and holds none of them."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from esen_lab.ensemble.watch import Watch, WatchedTogether

SCALES = {"all": 1.0}
SHIFT = 0.0


def halved(x: torch.Tensor, by: float = 2.0) -> torch.Tensor:
    return x / by


class Net(nn.Module):
    rate = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.array = np.zeros(8)
        self.names = ["a"]
        self.helper = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return halved(self.inner(x)) * SCALES["all"] * self.rate + SHIFT


def hooked(module: Net) -> None:
    module.inner.register_forward_hook(lambda *_: None)


def of_another_class(module: Net) -> None:
    module.helper.__class__ = nn.Tanh  # type: ignore[assignment]


def in_place(module: Net) -> None:
    with torch.no_grad():
        module.inner.weight += 1.0


OF_ONE: dict[str, Callable[[Net], Any]] = {
    "a weight, counted": in_place,
    "a weight, not counted": lambda m: m.inner.weight.data.zero_(),
    "a weight that is turned": lambda m: setattr(m.inner.weight, "data", m.inner.weight.data.t()),
    "a weight that is another one": lambda m: setattr(m.inner, "weight", nn.Parameter(torch.ones(4, 4))),
    "an array": lambda m: m.array.__setitem__(0, 1.0),
    "the shape of an array": lambda m: setattr(m.array, "shape", (2, 4)),
    "a list": lambda m: m.names.append("b"),
    "an attribute": lambda m: setattr(m, "new", 1),
    "an attribute that is equal": lambda m: setattr(m, "names", ["a"]),
    "an attribute of torch's that is gone": lambda m: delattr(m.inner, "in_features"),
    "a hook": hooked,
    "the class of a part": of_another_class,
}
OF_ALL: dict[str, Callable[[pytest.MonkeyPatch], Any]] = {
    "a class attribute": lambda patch: patch.setattr(Net, "rate", 2.0),
    "a method": lambda patch: patch.setattr(Net, "forward", lambda _, x: x),
    "a function's code": lambda patch: patch.setattr(halved, "__code__", (lambda x, by=2.0: x).__code__),
    "a function's defaults": lambda patch: patch.setattr(halved, "__defaults__", (4.0,)),
    "a global name": lambda patch: patch.setitem(globals(), "SHIFT", 1.0),
    "a global table": lambda patch: patch.setitem(SCALES, "all", 2.0),
}


def together(modules: Sequence[nn.Module]) -> tuple[list[Watch], WatchedTogether]:
    watches = [Watch(module) for module in modules]
    return watches, WatchedTogether(watches)


@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("change", OF_ONE)
def test_a_change_of_any_network_is_seen_until_it_is_taken(change: str, which: int) -> None:
    modules = [Net() for _ in range(3)]
    watches, all_of_them = together(modules)
    assert not all_of_them.changed()
    OF_ONE[change](modules[which])
    assert all_of_them.changed()
    assert all_of_them.changed(), "still"
    watches[which].renew()
    assert not all_of_them.changed()


@pytest.mark.parametrize("change", OF_ALL)
def test_a_change_of_what_they_share_is_seen(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = [Net(), Net()]
    _, all_of_them = together(modules)
    assert not all_of_them.changed()
    OF_ALL[change](monkeypatch)
    assert all_of_them.changed()


@pytest.mark.parametrize("change", OF_ALL)
def test_who_was_taken_after_the_change_does_not_hide_it(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = Net(), Net()
    first = Watch(one)
    OF_ALL[change](monkeypatch)
    second = Watch(other)
    for watches in ((first, second), (second, first)):
        assert WatchedTogether(watches).changed()
    first.renew()
    assert not WatchedTogether([first, second]).changed()


def test_a_weight_that_two_networks_share_is_seen_by_whoever_was_taken_before_it_changed() -> None:
    one, other = Net(), Net()
    other.inner.weight = one.inner.weight
    before = Watch(one)
    in_place(one)
    after = Watch(other)
    assert WatchedTogether([before, after]).changed()
    assert WatchedTogether([after, before]).changed()
    before.renew()
    assert not WatchedTogether([before, after]).changed()


def test_the_mode_of_a_network_is_no_change_and_later_changes_are_seen() -> None:
    modules = [Net(), Net()]
    _, all_of_them = together(modules)
    for mode in (False, True, False):
        modules[1].train(mode)
        assert not all_of_them.changed()
    in_place(modules[0])
    assert all_of_them.changed()


def test_a_hook_of_what_torch_has_compiled_is_seen() -> None:
    module = Net()
    outer = nn.Sequential(module)
    watches, all_of_them = together([Net(), module])
    assert not all_of_them.changed()
    watches[1].within(outer)
    assert not all_of_them.changed()
    outer.register_forward_hook(lambda *_: None)
    assert all_of_them.changed()


def test_a_look_holds_no_network_that_nobody_else_holds_and_goes_on_for_the_others() -> None:
    modules = [Net(), Net()]
    _, all_of_them = together(modules)
    assert not all_of_them.changed()
    gone, weights = weakref.ref(modules[0]), weakref.ref(modules[0].inner.weight)
    del modules[0]
    gc.collect()
    assert (gone(), weights()) == (None, None)
    assert not all_of_them.changed()
    in_place(modules[0])
    assert all_of_them.changed()


def test_a_watch_that_is_let_go_of_takes_its_part_of_the_look_with_it() -> None:
    modules = [Net(), Net()]
    watches, all_of_them = together(modules)
    assert not all_of_them.changed()
    weights = weakref.ref(modules[0].inner.weight)
    del all_of_them, watches[0], modules[0]
    gc.collect()
    assert weights() is None


def test_networks_without_anything_have_not_changed() -> None:
    assert not WatchedTogether([]).changed()
