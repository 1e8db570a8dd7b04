"""An ensemble of small networks with recipes of every kind, and a plan for it."""

from __future__ import annotations

import linecache
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from esen_lab.ensemble import CellSource, Ensemble, make_combine, make_submodel
from esen_lab.planner.plan import Lane, Plan

X = torch.randn(4, 8)
CELLS = [
    "import torch\nfrom torch import nn\nimport torch.nn.functional as F\nCLASSES = 3",
    "class Net(nn.Module):\n"
    "    def __init__(self, width):\n"
    "        super().__init__()\n"
    "        self.one, self.two = nn.Linear(8, width), nn.Linear(width, CLASSES)\n"
    "    def forward(self, x):\n"
    "        return self.two(F.gelu(self.one(x)))\n",
    "def local(width):\n"
    "    class Inner(nn.Module):\n"
    "        def __init__(self):\n"
    "            super().__init__()\n"
    "            self.net = nn.Linear(8, CLASSES)\n"
    "        def forward(self, x):\n"
    "            return self.net(x) * width\n"
    "    return Inner()\n",
    "def rule(outputs):\n    return sum(outputs.values()) / CLASSES\n",
]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The names of a notebook in which CELLS have run."""
    module = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    for number, text in enumerate(CELLS):
        filename = f"<export-test-cell-{number}>"
        linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
        exec(compile(text, filename, "exec", dont_inherit=True), module.__dict__)
    yield module.__dict__
    for number in range(len(CELLS)):
        linecache.cache.pop(f"<export-test-cell-{number}>", None)


@pytest.fixture
def ensemble(names: dict[str, Any]) -> Ensemble:
    """A live module, a cell, an import path, and a live module that only torch.export can save."""
    return Ensemble(
        submodels=(
            make_submodel("live", names["Net"](16), X),
            make_submodel("cell", CellSource(text="width = 6\nNet(width)"), X, namespace=names),
            make_submodel("path", "torch.nn:Linear", X, args=(8, 3)),
            make_submodel("program", names["local"](2.0), X),
        ),
        combine=make_combine(names["rule"]),
    )


@pytest.fixture
def plan(ensemble: Ensemble) -> Plan:
    return plan_for(ensemble)


def plan_for(ensemble: Ensemble, *lanes: tuple[str, ...], **known: Any) -> Plan:
    """One core for each lane; one lane when none are given."""
    lanes = lanes or (ensemble.names,)
    return Plan(
        lanes=tuple(Lane(units=1, members=members) for members in lanes),
        units=max(2, len(lanes)),
        **{"device": {"kind": "cpu"}, "fingerprints": ensemble.fingerprints, **known},
    )


@pytest.fixture
def planned() -> Callable[..., Plan]:
    return plan_for


@pytest.fixture
def simple() -> Ensemble:
    """Two linear layers, quick to save."""
    return Ensemble(submodels=tuple(make_submodel(name, nn.Linear(8, 3).eval(), X) for name in ("a", "b")))


def answer_of(ensemble: Ensemble, x: Any = X) -> torch.Tensor:
    """What the ensemble answers when its sub-models run here, one after another."""
    with torch.inference_mode():
        return ensemble.combine({s.name: s.build()(x) for s in ensemble.submodels}).clone()


@pytest.fixture
def answer() -> Callable[..., torch.Tensor]:
    return answer_of
