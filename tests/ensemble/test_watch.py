"""What a look at a live network sees, and what it takes for no change."""

from __future__ import annotations

import array
import functools
import gc
import statistics
import time
import types
import weakref
from collections import defaultdict
from collections.abc import Callable
from typing import Any

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


def test_a_part_in_another_mode_than_the_whole_is_a_change_but_the_mode_of_all_is_none() -> None:
    module = nn.Sequential(nn.Dropout(), nn.Linear(4, 4)).eval()
    watch = Watch(module)
    module[0].train()
    assert watch.changed()
    assert watch.what() == ("which of its parts are in training mode",)
    watch.renew()
    assert not watch.changed(whole=True)
    module.eval()
    assert watch.changed()
    watch.renew()
    for mode in (True, False, True):
        module.train(mode)
        assert not watch.changed()
    module[0].eval()  # of a network that is being trained: lanes run all of it in eval mode
    assert not watch.changed()


@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m.weight, "data", m.weight.data.t()),
        lambda m: setattr(m.weight, "data", m.weight.data[:2]),
        lambda m: setattr(m.weight, "data", m.weight.data.view(2, 8)),
        lambda m: m.weight.requires_grad_(False),
    ],
    ids=["turned", "cut", "of another shape", "without a gradient"],
)
def test_a_weight_that_is_shown_otherwise_where_it_lies_is_seen(change: Callable[[nn.Linear], object]) -> None:
    module = nn.Linear(4, 4)
    watch = Watch(module)
    change(module)
    assert watch.changed()
    assert watch.what() == ("the shape, strides, dtype or requires_grad of weight",)
    watch.renew()
    assert not watch.changed(whole=True)


def test_what_a_weight_has_as_attributes_is_seen() -> None:
    module = nn.Linear(4, 4)
    module.weight.scales = [1.0]  # type: ignore[attr-defined]
    watch = Watch(module)
    assert not watch.changed(whole=True)
    module.weight.scales[0] = 2.0  # type: ignore[attr-defined]
    assert watch.changed()
    assert watch.what() == ("the attributes of a tensor",)


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


class AlwaysEqual:
    def __init__(self, value: float) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


EQUAL_BUT_ANOTHER: dict[str, tuple[object, object]] = {
    "a float for an int": (1, 1.0),
    "one that is true": (1, True),
    "a negative zero": (0.0, -0.0),
    "in a tuple": ((1,), (1.0,)),
    "a tensor of another dtype": (torch.ones(1), torch.ones(1, dtype=torch.float64)),
    "objects that say that they are equal": (AlwaysEqual(1.0), AlwaysEqual(2.0)),
}


@pytest.mark.parametrize("name", EQUAL_BUT_ANOTHER)
def test_a_class_attribute_that_is_set_to_something_equal_but_different_is_seen(name: str) -> None:
    before, after = EQUAL_BUT_ANOTHER[name]

    class Net(nn.Module):
        SCALE = before

    module = Net()
    watch = Watch(module)
    assert not watch.changed()
    Net.SCALE = after
    assert watch.changed()
    assert any("SCALE" in told for told in watch.what())


def test_a_class_that_is_given_other_bases_is_seen() -> None:
    class One(nn.Module):
        pass

    class Two(nn.Module):
        pass

    class Net(One):
        pass

    module = Net()
    watch = Watch(module)
    Net.__bases__ = (Two,)
    assert watch.changed()
    assert any(told.startswith("the bases of ") for told in watch.what())


def _turned(rows: int) -> np.ndarray[Any, Any]:
    return np.zeros((rows, 300)).T


class Table:
    """An object around two arrays, as a table of columns is, that keeps no attributes."""

    __slots__ = ("columns",)

    def __init__(self) -> None:
        self.columns = (np.zeros(20_000), np.ones(20_000))


HELD: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "a dict": (lambda: {"w": 1.0}, lambda v: v.update(w=5.0)),
    "a list": (lambda: [1.0], lambda v: v.__setitem__(0, 5.0)),
    "keywords of a partial": (lambda: functools.partial(lambda x, k: x, k=1.0), lambda v: v.keywords.update(k=2.0)),
    "arguments of a partial": (lambda: functools.partial(lambda x: x, [1.0]), lambda v: v.args[0].append(2.0)),
    "a partial method": (lambda: functools.partialmethod(print, k=1.0), lambda v: v.keywords.update(k=2.0)),
    "a generator of torch": (lambda: torch.Generator().manual_seed(1), lambda v: v.manual_seed(2)),
    "a default factory": (lambda: defaultdict(int), lambda v: setattr(v, "default_factory", float)),
    "the shape of an array": (lambda: np.zeros((2, 3)), lambda v: setattr(v, "shape", (3, 2))),
    "the dtype of an array": (lambda: np.zeros(4, "f4"), lambda v: setattr(v, "dtype", "i4")),
    "a large array by columns": (lambda: _turned(100), lambda v: v.__setitem__((0, 0), 1.0)),
    "a large array of every second value": (lambda: np.zeros(60_000)[::-2], lambda v: v.__setitem__(0, 1.0)),
    "an array of times": (lambda: np.zeros(4, "M8[s]"), lambda v: v.__setitem__(0, 7)),
    "an array of other machines": (lambda: np.zeros(4, ">f4"), lambda v: v.__setitem__(0, 7)),
    "a masked array": (lambda: np.ma.array(np.zeros(4), mask=[0, 0, 1, 0]), lambda v: v.mask.__setitem__(0, True)),
    "a bytearray": (lambda: bytearray(200_000), lambda v: v.__setitem__(0, 1)),
    "a bytearray that grows": (lambda: bytearray(200_000), lambda v: v.extend(b"a")),
    "an array of Python": (lambda: array.array("d", bytes(800_000)), lambda v: v.__setitem__(0, 1.0)),
    "a memoryview": (lambda: memoryview(bytearray(8)), lambda v: v.__setitem__(0, 1)),
    "a table": (Table, lambda v: v.columns[1].__setitem__(0, 5.0)),
}


@pytest.mark.parametrize("place", ["an attribute", "a class attribute", "a default"])
@pytest.mark.parametrize("name", HELD)
def test_what_is_held_anywhere_and_changes_in_place_is_seen(name: str, place: str) -> None:
    make, change = HELD[name]
    value = make()

    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    module = Net()
    if place == "an attribute":
        module.value = value
    elif place == "a class attribute":
        Net.value = value  # type: ignore[attr-defined]
    else:
        Net.forward.__defaults__ = (value,)
    watch = Watch(module)
    assert not watch.changed(whole=True)
    change(value)
    assert watch.changed()
    assert watch.what()
    watch.renew()
    assert not watch.changed(whole=True)


def test_a_table_that_is_shown_by_another_one_is_looked_into() -> None:
    module, table = nn.ReLU(), {"a": 1}
    module.shown = types.MappingProxyType(table)  # type: ignore[assignment]
    watch = Watch(module)
    table["a"] = 2
    assert watch.changed()
    assert watch.what() == ("its attribute shown",)


@pytest.mark.parametrize("make", [lambda: bytearray(1_000_000), lambda: _turned(1000), lambda: _frame(20_000)])
def test_any_single_value_of_what_is_large_is_seen_by_enough_looks(make: Callable[[], Any]) -> None:
    module = nn.ReLU()
    module.value = make()
    watch = Watch(module)
    assert not any(watch.changed() for _ in range(40))
    if isinstance(module.value, bytearray):
        module.value[300_001] = 1
    else:
        held = module.value if isinstance(module.value, np.ndarray) else module.value._mgr.blocks[0].values
        held.setflags(write=True)
        held[0, 777] = 1
    assert any(watch.changed() for _ in range(100))


def _frame(rows: int) -> Any:
    return pytest.importorskip("pandas").DataFrame({"a": np.zeros(rows), "b": np.ones(rows)})


def test_what_is_too_large_to_be_looked_at_is_told_and_seen_by_a_whole_look() -> None:
    module = nn.ReLU()
    module.value = np.array([0, *range(50_000)], dtype=object)
    watch = Watch(module)
    assert watch.unseen == ("its attribute value",)
    assert not watch.changed(whole=True)
    module.value[40_000] = -1
    assert watch.changed(whole=True)


def test_what_calls_change_outside_of_a_network_is_no_change_of_it() -> None:
    class Counts(nn.Module):
        calls = 0
        seen: list[int] = []  # noqa: RUF012  shared on purpose
        scale = 1.0

    module = Counts()
    watch = Watch(module).without([f"{Counts.__qualname__}.calls"], [id(Counts.seen)])
    Counts.calls += 1
    Counts.seen.append(1)
    assert not watch.changed(whole=True)
    Counts.scale = 2.0
    assert watch.changed()


@pytest.mark.timing
def test_a_look_at_a_small_network_takes_microseconds() -> None:
    watch = Watch(nn.Sequential(*[nn.Linear(8, 8) for _ in range(10)]))
    taken = []
    for _ in range(200):
        began = time.perf_counter()
        watch.changed()
        taken.append(time.perf_counter() - began)
    assert statistics.median(taken) < 100e-6


def test_defaults_of_keywords_that_are_set_anew_are_seen() -> None:
    def helper(x: torch.Tensor, *, scale: float = 1.0) -> torch.Tensor:
        return x * scale

    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return helper(x)

    module = Net()
    watch = Watch(module)
    assert not watch.changed()
    helper.__kwdefaults__ = {"scale": 2.0}
    assert watch.changed()
    assert any(told.startswith("the defaults of ") for told in watch.what())
    watch.renew()
    assert not watch.changed(whole=True)


def test_an_object_that_is_made_another_class_is_seen() -> None:
    class Doubles:
        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2

    class Triples:
        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            return x * 3

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scaler: Any = Doubles()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.scaler(x)
            return found

    module = Net()
    watch = Watch(module)
    assert not watch.changed()
    module.scaler.__class__ = Triples
    assert watch.changed()
    assert watch.what() == ("the class of an object that it uses",)
    watch.renew()
    assert not watch.changed(whole=True)


def test_what_a_hook_is_given_is_seen_where_it_is_set_by_hand() -> None:
    module = nn.Linear(2, 2)
    handle = module.register_forward_hook(lambda *given: given[-1])
    watch = Watch(module)
    assert not watch.changed()
    module._forward_hooks_with_kwargs[handle.id] = True
    assert watch.changed()
    assert watch.what() == ("the arguments of hooks",)


def test_gradients_are_seen_where_code_reads_them_and_nowhere_else() -> None:
    class Reads(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if self.weight.grad is None else x * self.weight.grad.sum()

    reads, other = Reads(2, 2), nn.Linear(2, 2)
    watch, others = Watch(reads), Watch(other)
    reads.weight.grad = other.weight.grad = torch.ones(2, 2)
    assert watch.changed()
    assert watch.what() == ("the gradient of a tensor",)
    assert not others.changed()
    watch.renew()
    reads.weight.grad.mul_(2)
    assert watch.changed()


GAIN = 1.0


def _doubled(x: torch.Tensor) -> torch.Tensor:
    return x * 2 * GAIN


def _no_kernel(monkeypatch: pytest.MonkeyPatch, operator: Any) -> None:
    off = operator.set_kernel_enabled("cpu", False)
    off.__enter__()
    monkeypatch.setitem(globals(), "OFF", off)  # which would be over once nobody held it


OPERATOR: Any = torch.library.custom_op("esen_watched::doubled", _doubled, mutates_args=())
OFF: object = None


class CallsByName(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return OPERATOR(x)  # type: ignore[no-any-return]


class CallsAmongOperators(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.esen_watched.doubled(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", [CallsByName, CallsAmongOperators])
@pytest.mark.parametrize(
    "change",
    [
        lambda _, operator: operator.register_kernel("cpu")(lambda x: x * 3),
        _no_kernel,
        lambda patch, _: patch.setitem(globals(), "GAIN", 3.0),
        lambda _, operator: operator._lib.impl("doubled", lambda x: x * 3, "CPU"),
    ],
    ids=["another one", "none", "what it reads", "another one below it"],
)
def test_a_kernel_of_an_operator_that_is_another_one_is_seen(
    monkeypatch: pytest.MonkeyPatch, kind: type[nn.Module], change: Callable[[pytest.MonkeyPatch, Any], object]
) -> None:
    OPERATOR.register_kernel("cpu")(_doubled)
    module = kind()
    watch = Watch(module)
    assert not watch.changed(whole=True)
    change(monkeypatch, OPERATOR)
    assert watch.changed()
    assert watch.what()
    watch.renew()
    assert not watch.changed(whole=True)
