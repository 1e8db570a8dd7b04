from __future__ import annotations

import json
import threading
from typing import Any

import pytest
import torch
from module_zoo import ZOO
from torch import nn

from esen_lab.common.trees import call_with, flatten
from esen_lab.ensemble.fingerprint import same_bits
from esen_lab.ensemble.skeleton import decode, encode, tensors_of
from esen_lab.ensemble.weights import from_bytes, to_bytes
from esen_lab.errors import StoreError, UsageError


def run(module: nn.Module, x: Any) -> list[torch.Tensor]:
    with torch.inference_mode():
        return flatten(call_with(module.eval(), x))[0]


def through_files(module: nn.Module) -> nn.Module:
    skeleton, tensors = encode(module)
    return decode(json.loads(json.dumps(skeleton, allow_nan=False)), from_bytes(to_bytes(tensors)))


@pytest.mark.parametrize("kind", ZOO)
def test_a_module_comes_back_bit_for_bit(kind: str) -> None:
    make, x = ZOO[kind]
    module = make()
    again = through_files(module)
    assert same_bits(run(module, x), run(again, x))
    before, after = module.state_dict(), again.state_dict()
    assert list(before) == list(after)
    assert same_bits(before.values(), after.values())
    assert [p.requires_grad for p in module.parameters()] == [p.requires_grad for p in again.parameters()]


@pytest.mark.parametrize("kind", ZOO)
def test_what_came_back_can_be_saved_again_alike(kind: str) -> None:
    make, _ = ZOO[kind]
    skeleton, tensors = encode(make())
    again, _ = encode(decode(skeleton, from_bytes(to_bytes(tensors))))
    assert again == skeleton


def test_shared_parts_stay_shared() -> None:
    again = through_files(ZOO["odd attributes"][0]())
    assert again.layers[0].weight is again.layers[1].weight
    assert again.layers[0] is again.myself_in_a_list[0]
    assert again.same_memory.data_ptr() == again.layers[0].bias.data_ptr()
    assert "hidden" not in again.state_dict()


def test_the_constructor_does_not_run(notebook: Any) -> None:
    notebook.run("from torch import nn\nclass A(nn.Module):\n    def __init__(self, width):\n"
    "        super().__init__()\n"
                 "        self.width = width\n    def forward(self, x):\n        return x * self.width")  # fmt: skip
    assert through_files(notebook.names["A"](7)).width == 7


def test_classes_of_the_notebook_come_as_source(notebook: Any) -> None:
    notebook.run("import torch\nfrom torch import nn\nSCALE = 3.0\ndef act(x):\n    return torch.relu(x) * SCALE")
    notebook.run(
        "class Block(nn.Module):\n"
        "    def __init__(self, f=act):\n"
        "        super().__init__()\n"
        "        self.f, self.g, self.net = f, lambda x: x + 1, nn.Linear(3, 3)\n"
        "    def forward(self, x):\n        return self.g(self.f(self.net(x)))\n"
        "net = nn.Sequential(Block(), Block(torch.tanh))"
    )
    net, x = notebook.names["net"], torch.randn(2, 3)
    assert same_bits(run(net, x), run(through_files(net), x))
    assert "__main__" not in json.dumps(encode(net)[0])


def test_keys_are_the_same_without_looking_for_source() -> None:
    module = ZOO["odd attributes"][0]()
    assert list(tensors_of(module)) == list(encode(module)[1])


def closure_maker() -> Any:
    captured = torch.ones(1)
    return lambda x: x + captured


class Slotted:
    __slots__ = ("a",)


class Stateful:
    def __getstate__(self) -> Any:
        return {}


@pytest.mark.parametrize(
    "value",
    [threading.Lock(), Slotted(), Stateful(), (i for i in ()), closure_maker(), nn.Linear(1, 1).forward, object()],
    ids=["lock", "slots", "own state", "generator", "closure", "bound method", "bare object"],
)
def test_what_has_no_plain_form_is_named(value: Any) -> None:
    module = nn.Sequential(nn.Identity())
    module[0].thing = [value]
    with pytest.raises(UsageError, match=r"0\.thing\[0\]|lambda") as caught:
        encode(module)
    assert caught.value.hint


def test_tensors_of_other_kinds_are_named() -> None:
    module = nn.Identity()
    module.sparse = torch.eye(2).to_sparse()
    with pytest.raises(UsageError, match=r"sparse is a tensor that is torch\.sparse_coo"):
        encode(module)
    with pytest.raises(UsageError, match="UninitializedParameter"):
        encode(nn.LazyLinear(2))
    with pytest.raises(UsageError, match="TorchScript"):
        encode(torch.jit.script(nn.Linear(1, 1)))


@pytest.mark.parametrize(
    "tree",
    [
        None,
        ["list"],
        ["unheard of"],
        ["module", ["import", "os:system"], []],
        ["module", ["import", "no_such_module:A"], []],
        ["module", ["import", "torch.nn:Gone"], []],
        ["module", ["source", "A"], []],
        ["module", ["import", "torch.nn:Linear"], [["weight", ["tensor", "gone"]]]],
        ["torch", "load"],
        ["ref", 5],
    ],
    ids=str,
)
def test_a_damaged_skeleton_is_refused(tree: Any) -> None:
    with pytest.raises(StoreError):
        decode({"version": 1, "tree": tree, "source": {"text": ""}}, {})


def test_another_version_is_refused() -> None:
    with pytest.raises(StoreError, match="version 1"):
        decode({"version": 2}, {})


def test_modules_that_lie_too_deep_are_refused_in_words() -> None:
    module: nn.Module = nn.Linear(2, 2)
    for _ in range(1_500):
        module = nn.Sequential(module)
    with pytest.raises(UsageError, match=r"deeper than Python follows|cannot be looked at"):
        encode(module)
