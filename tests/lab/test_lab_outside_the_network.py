"""What a network reads outside of itself, in any way, is followed when it changes, or a run says that it is not."""

from __future__ import annotations

import builtins
import contextvars
import decimal
import importlib
import logging
import math
import os
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from users_files import imported

from esen_lab import Lab, Plan
from esen_lab.ensemble import origin
from esen_lab.errors import UsageError
from esen_lab.lanes.settings import flushes_denormals
from esen_lab.planner.plan import Lane
from esen_lab.run.fidelity import AnswersDiffer

X = torch.rand(16, 8, generator=torch.Generator().manual_seed(0)) + 0.1
ONE = Plan(lanes=(Lane(units=1, members=("a",)),), units=1)

SOURCE = """
import contextvars
import importlib
import sys

import torch
from torch import nn

GAIN = contextvars.ContextVar("gain", default=1.0)
SCALE = 1.0


class Base(nn.Module):
    def forward(self, x):
        return self.turned(x[:, :3])

    def turned(self, x):
        return x + 1


class Turned(Base):
    def turned(self, x):
        return x + 2 if len(x) < 99 else x


class Alike(Base):
    def turned(self, x):
        return x + 1 if len(x) < 99 else x


class OfAModule(nn.Module):
    def forward(self, x):
        import users_own_too

        return x[:, :3] * getattr(users_own_too, "SCALE")


class OfGlobals(nn.Module):
    def forward(self, x):
        return x[:, :3] * globals()["SCALE"]


class OfAllModules(nn.Module):
    def forward(self, x):
        return x[:, :3] * sys.modules["users_own_too"].SCALE


class OfAnother(nn.Module):
    def forward(self, x):
        return x[:, :3] * importlib.import_module("users_own_too").SCALE


class Varies(nn.Module):
    def forward(self, x):
        return x[:, :3] * GAIN.get()
"""


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    with imported("users_own_too", SOURCE, tmp_path, monkeypatch) as module:
        yield module


LOGGER = logging.getLogger("esen_lab of these tests")


class Reads(nn.Module):
    """Three columns times what a function reads of the world."""

    def __init__(self, read: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.read = read

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :3] * self.read(x)


def _found(_: torch.Tensor) -> float:
    try:
        return ESEN_NOT_THERE_YET  # type: ignore[name-defined,no-any-return]
    except NameError:
        return 1.0


def _third(_: torch.Tensor) -> float:
    return float(decimal.Decimal(1) / decimal.Decimal(3))


FACTOR = 1.0


@torch.no_grad()
def _under_no_grad(_: torch.Tensor) -> float:
    return FACTOR


def _put(monkeypatch: pytest.MonkeyPatch, place: Any, name: str, factor: float) -> None:
    """What is called `name` there gives so much more from now on."""
    own = getattr(place, name)
    monkeypatch.setattr(place, name, lambda *given: own(*given) * factor)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lstm(x)[0]  # type: ignore[no-any-return]


def _put_into_lstm(monkeypatch: pytest.MonkeyPatch, _: nn.Module) -> None:
    own = torch._VF.lstm  # type: ignore[attr-defined]
    monkeypatch.setitem(vars(torch._VF), "lstm", lambda *given: tuple(part * 3 for part in own(*given)))


def _reading_enclosed() -> Callable[[torch.Tensor], Any]:
    import string

    return lambda _: len(string.digits)


def _set_back(
    monkeypatch: pytest.MonkeyPatch, read: Callable[[], Any], write: Callable[[Any], object], value: Any = None
) -> None:
    """A switch the other way, or at a value, from now on; by a dict, since what monkeypatch sets it puts back."""
    was = read()
    write(not was if value is None else value)
    monkeypatch.setitem(_PutBack(lambda: write(was)), "", "")


class _PutBack(dict[str, str]):
    """Calls something when its item is taken out again."""

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__()
        self._call = call

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name)
        self._call()

    def pop(self, *name: Any) -> Any:
        self._call()
        return super().pop(*name)


def _bare(text: str) -> Callable[..., str]:
    return lambda _: text


OPERATORS = torch.library.Library("esen_outside", "FRAGMENT")
OPERATORS.define("doubled(Tensor x) -> Tensor")
OPERATORS.impl("doubled", lambda x: x * 2, "CPU")


class Doubled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.esen_outside.doubled(x[:, :3])  # type: ignore[no-any-return]


def _until_put_back(monkeypatch: pytest.MonkeyPatch, call: Callable[[], object]) -> None:
    monkeypatch.setitem(_PutBack(call), "", "")


def _another_kernel(monkeypatch: pytest.MonkeyPatch, _: nn.Module) -> None:
    OPERATORS.impl("doubled", lambda x: x * 20, "CPU")
    _until_put_back(monkeypatch, lambda: OPERATORS.impl("doubled", lambda x: x * 2, "CPU"))


def _a_kernel_of_torchs(monkeypatch: pytest.MonkeyPatch, _: nn.Module) -> None:
    library = torch.library.Library("aten", "IMPL")
    library.impl("relu", lambda x: x * 9, "CPU")
    _until_put_back(monkeypatch, library._destroy)


Change = Callable[[pytest.MonkeyPatch, nn.Module], object]
OUTSIDE: dict[str, tuple[Callable[[], nn.Module], Change]] = {
    "a function of Python's": (
        lambda: Reads(lambda _: len(bin(4))),
        lambda patch, _: patch.setattr(builtins, "bin", _bare("0b10000000")),
    ),
    "a name that hides one of Python's": (
        lambda: Reads(lambda _: len(oct(8))),
        lambda patch, _: patch.setitem(globals(), "oct", _bare("0o1111111")),
    ),
    "a name that was not there": (
        lambda: Reads(_found),
        lambda patch, _: patch.setitem(globals(), "ESEN_NOT_THERE_YET", 5.0),
    ),
    "a function of torch that a layer calls": (nn.ReLU, lambda patch, _: _put(patch, torch, "relu", 3)),
    "a function of torch": (
        lambda: Reads(lambda x: torch.sigmoid(x[:, :3])),
        lambda patch, _: _put(patch, torch, "sigmoid", 3),
    ),
    "a method of tensors": (
        lambda: Reads(lambda x: x[:, :3].sigmoid()),
        lambda patch, _: _put(patch, torch.Tensor, "sigmoid", 3),
    ),
    "a function of math": (
        lambda: Reads(lambda _: math.sqrt(4)),
        lambda patch, _: patch.setattr(math, "sqrt", lambda _: 9.0),
    ),
    "a function of NumPy": (
        lambda: Reads(lambda _: float(np.hypot(3, 4))),
        lambda patch, _: patch.setattr(np, "hypot", lambda *_: 9.0),
    ),
    "a name that a function under a package's decorator reads": (
        lambda: Reads(_under_no_grad),
        lambda patch, _: patch.setitem(globals(), "FACTOR", 5.0),
    ),
    "the level of a logger, which is sent by its name": (
        lambda: Reads(lambda _: 1.0 + (LOGGER.getEffectiveLevel() == logging.DEBUG)),
        lambda patch, _: patch.setattr(LOGGER, "level", logging.DEBUG),
    ),
    "a value of a module of Python's, by a name in a cell": (
        lambda: Reads(_reading_enclosed()),
        lambda patch, _: patch.setattr("string.digits", "01"),
    ),
    "a function that a layer takes from torch's own": (Recurrent, _put_into_lstm),
    "detection of anomalies": (
        lambda: Reads(lambda _: 1.0 + torch.is_anomaly_enabled()),
        lambda patch, _: _set_back(patch, torch.is_anomaly_enabled, torch.set_anomaly_enabled),
    ),
    "checks of sparse tensors": (
        lambda: Reads(lambda _: 1.0 + torch.sparse.check_sparse_tensor_invariants.is_enabled()),
        lambda patch, _: _set_back(
            patch, torch._C._check_sparse_tensor_invariants, torch._C._set_check_sparse_tensor_invariants
        ),
    ),
    "the level that logging leaves out": (
        lambda: Reads(lambda _: 1.0 + LOGGER.isEnabledFor(logging.CRITICAL)),
        lambda patch, _: _set_back(patch, lambda: logging.root.manager.disable, logging.disable, logging.CRITICAL),
    ),
    "a kernel that an operator is given anew": (Doubled, _another_kernel),
    "a kernel that an operator of torch is given": (nn.ReLU, _a_kernel_of_torchs),
    "an attribute that is taken away": (
        lambda: ReadsOrNot(torch.sum),
        lambda _, module: delattr(module, "read"),
    ),
}


class ReadsOrNot(Reads):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :3] * (2.0 if hasattr(self, "read") else 5.0)


class ReadsItsModule(nn.Module):
    def __init__(self, own: types.ModuleType) -> None:
        super().__init__()
        self.own = own

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :3] * self.own.SCALE  # type: ignore[no-any-return]


HERE: contextvars.ContextVar[float] = contextvars.ContextVar("here", default=1.0)


class CountsInItsContext(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        HERE.set(HERE.get() + 1)
        return x[:, :3] * HERE.get()


@pytest.fixture(autouse=True)
def _no_warning() -> Iterator[None]:
    """Answers that differ fail a test, unless it expects them."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", AnswersDiffer)
        yield


def here(module: nn.Module, x: torch.Tensor = X) -> torch.Tensor:
    """What this process answers."""
    with torch.no_grad():
        return module.eval()(x).detach()  # type: ignore[no-any-return]


def alone(lab: Lab, module: nn.Module, inside: nn.Module | None = None) -> None:
    lab.combine(lambda outputs: outputs["a"])
    lab.register("a", module, example=X)
    lab.plan = ONE
    torch.testing.assert_close(lab.run(X), here(module if inside is None else inside))


def said_or_followed(lab: Lab, module: nn.Module) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", AnswersDiffer)
        got = lab.run(X)
    told = [str(warning.message) for warning in said if warning.category is AnswersDiffer]
    assert told or torch.allclose(got, here(module))


@pytest.mark.parametrize("name", OUTSIDE)
def test_whatever_a_network_reads_outside_of_itself_is_followed_or_said(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    make, change = OUTSIDE[name]
    module = make()
    alone(lab, module)
    before = here(module)
    with monkeypatch.context() as patch:
        change(patch, module)
        assert not torch.allclose(here(module), before), "the change shows here"
        said_or_followed(lab, module)
    torch.testing.assert_close(lab.run(X), here(module))


def test_a_network_inside_of_a_packages_function_is_followed(lab: Lab) -> None:
    linear = nn.Linear(8, 3)
    alone(lab, torch.func.vmap(linear), linear)  # type: ignore[arg-type]
    linear.weight.data.mul_(3)
    torch.testing.assert_close(lab.run(X), here(linear))


def test_a_network_that_logs_keeps_no_state(lab: Lab) -> None:
    LOGGER.manager._clear_cache()  # type: ignore[attr-defined]
    module = Reads(lambda _: 1.0 + LOGGER.isEnabledFor(logging.DEBUG))
    assert not lab.register("a", module, example=X).traits.keeps_state


class Sets(nn.Module):
    """What it sets in a call holds for the whole process."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(5)
        torch.set_flush_denormal(True)
        os.environ["ESEN_SET_IN_A_CALL"] = "1"
        os.chdir("/")
        return x[:, :3] * 2


def test_what_calls_of_a_network_set_for_the_process_is_put_back_here_and_said(lab: Lab) -> None:
    def settings() -> tuple[Any, ...]:
        set_here = torch.get_default_dtype(), torch.get_num_threads(), flushes_denormals(), os.getcwd()
        return (*set_here, os.environ.get("ESEN_SET_IN_A_CALL"))

    lab.combine(lambda outputs: outputs["a"])
    before = settings()
    notes = lab.register("a", Sets(), example=X).notes
    assert settings() == before
    (note,) = [note for note in notes if "for its whole process" in note]
    for what in ("default dtype", "number of threads", "denormals", "ESEN_SET_IN_A_CALL", "working directory"):
        assert what in note
    for _ in range(2):
        assert torch.equal(lab.run(X), X[:, :3] * 2)
    lab.run(X.clone().requires_grad_())  # it is called here, to look whether it asks
    lab.check_numerics(X + 1)
    assert settings() == before


def test_the_context_of_decimals_is_what_lanes_have(lab: Lab) -> None:
    module = Reads(_third)
    alone(lab, module)
    with decimal.localcontext(decimal.Context(prec=2)):
        torch.testing.assert_close(lab.run(X), here(module))
    torch.testing.assert_close(lab.run(X), here(module))


@pytest.mark.parametrize("kind", ["OfAModule", "OfGlobals", "OfAllModules", "OfAnother"])
def test_what_a_module_of_the_users_holds_is_followed_where_it_is_asked_for_by_a_text(
    lab: Lab, user: types.ModuleType, kind: str
) -> None:
    module = getattr(user, kind)()
    alone(lab, module)
    user.SCALE = 4.0  # type: ignore[attr-defined]
    torch.testing.assert_close(lab.run(X), here(module))


def test_a_module_that_a_network_keeps_is_followed(lab: Lab, user: types.ModuleType) -> None:
    module = ReadsItsModule(user)
    alone(lab, module)
    user.SCALE = 4.0  # type: ignore[attr-defined]
    torch.testing.assert_close(lab.run(X), here(module))


def test_what_a_context_variable_holds_travels_to_lanes_at_their_start_and_later(
    lab: Lab, user: types.ModuleType
) -> None:
    module = user.Varies()
    token = user.GAIN.set(3.0)
    alone(lab, module)
    user.GAIN.set(5.0)
    torch.testing.assert_close(lab.run(X), here(module))
    user.GAIN.reset(token)
    torch.testing.assert_close(lab.run(X), here(module))


def test_a_call_that_sets_a_context_variable_keeps_state_and_registering_leaves_it(lab: Lab) -> None:
    token = HERE.set(1.0)
    registered = lab.register("a", CountsInItsContext(), example=X)
    assert HERE.get() == 1.0
    assert registered.traits.keeps_state
    HERE.reset(token)


@pytest.mark.parametrize("kind", ["Turned", "Alike"])
def test_a_method_that_is_taken_from_a_class_of_a_file_is_said(lab: Lab, user: types.ModuleType, kind: str) -> None:
    """Lanes import the file, and have it still; the example may not show it."""
    cls = getattr(user, kind)
    module = cls()
    alone(lab, module)
    del cls.turned
    with pytest.warns(AnswersDiffer, match=rf"users_own_too\.{kind}\.turned"):
        lab.run(X)


def test_hooks_on_what_torch_compile_made_are_refused_after_registering_too(lab: Lab) -> None:
    network = nn.Linear(8, 3)
    compiled: Any = torch.compile(network, backend="eager")
    alone(lab, compiled, network)
    handle = compiled.register_forward_hook(lambda _module, _given, answer: answer * 2)
    with pytest.raises(UsageError, match="Hooks of a compiled network are on the network itself"):
        lab.run(X)
    handle.remove()
    torch.testing.assert_close(lab.run(X), here(network))
    with torch.no_grad():
        network.bias.add_(100)
    torch.testing.assert_close(lab.run(X), here(network))


def test_a_network_that_raises_here_and_answers_in_its_lane_is_said(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(_: torch.Tensor) -> float:
        return 1.0 / getattr(math, "esen_test_divisor", 1.0)

    alone(lab, Reads(raises))
    monkeypatch.setattr(math, "esen_test_divisor", 0.0, raising=False)  # nobody can see that
    monkeypatch.setitem(os.environ, "ESEN_TEST_ANY", "1")  # but what is set has changed
    with pytest.warns(AnswersDiffer, match=r"a answers otherwise.*here it raises ZeroDivisionError"):
        lab.run(X)


def _asks_math(_: torch.Tensor) -> float:
    return float(getattr(math, "esen_test_factor", 1.0))


def test_what_is_registered_again_is_compared_again_and_said_again(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    module = Reads(_asks_math)
    alone(lab, module)
    monkeypatch.setattr(math, "esen_test_factor", 5.0, raising=False)  # which nobody can see
    for _ in range(2):
        lab.register("a", module, example=X)
        with pytest.warns(AnswersDiffer, match="a answers otherwise"):
            lab.run(X)
    monkeypatch.undo()
    lab.register("a", module, example=X)
    torch.testing.assert_close(lab.run(X), here(module))


INSTALLED = """
import threading

from torch import nn

gain = 1.0
config = {"inner": {"gain": 1.0}}
local = threading.local()


class Options:
    gain = 1.0


options = Options()


def set_gain(value):
    global gain
    gain = value


def scaled(x):
    return x * 2 * gain * config["inner"]["gain"] * options.gain * getattr(local, "gain", 1.0)


def turned(x):
    return scaled(x)


class Layer(nn.Module):
    def forward(self, x):
        return self.inner(x[:, :3])

    def inner(self, x):
        return turned(x)
"""


INTO_A_PACKAGE: dict[str, Callable[[pytest.MonkeyPatch, Any], object]] = {
    "a function": lambda patch, package: _put(patch, package, "turned", 4),
    "a function that one of its own calls": lambda patch, package: _put(patch, package, "scaled", 4),
    "a number, by its own setter": lambda _, package: package.set_gain(4.0),
    "a number deep in a dict": lambda _, package: package.config["inner"].update(gain=4.0),
    "an attribute of an object": lambda _, package: setattr(package.options, "gain", 4.0),
    "what a thread has of its own": lambda _, package: setattr(package.local, "gain", 4.0),
}


class CallsAPackage(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        import a_package_of_layers

        return a_package_of_layers.turned(x[:, :3])  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", INTO_A_PACKAGE)
@pytest.mark.parametrize("calls", [False, True], ids=["in a layer of it", "in a function of it"])
def test_what_is_put_into_a_package_is_said(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, *, calls: bool
) -> None:
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "a_package_of_layers.py").write_text(INSTALLED)
    monkeypatch.syspath_prepend(folder)
    origin.installed_folders.cache_clear()
    try:
        package = importlib.import_module("a_package_of_layers")
        module = CallsAPackage() if calls else package.Layer()
        assert origin.is_installed(package.Layer)
        alone(lab, module)
        before = here(module)
        INTO_A_PACKAGE[name](monkeypatch, package)
        assert not torch.allclose(here(module), before), "the change shows here"
        said_or_followed(lab, module)
    finally:
        origin.installed_folders.cache_clear()
        sys.modules.pop("a_package_of_layers", None)


class Warns(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        warnings.warn("odd", RuntimeWarning, stacklevel=1)
        return x[:, :3] + 0.0


@pytest.mark.filterwarnings("ignore:odd")
def test_a_warning_that_is_made_an_error_here_and_not_in_lanes_is_said(lab: Lab) -> None:
    alone(lab, Warns())
    warnings.simplefilter("error", RuntimeWarning)
    with pytest.raises(AnswersDiffer, match="here it raises RuntimeWarning: odd"):
        lab.run(X)
