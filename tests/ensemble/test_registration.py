from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from esen_lab.common.units import NAME_RULE
from esen_lab.ensemble import CellSource, ImportRecipe, LiveRecipe, make_submodel
from esen_lab.errors import ModelError, UsageError

X = torch.randn(2, 3)


class Fails(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise ValueError("first line\nthe last line")


class Keyed(nn.Module):
    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, Any]:
        return {"logits": ids.float() * mask, "cache": None}


class Chance(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand_like(x)


class HidesChance(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.offset = random.random()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.offset


class ReturnsText(nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        return {"x": x, "model": object()}


def net(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Dropout(0.5))


def returns_nothing() -> None:
    return None


def breaks() -> nn.Module:
    raise RuntimeError("no such file")


def test_it_records_what_the_network_is() -> None:
    found = make_submodel("a", net(), X)
    assert (found.parameters, found.memory_bytes) == (24, 24 * 4 + 2 * 16 + 8)
    assert str(found.output_spec) == "float32[2, 4]"
    assert found.class_name == "Sequential"
    assert found.input_keys is None
    assert json.loads(json.dumps(found.to_dict()))["recipe"] == "live"


def test_the_users_module_is_not_touched() -> None:
    module = net()
    module[1].eval()
    flags = [part.training for part in module.modules()]
    before = {name: value.clone() for name, value in module.state_dict().items()}
    found = make_submodel("a", module, X)
    assert [part.training for part in module.modules()] == flags
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert any("training mode" in note for note in found.notes)
    assert not make_submodel("a", net().eval(), X).notes


def test_registering_is_a_picture_of_the_moment() -> None:
    module = nn.Linear(3, 3).eval()
    found = make_submodel("a", module, X)
    before = module(X)
    with torch.no_grad():
        module.weight.zero_()
    assert torch.equal(found.build()(X), before)
    assert make_submodel("a", module, X).fingerprint != found.fingerprint


def test_the_example_is_a_copy_of_its_own() -> None:
    x = X.clone().requires_grad_()
    found = make_submodel("a", nn.Linear(3, 3), x)
    assert not found.example.requires_grad
    with torch.no_grad():
        x.zero_()
    assert torch.equal(found.example, X)


def test_registering_draws_nothing_from_the_random_state() -> None:
    module = nn.Sequential(nn.LazyLinear(3), Chance())
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    make_submodel("a", module, X)
    assert torch.equal(torch.rand(1), expected)


def test_inputs_may_be_trees() -> None:
    found = make_submodel("a", Keyed(), {"ids": torch.arange(3), "mask": torch.ones(3)})
    assert found.input_keys == ("ids", "mask")
    assert str(found.output_spec) == "{'logits': float32[3], 'cache': None}"
    assert make_submodel("b", nn.Bilinear(3, 3, 1), (X, X)).input_keys is None
    assert make_submodel("c", nn.Linear(3, 3), np.ones((2, 3), dtype=np.float32)).example.dtype == torch.float32


def test_a_factory_that_can_be_imported_is_kept_as_a_path() -> None:
    found = make_submodel("a", nn.Linear, X, args=(3, 2), kwargs={"bias": False})
    assert isinstance(found.recipe, ImportRecipe)
    assert found.recipe.path == "torch.nn.modules.linear:Linear"


def test_a_factory_with_other_arguments_is_kept_as_its_module() -> None:
    found = make_submodel("a", nn.TransformerEncoder, torch.ones(1, 2, 4), args=(nn.TransformerEncoderLayer(4, 2), 1))
    assert isinstance(found.recipe, LiveRecipe)
    assert isinstance(make_submodel("b", lambda: nn.Sequential(net()), X).recipe, LiveRecipe)


def test_a_compiled_module_is_registered_as_itself() -> None:
    module = nn.Linear(3, 3).eval()
    found = make_submodel("a", torch.compile(module), X)
    assert found.class_name == "Linear"
    assert any("uncompiled" in note for note in found.notes)


def test_lazy_parameters_take_their_shape_from_the_example() -> None:
    module = nn.LazyLinear(4)
    found = make_submodel("a", module, X)
    assert found.parameters == 16
    assert torch.equal(found.build()(X), found.build()(X))
    assert isinstance(module.weight, nn.UninitializedParameter), "the user's own still waits"


class Holds(nn.Module):
    """Holds one tensor, as a buffer or as a parameter, and uses it in no way."""

    def __init__(self, held: torch.Tensor, *, trained: bool) -> None:
        super().__init__()
        if trained:
            self.held = nn.Parameter(held, requires_grad=False)
        else:
            self.register_buffer("held", held)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


EYE = torch.eye(4)
NOT_DENSE: dict[str, Callable[[], torch.Tensor]] = {
    "sparse": EYE.to_sparse,
    "sparse rows": EYE.to_sparse_csr,
    "sparse columns": EYE.to_sparse_csc,
    "sparse blocks": lambda: EYE.to_sparse_bsr((2, 2)),
    "mkldnn": EYE.to_mkldnn,
    "quantized": lambda: torch.quantize_per_tensor(EYE, 0.1, 0, torch.qint8),
    "nested": lambda: torch.nested.nested_tensor([EYE, EYE]),
    "jagged": lambda: torch.nested.nested_tensor([EYE, EYE], layout=torch.jagged),
    "meta": lambda: torch.eye(4, device="meta"),
    "lazy": nn.UninitializedBuffer,
}
ONLY_BUFFERS = ("nested", "jagged", "lazy")  # torch makes no such parameter


@pytest.mark.filterwarnings("ignore:.*(beta|deprecated|prototype):UserWarning")
@pytest.mark.parametrize("made_by", ["itself", "a factory"])
@pytest.mark.parametrize(
    ("layout", "trained"), [(layout, trained) for layout in NOT_DENSE for trained in (False, True)]
)
def test_a_weight_of_a_layout_that_is_not_kept_is_refused_by_its_name(layout: str, trained: bool, made_by: str) -> None:
    module = Holds(NOT_DENSE[layout](), trained=trained and layout not in ONLY_BUFFERS)
    with pytest.raises(UsageError) as caught:
        make_submodel("a", module if made_by == "itself" else lambda: module, X)
    assert f"the {'parameter' if module._parameters else 'buffer'} 'held'" in str(caught.value)
    assert caught.value.hint


def test_a_lazy_part_that_the_example_does_not_reach_is_refused_by_its_name() -> None:
    class Unused(Holds):
        def __init__(self) -> None:
            super().__init__(EYE, trained=True)
            self.later = nn.LazyLinear(3)

    with pytest.raises(UsageError, match=r"the parameter 'later\.weight' is a parameter without a shape yet"):
        make_submodel("a", Unused(), X)


@pytest.mark.parametrize("name", ["", "a b", "../x", "a\nb", "quo'te", "1st", "x" * 65, 3, None])
def test_a_bad_name_is_refused(name: Any) -> None:
    with pytest.raises(UsageError) as caught:
        make_submodel(name, nn.Identity(), X)
    assert NAME_RULE in str(caught.value)


def test_a_module_that_raises_is_named_with_its_last_line() -> None:
    with pytest.raises(
        ModelError, match=r"'a' raised on its example float32\[2, 3\]. Given: ValueError: the last line"
    ) as caught:
        make_submodel("a", Fails(), X)
    assert isinstance(caught.value.__cause__, ValueError)
    assert "\n" not in str(caught.value)


def test_an_example_of_the_wrong_shape_says_so() -> None:
    with pytest.raises(ModelError, match=r"float32\[2, 5\].*shapes.*Check that the example"):
        make_submodel("a", nn.Linear(3, 3), torch.ones(2, 5))
    with pytest.raises(ModelError, match="TypeError"):
        make_submodel("a", nn.Linear(3, 3), (X, X))
    with pytest.raises(ModelError, match="unexpected keyword"):
        make_submodel("a", nn.Linear(3, 3), {"x": X})


@pytest.mark.parametrize(
    ("source", "example", "says"),
    [
        (returns_nothing, X, "returned builtins.NoneType"),
        ("no_such_package_here:f", X, "No module named"),
        ("torch.nn:Gone", X, "no Gone"),
        (7, X, "a builtins.int"),
        (ReturnsText(), X, r"the output of 'a'\['model'\]"),
        (nn.Identity(), None, "at least one tensor"),
        (nn.Identity(), "text", "at least one tensor"),
        (nn.Identity(), object(), "the example is of type builtins.object"),
        (CellSource(text="x = 1"), X, "none"),
        (CellSource(text="%magic"), X, "plain Python"),
        (CellSource(text="unheard_of(3)"), X, "NameError"),
    ],
    ids=lambda v: str(v)[:24],
)
def test_what_cannot_be_registered_is_explained(source: Any, example: Any, says: str) -> None:
    with pytest.raises((UsageError, ModelError), match=says) as caught:
        make_submodel("a", source, example)
    assert "'a'" in str(caught.value)


def test_a_factory_that_raises_is_named() -> None:
    with pytest.raises(ModelError, match=r"'a' raised in its factory. Given: RuntimeError: no such file"):
        make_submodel("a", breaks, X)


def test_arguments_belong_to_factories() -> None:
    with pytest.raises(UsageError, match=r"Arguments belong to a factory.* Given: 1, method='predict' for a network"):
        make_submodel("a", nn.Identity(), X, args=(1,), kwargs={"method": "predict"})


def test_an_attribute_that_cannot_leave_the_process_is_named() -> None:
    module = nn.Identity()
    module.guard = threading.Lock()
    with pytest.raises(UsageError, match=r"'a'.*guard of type lock"):
        make_submodel("a", module, X)


def test_chance_in_the_output_is_noted() -> None:
    assert any("each time" in note for note in make_submodel("a", Chance(), X).notes)


def test_chance_that_is_kept_outside_the_weights_is_refused(notebook: Any) -> None:
    notebook.run("import torch, random\nfrom torch import nn")
    cell = CellSource(
        text="class A(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.offset = random.random()\n"
        "    def forward(self, x):\n        return x + self.offset\nA()"
    )
    with pytest.raises(UsageError, match="register_buffer"):
        make_submodel("a", cell, X, namespace=notebook.names)
    assert not make_submodel("b", HidesChance().eval(), X).notes, "a live module takes its attributes along"


def test_nan_in_the_output_is_noted() -> None:
    module = nn.Linear(3, 3).eval()
    with torch.no_grad():
        module.bias.fill_(float("nan"))
    assert make_submodel("a", module, X).notes == ("its output on the example holds NaN",)


def test_a_cell_stands_alone_with_what_it_uses(notebook: Any) -> None:
    notebook.run(
        "import torch\nfrom torch import nn\nWIDTH = 5\ndef block(n):\n"
        "    return nn.Sequential(nn.Linear(3, n), nn.GELU())"
    )
    found = make_submodel("a", CellSource(text="net = block(WIDTH)"), X, namespace=notebook.names)
    notebook.names.clear()
    assert found.build()(X).shape == (2, 5)
    assert found.recipe.describe() == "cell, 1 line"


def test_the_bare_text_of_a_cell_will_do(notebook: Any) -> None:
    notebook.run("from torch import nn\nnet = nn.Linear\nwidth = 5")
    for text in ("net(3, width)", "deep = net(3, width)\ndeep", "import torch.nn as t\nt.Linear(3, width)\n"):
        assert make_submodel("a", text, X, namespace=notebook.names).recipe.kind == "source"
    assert make_submodel("a", "import torch\ntorch.nn.Linear(3, 3)", X).recipe.kind == "source"
    assert make_submodel("a", "torch.nn:Identity", X, namespace=notebook.names).recipe.kind == "import"
    with pytest.raises(UsageError, match="has the form"):
        make_submodel("a", "torch.nn.Identity", X)


def test_the_fingerprint_follows_weights_attributes_and_source(notebook: Any) -> None:
    notebook.run("import torch\nfrom torch import nn")
    define = (
        "class A(nn.Module):\n    def __init__(self, n=1):\n        super().__init__()\n        self.n = n\n"
        "        self.w = nn.Parameter(torch.ones(3))\n    def forward(self, x):\n        return x * self.w {op} self.n"
    )

    def registered(op: str = "+", n: int = 1, w: float = 1.0) -> str:
        notebook.run(define.format(op=op))
        module = notebook.names["A"](n).eval()
        module.w.data.fill_(w)
        return make_submodel("a", module, X).fingerprint

    base = registered()
    assert registered() == base
    assert len({base, registered(op="-"), registered(n=2), registered(w=2.0)}) == 4


def test_hooks_on_what_torch_compile_made_are_refused_since_lanes_run_what_is_inside() -> None:
    compiled = torch.compile(nn.Linear(8, 3), backend="eager")
    handle = compiled.register_forward_hook(lambda _module, _given, answer: answer * 2)
    with pytest.raises(UsageError, match="Hooks of a compiled network are on the network itself"):
        make_submodel("a", compiled, torch.randn(2, 8))
    handle.remove()
    assert "was compiled; workers run it uncompiled" in make_submodel("a", compiled, torch.randn(2, 8)).notes
