"""A module around a module: the first answer of every look is compared, later looks never end a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cloudpickle
import pytest
import torch
from backend_nets import executed
from models import OverwritesInput, mlp, payload
from torch import nn

from esen_lab.common.units import BACKENDS, check_backend
from esen_lab.ensemble.traits import Traits
from esen_lab.errors import DeviceError, UsageError
from esen_lab.lanes.backends import backend, executed_by, why_not, wrapped, writes
from esen_lab.lanes.backends._executed import LOOKS_KEPT, Executed
from esen_lab.lanes.backends._protocol import BackendSettings, Example, Refused

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


class Scripted:
    """A backend that answers by a function of the network's answer, or refuses some batches."""

    prepared: list[int]
    as_torch = True
    change: Callable[[torch.Tensor], torch.Tensor]

    def __init__(self, module: nn.Module, settings: BackendSettings) -> None:
        self.module = module

    def prepare(self, example: Example) -> Any:
        batch = example.leaves[0].shape[0]
        if batch == 13:
            raise Refused("it is unlucky")
        if batch == 14:
            raise RuntimeError("\n\x1b[96mthe engine broke\x1b[0m\nat line 7 of a long trace")
        self.prepared.append(batch)
        return lambda _, args, kwargs: type(self).change(self.module(*args, **kwargs))


def scripted(change: Callable[[torch.Tensor], torch.Tensor] = lambda y: y) -> tuple[Executed, list[int]]:
    kind = type("Kind", (Scripted,), {"prepared": [], "change": staticmethod(change)})
    return Executed(mlp(), "scripted", kind, BackendSettings()), kind.prepared


def test_a_backend_that_answers_differently_is_refused_with_the_numbers() -> None:
    with pytest.raises(DeviceError, match=r"scripted executes answers as it does eagerly.*3.3e-01 of the largest"):
        scripted(lambda y: y * 4 / 3)[0](X)
    with pytest.raises(DeviceError, match="another shape or dtype"):
        scripted(lambda y: y.double())[0](X)


def test_a_refusal_is_a_sentence_and_what_an_engine_raised_its_first_line() -> None:
    with pytest.raises(DeviceError, match=r"scripted can execute the sub-model\. Given: it is unlucky\.$"):
        scripted()[0](torch.zeros(13, 8))
    with pytest.raises(DeviceError, match=r"Given: RuntimeError: the engine broke\.$"):
        scripted()[0](torch.zeros(14, 8))


def test_a_later_look_that_is_refused_runs_eagerly_and_says_so_once() -> None:
    module, prepared = scripted()
    module(X)
    with pytest.warns(UserWarning, match="leaves an input to eager.*unlucky"):
        first = module(torch.ones(13, 8))
    torch.testing.assert_close(module(torch.ones(13, 8)), first)
    assert prepared == [4]


def breaks() -> Any:
    raise RuntimeError("the engine broke")


def test_an_engine_that_raises_at_a_later_input_leaves_that_look_to_eager_and_says_so_once() -> None:
    broken: list[bool] = []
    module, _ = scripted(lambda y: breaks() if broken else y)
    wanted = module(X)
    broken.append(True)
    with pytest.warns(UserWarning, match="leaves an input to eager: .*the engine broke"):
        torch.testing.assert_close(module(X), wanted)
    torch.testing.assert_close(module(X), wanted)
    broken.clear()
    assert module(X[:2]).shape == (2, 3)  # of another look


def test_what_the_network_raises_itself_is_raised_and_the_engine_stays() -> None:
    kind = type("Kind", (Scripted,), {"prepared": [], "change": staticmethod(lambda y: y + 1e-6)})
    module = Executed(Refuses(), "scripted", kind, BackendSettings())
    module(X)
    with pytest.raises(ValueError, match="too large"):
        module(X + 1000)
    assert not torch.equal(module(X), module.module(X))


class Refuses(nn.Module):
    """Raises at large inputs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.max() > 100:
            raise ValueError("too large")
        return x


class Awaited(Scripted):
    """A backend that begins, whose answers never come."""

    def prepare(self, example: Example) -> Any:
        class Begun:
            def __call__(self, leaves: Any, _: Any, __: Any) -> torch.Tensor:
                return leaves[0]  # type: ignore[no-any-return]

            def begin(self, leaves: Any) -> Callable[[], torch.Tensor]:
                if leaves[0].max() > 10:
                    raise RuntimeError("no memory")
                return breaks

        return Begun()


def test_an_engine_that_does_not_begin_is_called_and_one_that_breaks_while_it_is_awaited_leaves_it_to_eager() -> None:
    module = Executed(nn.Identity(), "scripted", Awaited, BackendSettings())
    module(X)
    assert module.begin(X + 100) is None
    wait = module.begin(X - 100)
    assert wait is not None
    with pytest.warns(UserWarning, match="leaves an input to eager: .*the engine broke"):
        assert torch.equal(wait(), X - 100)
    assert module.begin(X) is None, "it is asked no more"


def test_ever_new_looks_are_prepared_less_and_less_often() -> None:
    module, prepared = scripted()
    sizes = [size for size in range(1, 60) if size not in (13, 14)]
    for _ in range(40):
        for size in sizes:
            module(torch.zeros(size, 8))
    assert prepared[:LOOKS_KEPT] == sizes[:LOOKS_KEPT]
    assert LOOKS_KEPT < len(prepared) < LOOKS_KEPT + 8


def test_one_that_overwrites_its_input_is_compared_on_copies() -> None:
    kind = type("Kind", (Scripted,), {"prepared": [], "change": staticmethod(lambda y: y)})
    x = X.clone()
    assert torch.equal(
        Executed(OverwritesInput(), "scripted", kind, BackendSettings())(x), OverwritesInput()(X.clone())
    )


def test_one_that_writes_into_its_input_is_known_for_it_though_its_first_answer_is_to_a_copy() -> None:
    kind = type("Kind", (Scripted,), {"prepared": [], "change": staticmethod(lambda y: y)})
    for module in (OverwritesInput(), mlp()):
        wrapping = Executed(module, "scripted", kind, BackendSettings())
        wrapping(X.clone())
        assert writes(wrapping) == isinstance(module, OverwritesInput)


@pytest.mark.parametrize(
    ("traits", "why"),
    [
        (Traits(state=("its buffer 'calls'",)), "it keeps state between calls: its buffer 'calls'"),
        (Traits(random=True), "it draws random numbers"),
        (Traits(steady=False), "its answer changes"),
        (Traits(grad="on"), "it computes gradients"),
    ],
)
def test_what_would_answer_otherwise_is_refused_before_anything_is_prepared(traits: Traits, why: str) -> None:
    with pytest.raises(DeviceError, match=why):
        cloudpickle.loads(wrapped(payload(mlp()), "openvino", traits=traits))()


def test_eager_wraps_nothing_and_every_name_has_its_file() -> None:
    data = payload(mlp())
    assert wrapped(data, "eager") is data
    assert executed_by(mlp()) == "eager"
    assert executed_by(executed(mlp(), "eager")) == "eager"
    for name in BACKENDS:
        assert isinstance(backend(name).why_not("cpu", precision=""), str)
        assert isinstance(backend(name).why_not("cuda:0", precision="bf16"), str)
    assert why_not("eager") == why_not("channels_last") == ""
    with pytest.raises(UsageError, match=r"one of eager, .*tensorrt\. Given: 'faster'"):
        wrapped(data, "faster")


@pytest.mark.parametrize(
    ("given", "known"),
    [("compile", "inductor"), ("graph", "cuda-graph"), ("openvino@bf16", "openvino@bf16"), ("eager", "eager")],
)
def test_names_of_before_are_those_of_today(given: str, known: str) -> None:
    assert check_backend(given) == known


@pytest.mark.parametrize("given", ["", "@bf16", "magic", "eager@fp8", None, "eager@bf16@bf16"])
def test_other_names_are_refused(given: object) -> None:
    with pytest.raises(UsageError, match="one of eager"):
        check_backend(given)


def test_bfloat16_is_computed_only_where_it_is_asked_for() -> None:
    module = mlp()
    with torch.inference_mode():
        wanted = module(X)
        assert torch.equal(executed(module, "eager")(X), wanted)
        rounded = executed(module, "eager@bf16")(X)
    assert rounded.dtype is torch.float32
    assert 1e-4 < (rounded - wanted).abs().max() / wanted.abs().max() < 6e-2


@pytest.mark.parametrize("name", ["openvino", "onnxruntime", "inductor", "channels_last"])
@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_finite_number_comes_to_what_it_does_eagerly(name: str, odd: float) -> None:
    if why_not(name):
        pytest.skip(why_not(name))
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4), nn.ReLU()).eval()
    x = torch.randn(4, 1, 8, 8)
    by = executed(module, name)
    with torch.no_grad():
        assert torch.allclose(by(x), module(x), atol=1e-4)
        x[2, 0, 3, 3] = odd
        assert torch.equal(by(x).isnan(), module(x).isnan())
        assert torch.allclose(by(x), module(x), atol=1e-4, equal_nan=True)
