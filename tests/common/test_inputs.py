"""Inputs and outputs of every layout, dtype and structure: equal to the notebook's own call, or one `UsageError`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import mlp
from odd_things import ARRAYS, BAD, GOOD, NEVER_IN, Answers, Echo, Quiet, X
from torch import nn

from esen_lab import Lab, Plan
from esen_lab.common.inputs import as_input, own_example, take_in
from esen_lab.common.trees import call_with, flatten, tree_spec
from esen_lab.ensemble import make_submodel
from esen_lab.ensemble.fingerprint import same_bits
from esen_lab.errors import ModelError, UsageError
from esen_lab.planner.plan import Lane

ALL = {**GOOD, **ARRAYS, **BAD, **NEVER_IN}


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(device="cpu", store=tmp_path / "profiles.sqlite") as lab:
        yield lab


def the_only(outputs: dict[str, Any]) -> Any:
    return next(iter(outputs.values()))


def as_called_in_the_notebook(x: Any) -> torch.Tensor:
    """What `Echo` answers when it is called with `x`, arrays as tensors."""

    def plain(part: Any) -> Any:
        if isinstance(part, np.ndarray):
            return torch.from_numpy(part.astype(part.dtype.newbyteorder("="), order="C").copy())
        if isinstance(part, Mapping):
            return {key: plain(value) for key, value in part.items()}
        return [plain(value) for value in part] if isinstance(part, (tuple, list)) else part

    answer: torch.Tensor = call_with(Echo(), plain(x))
    return answer.detach().clone()


# --- the door ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*GOOD, *ARRAYS])
def test_what_works_goes_in_with_its_numbers(name: str) -> None:
    x = (GOOD.get(name) or ARRAYS[name])()
    wanted = as_called_in_the_notebook(x)
    for tree in (as_input(x), own_example(x) if name != "whole numbers as keys" else as_input(x)):
        found = flatten(tree)[0][0]
        assert type(found) is torch.Tensor
        assert not found.requires_grad
        assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
        assert same_bits([found], [wanted])
        tree_spec(tree)


@pytest.mark.parametrize("name", [*BAD, *NEVER_IN])
def test_what_does_not_is_refused_with_its_path(name: str) -> None:
    thing = ALL[name]()
    with pytest.raises(UsageError) as caught:
        take_in({"image": (thing,), "mask": [X]} if name not in NEVER_IN else thing, "the example")
    assert name in NEVER_IN or "the example['image'][0]" in str(caught.value)
    assert len(str(caught.value)) < 500
    assert caught.value.hint


def test_an_example_is_nobody_elses() -> None:
    x = torch.zeros(3)
    with torch.inference_mode():
        own = own_example((x, x[:1].expand(3)))
    x.fill_(1)
    assert [leaf.tolist() for leaf in own] == [[0, 0, 0], [0, 0, 0]]
    own[1][0] = 5  # no inference tensor, and no memory that several of its numbers share
    assert own[1].tolist() == [5, 0, 0]


def test_constants_that_python_calls_equal_are_told_apart() -> None:
    structures = [take_in((X, constant))[1] for constant in (1, 1.0, True, 0, 0.0, -0.0, False)]
    assert len(set(structures)) == len(structures)
    assert take_in((X, float("nan")))[1] == take_in((X, float("nan")))[1]


trees = st.recursive(
    st.sampled_from([X, X.numpy(), X.half(), None, True, 2, 0.5, "text"]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(st.one_of(st.text(max_size=3), st.integers(-9, 9)), inner, max_size=3),
    ),
    max_leaves=8,
)


@given(tree=trees)
def test_any_tree_of_plain_parts_goes_in_as_it_is(tree: Any) -> None:
    found = as_input((X, tree))
    assert flatten(found)[1] == take_in((X, tree))[1]
    assert take_in(found)[1] == take_in((X, tree))[1]
    assert all(same_bits([a], [b]) for a, b in zip(take_in(found)[0], take_in((X, tree))[0], strict=True))


# --- through a lab: nothing ends a process ------------------------------------------------------------------------

_WHOLE_TABLE = """
import sys, torch
from odd_things import *
from test_inputs import ALL, as_called_in_the_notebook, the_only
from esen_lab import Lab
from esen_lab.ensemble import make_submodel
from esen_lab.ensemble.fingerprint import same_bits
from esen_lab.errors import EsenError, ModelError, UsageError

def outcome(call):
    try:
        return call()
    except (UsageError, ModelError) as problem:
        return problem

with Lab(device="cpu", store=sys.argv[1]) as lab:
    lab.register("echo", Echo(), X)
    lab.combine(the_only)
    lab.run(X)
    for name, make in ALL.items():
        thing = make()
        ran = [outcome(lambda: lab.run(thing)) for _ in range(2)]
        kept = outcome(lambda: make_submodel("echo", Echo(), thing))
        refused = isinstance(kept, EsenError)
        if all(isinstance(answer, UsageError) for answer in ran):
            assert name not in GOOD and name not in ARRAYS and refused, (name, ran, kept)
        else:
            wanted = as_called_in_the_notebook(thing)
            for answer in ran:
                assert isinstance(answer, torch.Tensor) and answer.dtype == wanted.dtype, (name, answer)
                assert same_bits([answer], [wanted]) and not answer.is_inference(), name
            assert name in GOOD or name in ARRAYS, name
            assert not refused, (name, kept)
    for name in ("quint8", "sparse", "no memory", "meta", "reversed", "float8_e5m2", "constants"):
        for call in (lambda: lab.compare(thing, rounds=1, strategies=[]), lambda: lab.check_numerics(thing, runs=1)):
            thing = ALL[name]()
            found = outcome(call)
            assert isinstance(found, EsenError) == (name in BAD), (name, found)
            if not isinstance(found, EsenError):
                assert not getattr(found, "wrong", ()), found
print("alive")
"""


def run_apart(code: str, *arguments: str) -> str:
    """Run code in a process of its own, which a crash would end."""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr[-4000:]}"
    return done.stdout


def test_no_input_ends_the_process_and_register_and_run_agree(tmp_path: Path) -> None:
    assert run_apart(_WHOLE_TABLE, str(tmp_path / "store.sqlite")).endswith("alive\n")


_OUTPUTS = """
from odd_things import *
from esen_lab.ensemble import make_submodel
from esen_lab.errors import UsageError

for name in (*GOOD, *BAD):
    try:
        made = make_submodel("odd", Answers(name, always=True), X)
    except UsageError as problem:
        assert name in BAD and "the output of 'odd'" in str(problem), (name, problem)
    else:
        assert name in GOOD, (name, made.output_spec)
print("alive")
"""


def test_an_output_that_cannot_be_had_is_refused_where_it_is_registered() -> None:
    assert run_apart(_OUTPUTS).endswith("alive\n")


@pytest.mark.parametrize("name", ["sparse", "quint8", "no memory", "meta", "masked", "jagged", "bytes", "dataclass"])
def test_an_output_that_turns_odd_is_an_error_of_that_run(lab: Lab, name: str) -> None:
    lab.register("odd", Answers(name, always=False), X)
    with pytest.raises(ModelError, match="the output of 'odd'"):
        lab.run(X + 100)
    assert torch.equal(lab.run(X), X)


def test_outputs_may_change_their_looks_from_call_to_call(lab: Lab) -> None:
    lab.register("odd", Answers("constants", always=False), X)
    lab.combine(the_only)
    assert torch.equal(lab.run(X), X)
    answer = lab.run(X + 100)
    assert [type(part) for part in answer[1:]] == [bool, int, float, float, str, type(None), float]
    assert torch.equal(lab.run(X), X)


# --- inference mode -----------------------------------------------------------------------------------------------


def test_outputs_are_ordinary_tensors_wherever_it_is_run(lab: Lab) -> None:
    lab.register("a", mlp(seed=1), example=torch.randn(4, 8))
    x = torch.randn(4, 8)
    for rule in ("mean", "softmax-mean", torch.inference_mode()(lambda outputs: outputs["a"] * 1)):
        lab.combine(rule)
        for inside in (False, True, False, True, True, False):
            with torch.inference_mode(mode=inside):
                y = lab.run(x)
            assert not y.is_inference()
            y.add_(1)  # what an inference tensor forbids outside
            (y * nn.Parameter(torch.ones(3))).sum().backward()


def test_a_module_registered_inside_inference_mode_runs_outside(lab: Lab) -> None:
    with torch.inference_mode():
        lab.register("a", nn.LazyLinear(3), example=torch.randn(4, 8))
    assert lab.run(torch.randn(4, 8)).shape == (4, 3)


# --- lazy modules ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "x"),
    [
        (nn.LazyBatchNorm1d(), torch.randn(4, 8)),
        (nn.LazyBatchNorm1d(affine=False), torch.randn(4, 8, 2)),
        (nn.LazyInstanceNorm1d(affine=True, track_running_stats=True), torch.randn(4, 8, 2)),
        (
            nn.Sequential(nn.LazyConv2d(3, 1), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(2)),
            torch.randn(1, 2, 4, 4),
        ),
    ],
    ids=["batch norm", "without weights", "instance norm", "several"],
)
def test_modules_that_wait_for_their_shapes_get_them_from_the_example(
    lab: Lab, module: nn.Module, x: torch.Tensor
) -> None:
    submodel = lab.register("lazy", module, x)
    assert any("lazy" in note for note in submodel.notes)
    with torch.inference_mode():
        assert torch.equal(lab.run(x), submodel.build()(x))
    assert any(
        isinstance(t, (nn.UninitializedBuffer, nn.UninitializedParameter))
        for t in [*module.buffers(), *module.parameters()]
    )


def test_a_factory_of_lazy_modules_works_too(lab: Lab) -> None:
    x = torch.randn(4, 8)
    lab.register("lazy", "torch.nn:LazyBatchNorm1d", x)
    assert lab.run(x).shape == x.shape


# --- dtypes that the example does not have ----------------------------------------------------------------------------


def test_doubles_are_one_usage_error_that_names_the_tensor_and_the_member(lab: Lab) -> None:
    x = torch.randn(4, 8)
    lab.register("a", nn.Linear(8, 3), example=x)
    with pytest.raises(UsageError, match=r"the input is float64\[4, 8\], the example's float32\[4, 8\]; Sub-model 'a'"):
        lab.run(x.double())
    with pytest.raises(ModelError):  # the right dtype: it is no matter of that
        lab.run(torch.randn(4, 9))
    assert lab.run(x).shape == (4, 3)


def test_an_argument_that_no_sub_model_takes_is_not_dropped_without_a_word(lab: Lab) -> None:
    lab.register("a", Echo(), example={"x": X})
    with pytest.raises(UsageError, match=r"with mask\. Leave it out"):
        lab.run({"x": X, "mask": X})


# --- named tuples -----------------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    u: torch.Tensor
    v: torch.Tensor

    def total(self) -> torch.Tensor:
        return self.u + self.v


class TakesPair(nn.Module):
    """Asks a named tuple for its fields, its method and its class, and answers with another."""

    def forward(self, pair: Pair) -> Pair:
        return Pair(pair.total() * (2 if isinstance(pair, Pair) else 3), pair.v - pair.u)


@pytest.mark.parametrize("combine", ["mean", the_only], ids=["mean", "the only"])
def test_named_tuples_stay_what_they_are_in_lanes_and_out_of_them(lab: Lab, combine: Any) -> None:
    x = Pair(torch.ones(2, 3), torch.zeros(2, 3))
    lab.register("a", TakesPair(), example=(x,))
    lab.combine(combine)
    answer, wanted = lab.run((x,)), TakesPair()(x)
    assert type(answer) is Pair
    assert all(map(torch.equal, answer, wanted))


_NAMED_IN_A_NOTEBOOK = """
import sys, torch
from typing import NamedTuple
from torch import nn
from esen_lab import Lab

class Pair(NamedTuple):
    u: torch.Tensor
    v: torch.Tensor
    def total(self): return self.u + self.v

class Net(nn.Module):
    def forward(self, pair): return Pair(pair.total() * 2, pair.v)

with Lab(device="cpu", store=sys.argv[1]) as lab:
    x = Pair(torch.ones(2, 3), torch.zeros(2, 3))
    lab.register("a", Net(), example=(x,))
    lab.combine(lambda outputs: outputs["a"])
    answer = lab.run((x,))
    assert type(answer) is Pair, type(answer)
    assert torch.equal(answer.total(), Net()(x).total())
print("alive")
"""


def test_named_tuples_of_the_notebook_stay_what_they_are(tmp_path: Path) -> None:
    assert run_apart(_NAMED_IN_A_NOTEBOOK, str(tmp_path / "store.sqlite")).endswith("alive\n")


# --- what a network could see of its input besides its numbers ------------------------------------------------------


class AddsInPlace(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        a.add_(1)
        return a + b


WIDE = torch.arange(12.0).reshape(2, 6)
SHARING: dict[str, tuple[torch.Tensor, torch.Tensor]] = {
    "the same": (WIDE, WIDE),
    "two views": (WIDE.view(-1), WIDE.reshape(12)),
    "overlapping columns": (WIDE[:, :4], WIDE[:, 2:]),
    "one and its first row": (WIDE, WIDE[:1]),
}


@pytest.mark.parametrize("name", SHARING)
def test_tensors_that_share_memory_are_refused_where_a_network_writes_into_them(lab: Lab, name: str) -> None:
    x = SHARING[name]
    with pytest.raises(UsageError, match=r"the example\[0\] and the example\[1\] share memory, and 'a' writes"):
        lab.register("a", AddsInPlace(), example=x)
    lab.register("a", AddsInPlace(), example=tuple(part.clone() for part in x))
    with pytest.raises(UsageError, match=r"the input\[0\] and the input\[1\] share memory, and 'a' writes"):
        lab.run(x)


def test_columns_of_one_matrix_share_no_memory(lab: Lab) -> None:
    x = torch.rand(4, 6)
    lab.register("a", AddsInPlace(), example=x.chunk(2, dim=1))
    assert torch.equal(lab.run((x[:, ::2], x[:, 1::2])), x[:, ::2] + 1 + x[:, 1::2])


def test_tensors_that_share_memory_are_welcome_where_nobody_writes(lab: Lab) -> None:
    lab.register("a", nn.Bilinear(3, 3, 2), example=(torch.rand(2, 3), torch.rand(2, 3)))
    x = torch.rand(2, 3)
    assert lab.run((x, x)).shape == (2, 2)


class Asks(nn.Module):
    """Answers by what its input is besides its numbers."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = {
            "gradient": x.requires_grad,
            "parameter": isinstance(x, nn.Parameter),
            "class": type(x) is not torch.Tensor,
            "nothing": False,
        }[self.what]
        return x.detach().as_subclass(torch.Tensor) * (2 if seen else 1)


ODD_EXAMPLES = {
    "gradient": lambda: torch.ones(2, 3, requires_grad=True),
    "parameter": lambda: nn.Parameter(torch.ones(2, 3)),
    "class": lambda: torch.ones(2, 3).as_subclass(Quiet),
}


@pytest.mark.parametrize("what", ODD_EXAMPLES)
def test_a_network_that_asks_what_lanes_do_not_keep_is_refused_with_what_it_asked(what: str) -> None:
    example = ODD_EXAMPLES[what]()
    with pytest.raises(UsageError, match=r"one that requires a gradient|a Parameter|a Quiet"):
        make_submodel("a", Asks(what), example)
    assert make_submodel("a", Asks("nothing"), example).notes == make_submodel("a", Asks("nothing"), X).notes


def test_a_network_that_differentiates_by_its_input_is_told_how() -> None:
    class Force(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.enable_grad():
                return torch.autograd.grad((x**3).sum(), x)[0]

    class Own(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                return torch.autograd.grad((x**3).sum(), x)[0]

    with pytest.raises(ModelError, match=r"with torch\.enable_grad\(\): x = x\.detach\(\)\.requires_grad_\(\)"):
        make_submodel("a", Force(), torch.ones(2, 3, requires_grad=True))
    make_submodel("a", Own(), torch.ones(2, 3, requires_grad=True))


# --- plans ----------------------------------------------------------------------------------------------------------


def test_a_run_that_fails_leaves_the_plan_that_was_searched(lab: Lab) -> None:
    x = torch.randn(4, 8)
    lab.register("a", mlp(seed=1), example=x)
    lab.register("b", mlp(seed=2))
    lab.run(x)  # without a plan
    found = Plan(lanes=(Lane(units=1, members=("a",)), Lane(units=1, members=("b",))), units=2)
    lab.plan = found
    with pytest.raises(UsageError):
        lab.run(x.to_sparse())
    lab.register("b", Echo(), example={"x": x})
    for call in (lambda: lab.run(x), lab.profile, lambda: lab.compare(x), lambda: lab.export("plan.py")):
        with pytest.raises(UsageError, match=r"all take a dict.*'b' takes .*'a' "):
            call()
    assert lab.plan is found


def test_the_name_of_a_file_is_no_input_and_the_way_to_one_is_told() -> None:
    with pytest.raises(UsageError, match="a file is read first"):
        take_in("measured.csv")


@pytest.mark.parametrize(
    ("method", "told"),
    [
        ("to_numpy", r"x\.to_numpy\('float32'\)"),
        ("toarray", r"x\.toarray\(\)"),
        ("__array__", r"numpy\.asarray\(x\)"),
        ("__array_interface__", r"numpy\.asarray\(x\)"),
    ],
)
def test_tables_and_arrays_of_other_libraries_are_told_how_they_become_arrays(method: str, told: str) -> None:
    foreign = type("Foreign", (), {method: lambda self, *_: np.zeros((2, 2))})
    with pytest.raises(UsageError, match=rf"the example\['x'\] is of type .*Foreign\. Make .*{told}"):
        take_in({"x": foreign()}, "the example")
