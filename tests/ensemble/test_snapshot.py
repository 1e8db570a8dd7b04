from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from module_zoo import ZOO
from torch import nn

from esen_lab.common.trees import call_with, flatten
from esen_lab.ensemble.fingerprint import same_bits
from esen_lab.ensemble.snapshot import load_snapshot, take_snapshot
from esen_lab.errors import UsageError


def run(module: nn.Module, x: Any) -> list[torch.Tensor]:
    with torch.inference_mode():
        return flatten(call_with(module.eval(), x))[0]


@pytest.mark.parametrize("kind", ZOO)
def test_a_module_comes_back_bit_for_bit(kind: str) -> None:
    make, x = ZOO[kind]
    module = make()
    assert same_bits(run(module, x), run(load_snapshot(take_snapshot(module)), x))


def test_the_classes_of_the_notebook_are_left_alone(notebook: Any) -> None:
    notebook.run(
        "from torch import nn\nSCALE = 2.0\nclass A(nn.Module):\n    def forward(self, x):\n        return x * SCALE"
    )
    module = notebook.names["A"]()
    forward = notebook.names["A"].forward
    copy = load_snapshot(take_snapshot(module))
    assert notebook.names["A"].forward is forward
    notebook.names["SCALE"] = 5.0
    assert module(torch.ones(1)).item() == 5.0
    assert copy(torch.ones(1)).item() == 2.0, "the picture was taken before"


def test_classes_with_relatives_and_enums_come_along(notebook: Any) -> None:
    notebook.run(
        "import enum\nfrom torch import nn\n"
        "class Mode(enum.Enum):\n    UP = 1\n"
        "class Base(nn.Module):\n    mode = Mode.UP\n"
        "class A(Base):\n    def __init__(self):\n        super().__init__()\n        self.m = Mode.UP\n"
        "    def forward(self, x):\n"
        "        return x + (self.m is Mode.UP) + (self.mode is Mode.UP) + isinstance(self, Base)"
    )
    copy = load_snapshot(take_snapshot(notebook.names["A"]()))
    assert copy(torch.zeros(1)).item() == 3.0


def test_memory_is_shared_as_before() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[1].weight = module[0].weight
    copy = load_snapshot(take_snapshot(module))
    assert copy[1].weight is copy[0].weight


def test_what_cannot_leave_the_process_is_named() -> None:
    module = nn.Sequential(nn.Identity())
    module[0].guard = threading.Lock()
    with pytest.raises(UsageError, match=r"the attribute 0\.guard of type lock"):
        take_snapshot(module)


def test_what_a_class_has_no_more_is_not_found_where_it_was_sent_before(notebook: Any) -> None:
    notebook.run(
        "from torch import nn\n"
        "class Base(nn.Module):\n    def scale(self):\n        return 1.0\n    def forward(self, x):\n"
        "        return x * self.scale()\n"
        "class Other(Base):\n    def scale(self):\n        return 3.0\n"
        "class Own(Base):\n    def scale(self):\n        return 2.0\n"
    )
    own, other = notebook.names["Own"], notebook.names["Other"]
    first = load_snapshot(take_snapshot(own()))
    assert type(load_snapshot(take_snapshot(own()))) is type(first)
    del own.scale
    assert load_snapshot(take_snapshot(own()))(torch.ones(1)).item() == 1.0
    own.__bases__ = (other,)
    assert load_snapshot(take_snapshot(own()))(torch.ones(1)).item() == 3.0
    assert load_snapshot(take_snapshot(other()))(torch.ones(1)).item() == 3.0


@torch.library.custom_op("esen_sent::doubled", mutates_args=())
def doubled(x: torch.Tensor) -> torch.Tensor:
    return x * 2


class Holding(nn.Module):
    def __init__(self, held: object) -> None:
        super().__init__()
        self.held = held


@pytest.mark.parametrize(
    "held",
    [
        torch.ops,
        torch.ops.aten,
        torch.ops.aten.relu,
        torch.ops.aten.add.Tensor,
        doubled,
        torch.ops.esen_sent.doubled,
        torch.ops.esen_sent.doubled.default,
    ],
    ids=str,
)
def test_operators_of_torch_go_by_their_names(held: object) -> None:
    assert load_snapshot(take_snapshot(Holding(held))).held is held


def test_an_operator_that_is_made_in_the_notebook_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doubled._init_fn, "__module__", "__main__")
    with pytest.raises(UsageError, match="esen_sent::doubled is made in the notebook"):
        take_snapshot(Holding(doubled))
