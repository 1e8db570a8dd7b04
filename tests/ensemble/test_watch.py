"""What a look at a live network sees, and what it takes for no change."""

from __future__ import annotations

import gc
import statistics
import time
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from esen_lab.ensemble.watch import Watch


class Holds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.big = nn.Parameter(torch.zeros(100_000))
        self.array = np.zeros(2000)
        self.names = ["a"]
        self.nested = {"deep": {"deeper": [1, 2]}}
        self.state: torch.Tensor | None = None


def test_a_network_that_nobody_touched_has_not_changed() -> None:
    module = Holds()
    watch = Watch(module)
    with torch.no_grad():
        module.inner(torch.ones(2, 4))
    module.train()
    module.eval()
    assert not watch.changed(whole=True)
    assert watch.what() == ()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda m: m.nested["deep"]["deeper"].append(3), "its attribute nested"),
        (lambda m: m.names.clear(), "its attribute names"),
        (lambda m: setattr(m, "state", torch.ones(2)), "its attribute state"),
        (lambda m: m.array.__setitem__(0, 1.0), "the values of its weights"),
        (lambda m: m.inner.weight.data.zero_(), "the values of its weights"),
        (lambda m: delattr(m, "names"), "its attribute names"),
        (lambda m: m.add_module("more", nn.ReLU()), "its parameters, buffers or parts"),
        (lambda m: m.register_buffer("b", torch.ones(1)), "its parameters, buffers or parts"),
    ],
)
def test_a_change_is_seen_and_named(change: object, told: str) -> None:
    module = Holds()
    watch = Watch(module)
    change(module)  # type: ignore[operator]
    assert watch.changed()
    assert told in watch.what()
    watch.renew()
    assert not watch.changed(whole=True)


def test_any_single_value_is_seen_by_a_whole_look_and_by_enough_short_ones() -> None:
    module = Holds()
    watch = Watch(module)
    module.big.data[77_777] = 1.0
    assert watch.changed(whole=True)
    watch.renew()
    module.big.data[33_333] = 1.0
    assert any(watch.changed() for _ in range(20)), "a piece further at every look"


def test_memory_that_was_replaced_is_never_read() -> None:
    module = Holds()
    watch = Watch(module)
    for _ in range(5):
        module.big.data = torch.ones(200_000)
        gc.collect()
        assert watch.changed()
        assert watch.what() == ("the values of big",)


def test_a_tensor_whose_memory_was_let_go_of_is_never_read() -> None:
    module = Holds()
    module.state = torch.ones(1000)
    module.state.untyped_storage().resize_(0)
    watch = Watch(module)
    assert not watch.changed(whole=True)
    module.state = torch.ones(1000)
    assert watch.changed()
    watch.renew()
    module.state.untyped_storage().resize_(0)
    assert watch.changed(whole=True)


def test_the_network_and_its_weights_are_not_held() -> None:
    module = Holds()
    watch = Watch(module)
    known, weights = weakref.ref(module), weakref.ref(module.big)
    del module
    gc.collect()
    assert (known(), weights(), watch.module) == (None, None, None)
    assert not watch.changed()


def test_what_was_empty_and_is_filled_is_seen() -> None:
    module = Holds()
    module.more = {}  # type: ignore[assignment]
    watch = Watch(module)
    for fill in (
        lambda: module.more.update(a=1),  # type: ignore[operator]
        lambda: module.inner.register_forward_hook(lambda *_: None),
        lambda: module.inner.register_buffer("b", None),
    ):
        fill()
        assert watch.changed()
        watch.renew()
        assert not watch.changed()


def test_names_that_come_and_go_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    class Scaled(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * SCALE  # type: ignore[name-defined,no-any-return]  # noqa: F821  set below

    monkeypatch.setitem(globals(), "SCALE", 2.0)
    module = Scaled()
    watch = Watch(module)
    assert not watch.changed()
    monkeypatch.delitem(globals(), "SCALE")
    assert watch.changed()
    assert watch.what() == ("the global name SCALE",)
    watch.renew()
    assert not watch.changed()
    monkeypatch.setitem(globals(), "SCALE", 2.0)
    assert watch.changed()


def test_a_look_without_a_piece_leaves_large_tensors_to_another_one() -> None:
    module = Holds()
    watch = Watch(module)
    module.big.data[33_333] = 1.0
    assert not any(watch.changed(piece=False) for _ in range(20))
    assert any(watch.changed() for _ in range(20))


@pytest.mark.timing
def test_a_look_at_a_small_network_takes_microseconds() -> None:
    watch = Watch(nn.Sequential(*[nn.Linear(8, 8) for _ in range(10)]))
    taken = []
    for _ in range(200):
        began = time.perf_counter()
        watch.changed()
        taken.append(time.perf_counter() - began)
    assert statistics.median(taken) < 100e-6
