from __future__ import annotations

import pickle
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from esen_lab.ensemble import CellSource, ImportRecipe, Rebuild, SourceRecipe, make_submodel
from esen_lab.ensemble.recipes import find_factory, run_cell, session_path
from esen_lab.ensemble.source.closure import Closure
from esen_lab.errors import UsageError

IMPORTS = Closure(text="from torch import nn\n", modules=("torch",))
REBUILD = """
import pickle, sys, torch
data = open(sys.argv[1], "rb").read()
x = torch.ones(2, 3)
with torch.inference_mode():
    y = pickle.loads(data)()(x)
sys.stdout.write(y.numpy().tobytes().hex())
"""


def cell(text: str, name: str = "net") -> SourceRecipe:
    return SourceRecipe(name=name, context=IMPORTS, text=text)


def elsewhere(payload: bytes, tmp_path: Path) -> str:
    (tmp_path / "payload").write_bytes(payload)
    done = subprocess.run(
        [sys.executable, "-c", REBUILD, str(tmp_path / "payload")],
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("nn.Linear(3, 4)", 4),
        ("(\n nn.Linear(3, 5)\n)  # end", 5),
        ("net = nn.Linear(3, 6)\nother = nn.Linear(3, 7)", 6),
        ("only = nn.Linear(3, 8)", 8),
        ("part = nn.Linear(3, 9)\nwhole = nn.Sequential(part)\nprint(1)", 9),
        ("a = nn.Linear(3, 4); b = nn.Linear(3, 2); b", 2),
        ("net = nn.Linear(3, 3)\nnet.eval()", 3),
    ],
)
def test_the_module_of_a_cell_is_found(text: str, width: int) -> None:
    assert run_cell(cell(text))(torch.ones(1, 3)).shape == (1, width)


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("x = 3", "none"),
        ("a = nn.Linear(1, 1)\nb = nn.Linear(1, 1)", "Given: a, b"),
        ("a = nn.Linear(1, 1)\nb = nn.Linear(1, 1)\n17", "type int"),
        ("", "none"),
    ],
)
def test_a_cell_without_one_module_says_what_it_has(text: str, given: str) -> None:
    with pytest.raises(UsageError, match=given):
        run_cell(cell(text))


def test_tracebacks_show_the_lines_of_the_cell() -> None:
    module = run_cell(
        cell(
            "class A(nn.Module):\n    def forward(self, x):\n        return x + self.nothing  # here\nA()", name="tried"
        )
    )
    with pytest.raises(AttributeError) as caught:
        module(torch.ones(1))
    shown = "".join(traceback.format_exception(caught.value))
    assert "self.nothing  # here" in shown
    assert "<cell of sub-model tried>" in shown


def test_a_live_module_is_rebuilt_in_another_process(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh())
    submodel = make_submodel("a", net, torch.ones(2, 3))
    with torch.inference_mode():
        assert elsewhere(submodel.payload(), tmp_path) == net(torch.ones(2, 3)).numpy().tobytes().hex()


def test_a_module_of_the_notebook_is_rebuilt_in_another_process(notebook: Any, tmp_path: Path) -> None:
    notebook.run("from torch import nn\nSCALE = 2\nclass A(nn.Module):\n    def __init__(self):\n"
    "        super().__init__()\n"
                 "        self.a = nn.Linear(3, 2)\n    def forward(self, x):\n"
                 "        return self.a(x) * SCALE")  # fmt: skip
    net = notebook.names["A"]()
    submodel = make_submodel("a", net, torch.ones(2, 3))
    with torch.inference_mode():
        expected = net(torch.ones(2, 3)).numpy().tobytes().hex()
    assert elsewhere(submodel.payload(), tmp_path) == expected


def test_a_cell_with_chance_weights_is_rebuilt_with_the_same_ones(notebook: Any, tmp_path: Path) -> None:
    notebook.run("from torch import nn\nhidden = 4")
    submodel = make_submodel(
        "a", CellSource(text="nn.Sequential(nn.Linear(3, hidden), nn.Linear(hidden, 1))"), torch.ones(2, 3),
        namespace=notebook.names,
    )  # fmt: skip
    with torch.inference_mode():
        expected = submodel.build()(torch.ones(2, 3)).numpy().tobytes().hex()
    assert elsewhere(submodel.payload(), tmp_path) == expected


def test_modules_of_the_session_are_found_by_its_search_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_nets.py").write_text(
        "from torch import nn\ndef net(n, *, bias=True):\n    return nn.Linear(3, n, bias=bias)"
    )
    monkeypatch.syspath_prepend(tmp_path)
    submodel = make_submodel("a", "my_own_nets:net", torch.ones(2, 3), args=(2,), kwargs={"bias": False})
    assert isinstance(submodel.recipe, ImportRecipe)
    with torch.inference_mode():
        expected = submodel.build()(torch.ones(2, 3)).numpy().tobytes().hex()
    assert elsewhere(submodel.payload(), tmp_path) == expected


def test_the_search_path_is_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["", "lib", "/usr/lib"])
    assert all(Path(entry).is_absolute() for entry in session_path())


def test_building_restores_the_weights_of_registration() -> None:
    submodel = make_submodel("a", "torch.nn:Linear", torch.ones(2, 3), args=(3, 2))
    first, second = submodel.build(), submodel.build()
    assert first is not second
    assert torch.equal(first.weight, second.weight)


def test_a_rebuilt_module_is_in_eval_mode_whatever_surrounds_it() -> None:
    submodel = make_submodel("a", nn.Sequential(nn.Dropout(0.9), nn.Linear(3, 3)), torch.ones(2, 3))
    with torch.inference_mode():
        module = submodel.build()
    assert not any(part.training for part in module.modules())
    assert not any(parameter.is_inference() for parameter in module.parameters())


def test_a_module_that_writes_into_its_input_is_given_a_copy() -> None:
    submodel = make_submodel("a", nn.ReLU(inplace=True), torch.tensor([-1.0, 1.0]))
    assert submodel.protect_input
    assert any("in place" in note for note in submodel.notes)
    x = torch.tensor([-3.0, 3.0])
    with torch.inference_mode():
        assert submodel.build()(x).tolist() == [0.0, 3.0]
    assert x.tolist() == [-3.0, 3.0]


def test_the_copying_does_not_push_out_hooks_that_came_along() -> None:
    net = nn.ReLU(inplace=True)
    net.register_forward_pre_hook(add_ten)
    for _ in range(50):  # numbers of hooks count up in a process
        nn.Identity().register_forward_pre_hook(add_ten)
    submodel = make_submodel("a", net, torch.tensor([-1.0]))
    assert pickle.loads(submodel.payload())()(torch.tensor([-1.0])).item() == 9.0


def add_ten(module: nn.Module, args: Any) -> Any:
    return (args[0].add_(10),)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("torch", "form"),
        ("torch.nn:", "form"),
        (":Linear", "form"),
        ("torch nn:Linear", "form"),
        ("../evil:x", "form"),
        ("no_such_package_here:f", "No module named"),
        ("torch.nn:Linearr", "no Linearr"),
        ("math:pi", "type float"),
    ],
)
def test_a_bad_import_path_is_explained(path: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        find_factory(path)


def test_payloads_are_plain_pickles_that_need_this_package_only() -> None:
    rebuild = pickle.loads(make_submodel("a", nn.Identity(), torch.ones(1)).payload())
    assert isinstance(rebuild, Rebuild)


def test_building_a_sub_model_again_draws_nothing_from_the_session() -> None:
    submodel = make_submodel("a", "torch.nn:Linear", torch.randn(2, 8), args=(8, 3))
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    submodel.build()
    assert torch.equal(torch.rand(3), wanted)
