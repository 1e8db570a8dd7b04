"""Lanes answer as the notebook's own process does, whatever it has set and changed; where they cannot, the lab says so.

The reference is always what this process computes itself, by calling the same networks.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import copy
import enum
import importlib
import io
import os
import random
import sys
import threading
import types
import warnings
import zlib
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from models import mlp
from torch import nn
from torch.nn import functional
from users_files import imported
from waiting import until

from esen_lab import Lab, Plan
from esen_lab.errors import ModelError, UsageError
from esen_lab.lanes.settings import SessionSettings, put
from esen_lab.planner.plan import Lane
from esen_lab.run import STRATEGIES
from esen_lab.run.fidelity import AnswersDiffer

X = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
TWO = Plan(lanes=(Lane(units=1, members=("a",)), Lane(units=1, members=("b",))), units=1)
ONE = Plan(lanes=(Lane(units=1, members=("a", "b")),), units=1)


@pytest.fixture(autouse=True)
def _no_warning() -> Iterator[None]:
    """Answers that differ fail a test, unless it expects them."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", AnswersDiffer)
        yield


def here(*modules: nn.Module, x: torch.Tensor = X) -> torch.Tensor:
    """What this process answers."""
    with torch.no_grad():
        return torch.stack([copy.deepcopy(module).eval()(x) for module in modules]).detach()


def both(lab: Lab, a: nn.Module, b: nn.Module | None = None, plan: Plan = TWO) -> nn.Module:
    b = mlp(seed=7) if b is None else b
    lab.register("a", a, example=X)
    lab.register("b", b)
    lab.plan = plan
    return b


def close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5, equal_nan=True)


def test_a_plan_says_that_its_points_were_measured_under_other_switches_until_they_are_measured_anew(lab: Lab) -> None:
    both(lab, mlp())
    lab.profile(budget_s=0.02).result(timeout=60)
    assert not any("other switches" in note for note in lab.search().notes)
    with torch.autocast("cpu", torch.bfloat16):
        told = [note for note in lab.search().notes if "other switches" in note]
        assert ["none; now autocast on cpu on" in note for note in told] == [True]
        lab.profile(budget_s=0.02).result(timeout=60)
        assert not any("other switches" in note for note in lab.search().notes)
    assert any("autocast on cpu on; now none" in note for note in lab.search().notes)


# --- what the process, the thread, the environment or an imported module holds --------------------------------------


class Denormal(nn.Module):
    """Zero where denormals are flushed."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.full((8, 3), 1e-41))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.abs() @ self.w) * 1e38


class Remembers(nn.Module):
    """Makes new tensors as the session's defaults say."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(8, 3, dtype=torch.float32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cell(x)[0] + torch.zeros(3)


class ReadsEnvironment(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :3] * float(os.environ.get("ESEN_TEST_SCALE", "1"))


class ReadsFile(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        path = Path("scale.txt")
        return x[:, :3] * (float(path.read_text()) if path.exists() else 1.0)


class TellsModes(nn.Module):
    """Its answer shows how torch is set."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        told = [
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.mkldnn.enabled,
            torch.backends.mha.get_fastpath_enabled(),
            torch.is_autocast_enabled("cpu"),
            torch.get_float32_matmul_precision() == "medium",
            torch.get_default_dtype() == torch.float64,
            torch.backends.cudnn.deterministic,
            torch.backends.cuda.flash_sdp_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,
            sys.getrecursionlimit() > 5000,
        ]
        return x[:, :3].float() * sum(2**index for index, on in enumerate(told) if on)


class Deep(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def down(depth: int) -> float:
            return 1.0 if depth == 0 else down(depth - 1)

        return x[:, :3] * down(3000)


@contextlib.contextmanager
def denormals() -> Iterator[None]:
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextlib.contextmanager
def default_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def everything() -> Iterator[None]:
    before = SessionSettings().now()
    torch.use_deterministic_algorithms(True)
    torch.backends.mha.set_fastpath_enabled(False)
    torch.backends.cuda.enable_flash_sdp(False)
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.deterministic = True
    torch.utils.deterministic.fill_uninitialized_memory = False
    sys.setrecursionlimit(20_000)
    try:
        with torch.backends.mkldnn.flags(enabled=False):
            yield
    finally:
        put(before)


@contextlib.contextmanager
def environment() -> Iterator[None]:
    os.environ["ESEN_TEST_SCALE"] = "3"
    try:
        yield
    finally:
        del os.environ["ESEN_TEST_SCALE"]


@contextlib.contextmanager
def folder(tmp_path: Path) -> Iterator[None]:
    (tmp_path / "scale.txt").write_text("5")
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        yield
    finally:
        os.chdir(before)


SWITCHED: dict[str, tuple[Callable[[], nn.Module], Callable[[Path], contextlib.AbstractContextManager[None]]]] = {
    "denormals flushed": (Denormal, lambda _: denormals()),
    "another default dtype": (Remembers, lambda _: default_float64()),
    "every flag of torch": (TellsModes, lambda _: everything()),
    "autocast": (lambda: mlp(seed=3), lambda _: torch.autocast("cpu", torch.bfloat16)),
    "an environment variable": (ReadsEnvironment, lambda _: environment()),
    "another folder": (ReadsFile, folder),
    "a deeper recursion limit": (Deep, lambda _: everything()),
}


@pytest.mark.parametrize("name", SWITCHED)
def test_what_is_set_when_lanes_start_is_set_in_them(lab: Lab, tmp_path: Path, name: str) -> None:
    make, around = SWITCHED[name]
    b = mlp(seed=7)
    with around(tmp_path):
        module = make()
        lab.combine(lambda outputs: outputs["a"])
        both(lab, module, b)
        y = lab.run(X)
        assert y.dtype == here(module)[0].dtype
        close(y, here(module)[0])
        assert lab.report is not None
        assert not [note for note in lab.report.notes if "NOTEBOOK" in note]


@pytest.mark.parametrize("name", sorted(set(SWITCHED) - {"a deeper recursion limit"}))
def test_what_is_set_later_reaches_warm_lanes_and_so_does_its_end(lab: Lab, tmp_path: Path, name: str) -> None:
    make, around = SWITCHED[name]
    module = make()
    lab.combine(lambda outputs: outputs["a"])
    both(lab, module)
    for _ in range(2):
        close(lab.run(X), here(module)[0])
        with around(tmp_path):
            close(lab.run(X), here(module)[0])
    close(lab.run(X), here(module)[0])


def test_settings_reach_the_threads_of_a_lane(lab: Lab) -> None:
    lanes = Plan(lanes=(Lane(units=1, members=("a", "b"), mode="threads"),), units=1)
    a = Denormal()
    both(lab, a, Denormal(), plan=lanes)
    with denormals():
        close(lab.run(X), here(a, a))
    close(lab.run(X), here(a, a))


SOURCE = """
import torch
from torch import nn

SCALE = 1
CONFIG = {"gain": 1.0, "deep": {"bias": 0.0}}
OFFSETS = [0.0]


class Options:
    gain = 1.0

    def __init__(self):
        self.shift = 0.0


OPTIONS = Options()
TABLE = torch.ones(3)


def helper(x):
    return x * SCALE * CONFIG["gain"] + CONFIG["deep"]["bias"] + OFFSETS[0]


class Net(nn.Module):
    factor = 1

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(8, 3)

    def forward(self, x):
        return helper(self.inner(x)) * self.factor * OPTIONS.gain * TABLE + OPTIONS.shift


def make():
    return Net()
"""


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    with imported("users_own", SOURCE, tmp_path, monkeypatch) as module:
        yield module


CHANGES: dict[str, Callable[[ModuleType], object]] = {
    "a global": lambda m: setattr(m, "SCALE", 5),
    "a value in a dict": lambda m: m.CONFIG.update(gain=3.0),
    "a value deep in a dict": lambda m: m.CONFIG["deep"].update(bias=2.0),
    "a list": lambda m: m.OFFSETS.__setitem__(0, 4.0),
    "an attribute of a class": lambda m: setattr(m.Net, "factor", 7),
    "an attribute of another class": lambda m: setattr(m.Options, "gain", 2.0),
    "an object's attribute": lambda m: setattr(m.OPTIONS, "shift", 3.0),
    "a tensor": lambda m: m.TABLE.mul_(4),
}


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("name", CHANGES)
def test_values_set_in_an_imported_module_are_what_lanes_have(
    lab: Lab, user: ModuleType, name: str, live: bool
) -> None:
    CHANGES[name](user)
    module = user.Net()
    b = mlp(seed=7)
    lab.register("a", module if live else "users_own:make", example=X)
    lab.register("b", b)
    lab.plan = TWO
    close(lab.run(X), here(module, b))


@pytest.mark.parametrize("name", CHANGES)
def test_values_set_after_registering_are_followed(lab: Lab, user: ModuleType, name: str) -> None:
    module = user.Net()
    b = both(lab, module)
    close(lab.run(X), here(module, b))
    CHANGES[name](user)
    close(lab.run(X), here(module, b))
    assert lab.report is not None
    assert any("a has changed since it was registered" in note for note in lab.report.notes)
    close(lab.run(X), here(module, b))
    assert not lab.report.notes


INNER_IMPORTS = """
from torch import nn


class FromInside(nn.Module):
    def forward(self, x):
        from users_own import SCALE
        return x[:, :3] * SCALE


class AsInside(nn.Module):
    def forward(self, x):
        import users_own as own
        return (lambda y: y * own.SCALE)(x[:, :3])
"""


@pytest.mark.parametrize("name", ["FromInside", "AsInside"])
def test_what_a_network_imports_while_it_runs_is_followed(
    lab: Lab, user: ModuleType, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "imports_inside.py").write_text(INNER_IMPORTS)
    module = getattr(importlib.import_module("imports_inside"), name)()
    monkeypatch.setitem(sys.modules, "imports_inside", sys.modules.pop("imports_inside"))
    b = both(lab, module)
    close(lab.run(X), here(module, b))
    monkeypatch.setattr(user, "SCALE", 5)
    close(lab.run(X), here(module, b))


def test_code_that_a_factory_is_made_by_and_that_changed_is_refused_until_it_is_registered_again(
    lab: Lab, user: ModuleType
) -> None:
    lab.register("a", "users_own:make", example=X)
    lab.run(X)
    user.SCALE = 9  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match=r"(?s)'a'.*SCALE.*Register it again"):
        lab.run(X)
    lab.register("a", "users_own:make", example=X)
    close(lab.run(X)[0], here(user.Net())[0])


BEYOND_REACH: dict[str, tuple[Callable[[ModuleType], object], str]] = {
    "a function is replaced": (lambda m: setattr(m, "helper", lambda x: x * 9), "something outside|replaced"),
    "a method is replaced": (
        lambda m: setattr(m.Net, "forward", lambda self, x: self.inner(x) * 2),
        "outside|other code",
    ),
}


@pytest.mark.parametrize("name", BEYOND_REACH)
def test_what_cannot_travel_is_said_loudly_wherever_answers_are_looked_at(
    lab: Lab, user: ModuleType, name: str
) -> None:
    change, reason = BEYOND_REACH[name]
    change(user)
    module = user.Net()
    both(lab, module)
    with pytest.warns(AnswersDiffer, match=f"(?s)OTHER THAN THE NOTEBOOK: a answers otherwise.*({reason})"):
        lab.run(X)
    assert lab.report is not None
    assert any("OTHER THAN THE NOTEBOOK: a" in note for note in lab.report.notes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AnswersDiffer)
        table = lab.compare(X, rounds=2, strategies=["sequential"])
        verdict = lab.check_numerics(X)
    assert not any(row.agrees for row in table.rows)
    assert "do not answer as this notebook does" in table.verdict
    assert not verdict.passed
    assert "OTHER THAN THE NOTEBOOK: a" in verdict.text


def of_the_notebook(text: str, **names: object) -> Any:
    """A function that the notebook itself has defined."""
    space = {"__name__": "__main__", **names}
    exec(f"def given(*args):\n    return {text}", space)
    return space["given"]


def net_of(user: ModuleType, lab: Lab) -> tuple[nn.Module, nn.Module]:
    """The network of a file, which runs as the notebook's, and the other one."""
    module = user.Net()
    b = both(lab, module)
    close(lab.run(X), here(module, b))
    return module, b


def test_a_function_of_the_notebook_that_is_put_into_a_module_or_class_of_a_file_is_followed(
    lab: Lab, user: ModuleType
) -> None:
    module, b = net_of(user, lab)
    own = user.helper
    for function in (of_the_notebook("args[0] * 9"), of_the_notebook("args[0] * 8"), own):
        user.helper = function  # type: ignore[attr-defined]
        close(lab.run(X), here(module, b))
    user.Net.forward = of_the_notebook("args[0].inner(args[1]) * 2")
    close(lab.run(X), here(module, b))


def test_a_function_that_cannot_be_sent_is_said_loudly_also_where_the_example_does_not_show_it(
    lab: Lab, user: ModuleType
) -> None:
    _held = net_of(user, lab)  # the lab itself holds no network
    alike = of_the_notebook("own(*args) if lock else None", own=user.helper, lock=threading.Lock())
    user.helper = alike  # type: ignore[attr-defined]
    with pytest.warns(AnswersDiffer, match=r"(?s)users_own\.helper.*perhaps not to others"):
        lab.run(X)


def test_a_file_that_was_edited_and_not_reloaded_is_named(lab: Lab, user: ModuleType, tmp_path: Path) -> None:
    lab.close()  # a process that has imported the file before runs what it held then, as this one does
    module = user.Net()
    (tmp_path / "users_own.py").write_text(SOURCE.replace("x * SCALE", "x * 2 * SCALE"))
    both(lab, module)
    with pytest.warns(AnswersDiffer, match=r"(?s)users_own\.helper is other code.*Reload"):
        lab.run(X)


def test_other_code_with_the_same_answer_is_said_since_its_times_are_others(
    lab: Lab, user: ModuleType, tmp_path: Path
) -> None:
    lab.close()
    module = user.Net()
    (tmp_path / "users_own.py").write_text(
        SOURCE.replace("return x * SCALE", "for _ in range(9): x = x + 0\n    return x * SCALE")
    )
    b = both(lab, module)
    close(lab.run(X), here(module, b))
    assert lab.report is not None
    assert any("users_own.helper" in note and "times" in note for note in lab.report.notes)
    job = lab.profile(budget_s=0.05)
    assert [point.name for point in job.result(timeout=60).points] == ["b"] * len(job.result().points)
    assert any("users_own.helper" in failure.message for failure in job.snapshot().failures)


def test_a_hook_on_all_modules_is_said(lab: Lab) -> None:
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, out: out * 2)
    try:
        both(lab, mlp(seed=1))
        with pytest.warns(AnswersDiffer, match="OTHER THAN THE NOTEBOOK"):
            lab.run(X)
    finally:
        handle.remove()


def test_what_is_put_into_torch_after_the_first_run_is_said(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Linear(8, 3)
    lab.register("a", module, example=X)
    lab.plan = Plan(lanes=(Lane(units=1, members=("a",)),), units=1)
    close(lab.run(X), here(module))
    linear = functional.linear
    monkeypatch.setattr(functional, "linear", lambda *given: linear(*given) * 5)
    with pytest.warns(AnswersDiffer, match="OTHER THAN THE NOTEBOOK: a"):
        lab.run(X)
    monkeypatch.setattr(functional, "linear", linear)
    close(lab.run(X), here(module))
    assert lab.report is not None
    assert not any("OTHER THAN" in note for note in lab.report.notes)
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, out: out * 2)
    try:
        with pytest.warns(AnswersDiffer, match="OTHER THAN THE NOTEBOOK: a"):
            lab.run(X)
    finally:
        handle.remove()
    close(lab.run(X), here(module))


def test_a_method_that_is_put_into_a_class_of_torch_is_followed_or_said(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = nn.Sequential(nn.Unflatten(1, (2, 4)), nn.Conv1d(2, 3, 4), nn.Flatten())
    b = both(lab, module)
    close(lab.run(X), here(module, b))
    before = nn.Conv1d._conv_forward
    monkeypatch.setattr(nn.Conv1d, "_conv_forward", lambda *given: before(*given) * 5)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", AnswersDiffer)
        got = lab.run(X)
    assert said or torch.allclose(got, here(module, b))


# --- weights and code that change after they were registered --------------------------------------------------------


class Net(nn.Module):
    gain = 1.0

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.inner = nn.Linear(8, 3)
        self.register_buffer("mean", torch.zeros(3))
        self.scale = 1.0
        self.options = {"shift": 0.0, "deep": [1.0]}
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.inner(x) * self.scale + self.options["shift"] + self.options["deep"][0] + self.mean  # type: ignore[index]
        return y * self.gain * (1 if self.inner.weight.requires_grad else 3)


def step(m: Net) -> None:
    m.train()
    optimizer = torch.optim.Adam(m.parameters(), lr=0.1)
    m(X).sum().backward()
    optimizer.step()
    m.zero_grad(set_to_none=True)


EDITS: dict[str, Callable[[Net], object]] = {
    "in place": lambda m: m.inner.bias.data.add_(0) is None or _no_grad(lambda: m.inner.bias.add_(1000)),
    "through data": lambda m: m.inner.weight.data.mul_(3),
    "one value through data": lambda m: m.inner.weight.data.view(-1).__setitem__(5, 100.0),
    "data replaced": lambda m: setattr(m.inner.weight, "data", torch.ones(3, 8)),
    "a new parameter": lambda m: setattr(m.inner, "weight", nn.Parameter(torch.ones(3, 8))),
    "a new part": lambda m: setattr(m, "inner", nn.Linear(8, 3)),
    "a state dict": lambda m: m.load_state_dict({k: v + 1 for k, v in m.state_dict().items()}),
    "a state dict assigned": lambda m: m.load_state_dict({k: v + 1 for k, v in m.state_dict().items()}, assign=True),
    "a step of training": step,
    "a buffer": lambda m: m.mean.fill_(4.0),
    "a plain attribute": lambda m: setattr(m, "scale", 2.0),
    "a value in a dict": lambda m: m.options.update(shift=3.0),
    "a value deep in a dict": lambda m: m.options["deep"].__setitem__(0, 9.0),  # type: ignore[attr-defined]
    "a hook": lambda m: m.inner.register_forward_hook(lambda module, args, out: out * 2),
    "a hook before": lambda m: m.register_forward_pre_hook(lambda module, args: (args[0] * 2,)),
    "its own forward": lambda m: setattr(m, "forward", lambda x: x[:, :3] * 0),
    "numpy's view of the weights": lambda m: m.inner.weight.detach().numpy().__setitem__((0, 0), 50.0),
    "another dtype": lambda m: m.double().float(),
    "frozen": lambda m: m.requires_grad_(False),
}


class Kinds(nn.Module):
    """Holds one value of some kind, and answers by what it says of itself."""

    def __init__(self, value: object) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :3] * zlib.crc32(told(self.value).encode()) / 2**32


class Slots:
    __slots__ = ("v",)

    def __init__(self) -> None:
        self.v = 1


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


def told(value: object) -> str:
    if isinstance(value, Slots):
        return f"slots {value.v}"
    if isinstance(value, torch.Tensor):
        return str(value.to_dense().tolist() if value.layout is not torch.strided else value.tolist())
    if isinstance(value, io.BytesIO):
        return repr(value.getvalue())
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, dict):
        return repr([(key, told(item)) for key, item in value.items()])
    if callable(value):
        return repr(getattr(value, "__qualname__", None) or (value.func, value.args))  # type: ignore[attr-defined]
    return repr(value)


VALUES: dict[str, tuple[Callable[[], object], Callable[[Kinds], object]]] = {
    "a namespace": (lambda: types.SimpleNamespace(v=1), lambda m: setattr(m.value, "v", 2)),
    "slots": (Slots, lambda m: setattr(m.value, "v", 2)),
    "a deque": (lambda: deque([1]), lambda m: m.value.append(2)),
    "a long list": (lambda: [0] * 3000, lambda m: m.value.__setitem__(2500, 1)),
    "the order of a dict": (lambda: OrderedDict(a=1, b=2), lambda m: m.value.move_to_end("a")),
    "a bytearray": (lambda: bytearray(b"ab"), lambda m: m.value.extend(b"c")),
    "a stream": (lambda: io.BytesIO(b"ab"), lambda m: m.value.write(b"xyz")),
    "an array": (lambda: array.array("d", [1.0]), lambda m: m.value.__setitem__(0, 2.0)),
    "one that is true": (lambda: 1, lambda m: setattr(m, "value", True)),
    "a negative zero": (lambda: 0.0, lambda m: setattr(m, "value", -0.0)),
    "a float for an int": (lambda: 1, lambda m: setattr(m, "value", 1.0)),
    "a member of an enum": (lambda: Colour.RED, lambda m: setattr(m, "value", Colour.BLUE)),
    "a function of torch": (lambda: torch.relu, lambda m: setattr(m, "value", torch.sigmoid)),
    "a function in a dict": (lambda: {"f": torch.relu}, lambda m: m.value.update(f=torch.sigmoid)),
    "a partial": (lambda: partial(pow, 2), lambda m: setattr(m, "value", partial(pow, 3))),
    "a fraction": (lambda: Fraction(1, 2), lambda m: setattr(m, "value", Fraction(1, 3))),
    "a path": (lambda: Path("a"), lambda m: setattr(m, "value", Path("b"))),
    "a generator": (lambda: np.random.default_rng(1), lambda m: m.value.random()),
    "a strided view": (lambda: np.zeros((4, 4))[:, ::2], lambda m: m.value.__setitem__((0, 0), 1.0)),
    "objects in an array": (lambda: np.array([1, "a"], dtype=object), lambda m: m.value.__setitem__(0, 2)),
    "a sparse tensor": (lambda: torch.eye(3).to_sparse(), lambda m: setattr(m, "value", torch.ones(3, 3).to_sparse())),
    "a tensor in a list": (lambda: [torch.zeros(2)], lambda m: m.value[0].add_(1)),
    "a set": (lambda: {1}, lambda m: m.value.add(2)),
    "a counter": (lambda: Counter("a"), lambda m: m.value.update("b")),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_value_of_any_kind_is_watched_sent_and_part_of_the_fingerprint(lab: Lab, name: str) -> None:
    make, change = VALUES[name]
    module = Kinds(make())
    b = both(lab, module)
    before = lab.ensemble.get("a").fingerprint
    assert lab.register("a", module, example=X).fingerprint == before
    close(lab.run(X), here(module, b))
    change(module)
    close(lab.run(X), here(module, b))
    assert lab.ensemble.get("a").fingerprint != before


class Transposed(nn.Module):
    """Weights that are no row of memory: turned, of every second value, one for all, conjugated."""

    def __init__(self) -> None:
        super().__init__()
        self.turned = nn.Parameter(torch.ones(3, 8).t())
        self.register_buffer("second", torch.ones(16)[::2])
        self.register_buffer("same", torch.ones(1, 1).expand(1, 8))
        self.register_buffer("conjugated", torch.ones(3, dtype=torch.complex64).conj())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.second * self.same) @ self.turned * self.conjugated.real  # type: ignore[operator]


@pytest.mark.parametrize("name", ["turned", "second", "same", "conjugated"])
def test_hidden_changes_of_weights_in_any_layout_are_seen(lab: Lab, name: str) -> None:
    module = Transposed()
    b = both(lab, module)
    close(lab.run(X), here(module, b))
    first = getattr(module, name).data
    first[(0,) * first.dim()].mul_(30)
    close(lab.run(X), here(module, b))


class ShowsARow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("row", torch.arange(8) * torch.tensor(1 + 2j))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        row: Any = self.row
        return x.sum() + (torch.view_as_real(row.resolve_conj()) if row.is_complex() else row)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "change",
    [
        lambda row: row.conj(),
        lambda row: row[:4],
        lambda row: row.view(1, 8),
        lambda row: row.view(torch.float64),
    ],
    ids=["conjugated", "cut", "of another shape", "read as other numbers"],
)
def test_a_row_of_numbers_that_is_shown_otherwise_where_it_lies_is_seen(
    lab: Lab, change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    module = ShowsARow()
    lab.register("a", module, example=X)
    lab.plan = Plan(lanes=(Lane(units=1, members=("a",)),), units=1)
    close(lab.run(X), here(module))
    module.row.data = change(module.row.data)  # type: ignore[operator,union-attr]
    close(lab.run(X), here(module))


def test_hidden_changes_of_images_weights_with_channels_last_are_seen(lab: Lab) -> None:
    module = nn.Sequential(nn.Unflatten(1, (2, 2, 2)), nn.Conv2d(2, 3, 2), nn.Flatten())
    module[1].to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    b = both(lab, module)
    close(lab.run(X), here(module, b))
    module[1].weight.data.mul_(30)  # type: ignore[operator,union-attr]
    close(lab.run(X), here(module, b))


class TwoHooks(nn.Linear):
    def __init__(self) -> None:
        super().__init__(8, 3)
        self.register_forward_hook(_doubled)
        self.register_forward_hook(_more)


def _doubled(module: nn.Module, args: object, out: torch.Tensor) -> torch.Tensor:
    return out * 2


def _more(module: nn.Module, args: object, out: torch.Tensor) -> torch.Tensor:
    return out + 1


class InOrder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.steps = {"relu": 1.0, "negative": 1.0}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for step in self.steps:
            x = x.relu() if step == "relu" else -x
        return x[:, :3]


def _last(table: dict[str, object]) -> None:
    name = next(iter(table))
    table[name] = table.pop(name)


@pytest.mark.parametrize(
    ("module", "change"),
    [
        (nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Flatten(), nn.Unflatten(1, (8,))), lambda m: _last(m._modules)),
        (TwoHooks(), lambda m: m._forward_hooks.move_to_end(next(iter(m._forward_hooks)))),
        (InOrder(), lambda m: _last(m.steps)),
    ],
    ids=["parts", "hooks", "a dictionary"],
)
def test_another_order_is_seen(lab: Lab, module: nn.Module, change: Callable[[nn.Module], None]) -> None:
    module = copy.deepcopy(module)
    lab.register("a", module, example=X)
    lab.plan = Plan(lanes=(Lane(units=1, members=("a",)),), units=1)
    close(lab.run(X), here(module))
    change(module)
    close(lab.run(X), here(module))


class OneValue(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("one", torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.one  # type: ignore[operator]


def test_an_equal_value_of_another_dtype_or_shape_is_seen(lab: Lab) -> None:
    module = OneValue()
    lab.register("a", module, example=X)
    lab.plan = Plan(lanes=(Lane(units=1, members=("a",)),), units=1)
    assert lab.run(X).dtype is torch.float32
    module.double()
    assert lab.run(X).dtype is torch.float64
    module.one = torch.ones(1, 1, 1, dtype=torch.float64)
    assert lab.run(X).shape == (1, 1, *X.shape)


@dataclass(slots=True)
class InSlots:
    act: Callable[[torch.Tensor], torch.Tensor] = lambda x: x
    scale: float = 1.0


class WithSlots(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.own = InSlots()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.own.act(x[:, :3]) * self.own.scale


def test_what_an_object_holds_in_slots_is_seen(lab: Lab) -> None:
    module = WithSlots()
    b = both(lab, module)
    close(lab.run(X), here(module, b))
    module.own.scale = 5.0
    close(lab.run(X), here(module, b))


def test_a_part_that_is_made_another_class_is_seen(lab: Lab) -> None:
    module = nn.Sequential(nn.Linear(8, 3), nn.ReLU())
    b = both(lab, module)
    close(lab.run(X), here(module, b))
    module[1].__class__ = nn.Sigmoid
    close(lab.run(X), here(module, b))


def test_a_quantized_network_that_is_loaded_anew_is_seen(lab: Lab) -> None:
    def quantized(seed: int) -> nn.Module:
        return torch.ao.quantization.quantize_dynamic(mlp(seed=seed), {nn.Linear}, torch.qint8)

    first, second = quantized(1), quantized(2)
    b = both(lab, first, quantized(3))
    close(lab.run(X), here(first, b))
    first.load_state_dict(second.state_dict())
    close(lab.run(X), here(first, b))


def test_a_network_that_is_trained_in_another_thread_is_run_as_it_was_at_some_moment(lab: Lab) -> None:
    module = Net()
    both(lab, module)
    stop = threading.Event()

    def train() -> None:
        while not stop.is_set():
            _no_grad(lambda: module.inner.bias.add_(1.0))

    trainer = threading.Thread(target=train)
    trainer.start()
    try:
        for _ in range(5):
            lab.run(X)
    finally:
        stop.set()
        trainer.join()
    close(lab.run(X)[0], here(module)[0])


CACHED = """
import functools, torch

@functools.lru_cache
def table(n):
    return torch.arange(n).float()

class Own(torch.nn.Module):
    def forward(self, x):
        return x[:, :3] + table(3)
"""


def test_a_cached_function_of_the_notebook_travels(lab: Lab) -> None:
    namespace: dict[str, object] = {"__name__": "__main__"}
    exec(CACHED, namespace)
    own: type[nn.Module] = namespace["Own"]  # type: ignore[assignment]
    module = own()
    b = both(lab, module)
    close(lab.run(X), torch.stack([module(X), b(X).detach()]))


COMPUTED = """
import functools, torch

class Marked(torch.Tensor):
    pass

class Own(torch.nn.Module):
    @functools.cached_property
    def three(self):
        return torch.arange(3.0)

    def forward(self, x):
        return x[:, :3] + self.three

class Marks(torch.nn.Module):
    def forward(self, x):
        return x[:, :3].as_subclass(Marked)
"""


@pytest.mark.parametrize("name", ["Own", "Marks"])
def test_a_class_of_the_notebook_with_a_cached_property_and_one_that_answers_with_a_class_of_its_own_travel(
    lab: Lab, name: str
) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(COMPUTED, namespace)
    module = namespace[name]()
    lab.register("a", module, example=X)
    lab.plan = Plan(lanes=(Lane(units=1, members=("a",)),), units=1)
    close(lab.run(X), module(X).as_subclass(torch.Tensor)[None])


def test_a_network_with_a_scripted_part_and_one_that_leaves_are_refused(lab: Lab) -> None:
    class Leaves(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            sys.exit(3)

    with pytest.raises(ModelError, match="SystemExit"):
        lab.register("a", Leaves(), example=X)
    with pytest.raises(UsageError, match="scripted"):
        lab.register("a", nn.Sequential(torch.jit.script(mlp(seed=1))), example=X)
    assert lab.register("a", torch.jit.script(mlp(seed=1)), example=X).kind == "ScriptModule"


def _no_grad(change: Callable[[], object]) -> None:
    with torch.no_grad():
        change()


@pytest.mark.parametrize("name", EDITS)
def test_a_live_network_is_live(lab: Lab, name: str) -> None:
    module = Net()
    b = both(lab, module)
    close(lab.run(X), here(module, b))
    EDITS[name](module)
    close(lab.run(X), here(module, b))
    close(lab.run(X), here(module, b))
    assert lab.check_numerics(X).passed


def test_a_class_that_is_given_another_forward_is_run_with_it_and_is_another_network(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = Net()
    b = both(lab, module)
    before = lab.ensemble.get("a").fingerprint
    lab.run(X)
    monkeypatch.setattr(Net, "gain", 3.0)
    close(lab.run(X), here(module, b))
    assert lab.ensemble.get("a").fingerprint != before


def test_the_fingerprint_is_of_the_code_that_runs(user: ModuleType, lab: Lab, tmp_path: Path) -> None:
    first = lab.register("a", user.Net(), example=X).fingerprint
    assert lab.register("a", user.Net(), example=X).fingerprint == first
    (tmp_path / "users_own.py").write_text(SOURCE.replace("x * SCALE", "x * SCALE + 0 * x.sin()"))
    importlib.reload(user)
    slower = lab.register("a", user.Net(), example=X).fingerprint
    assert slower != first, "a helper in another file is part of the code"
    (tmp_path / "users_own.py").write_text(SOURCE.replace("def helper(x):", "def helper(x):  # a comment\n"))
    importlib.reload(user)
    assert lab.register("a", user.Net(), example=X).fingerprint == first, "a comment is not"


def test_points_stay_known_when_only_weights_changed_and_the_plan_stays_in_force(lab: Lab) -> None:
    module = Net()
    both(lab, module)
    lab.profile(budget_s=0.05).result(timeout=60)
    plan = lab.search()
    module.inner.bias.data.add_(1.0)
    lab.run(X)
    assert lab.measurements is not None
    assert set(lab.measurements.names) == {"a", "b"}
    assert lab.plan is not None
    assert lab.plan.lanes == plan.lanes
    assert lab.report is not None
    assert not any("profile and search again" in note for note in lab.report.notes)


def test_a_network_that_the_user_lets_go_of_is_not_held_by_the_lab(lab: Lab) -> None:
    import gc
    import weakref

    module = Net()
    known, weights = weakref.ref(module), weakref.ref(module.inner.weight)
    both(lab, module)
    wanted = lab.run(X)
    del module
    gc.collect()
    assert known() is None
    assert weights() is None
    close(lab.run(X), wanted)


# --- state ----------------------------------------------------------------------------------------------------------


class RunningMean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.mean.mul_(0.9).add_(x[:, :3].mean(0), alpha=0.1)
        return x[:, :3] - self.mean


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x[:, :3] + self.calls


class Lists(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(1)
        return x[:, :3] * len(self.seen)


class Queues(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen: deque[float] = deque(maxlen=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(float(x.sum()))
        return x[:, :3] + sum(self.seen)


class Orders(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cache: OrderedDict[int, torch.Tensor] = OrderedDict()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.cache[len(self.cache)] = x.detach().clone()
        return sum(self.cache.values())[:, :3]  # type: ignore[index]


class Hidden(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.cell = nn.GRUCell(8, 3)
        self.state: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.state = self.cell(x, self.state)
        return self.state


class Statistics:
    def __init__(self) -> None:
        self.total = 0.0


class HoldsAnObject(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.statistics = Statistics()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.statistics.total += 1.0
        return x[:, :3] + self.statistics.total


class OwnGenerator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator = np.random.default_rng(5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :3] + float(self.generator.random())


class TrainsInForward(nn.Module):
    """Batch norm that goes on learning its statistics in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.batch_norm(x, self.norm.running_mean, self.norm.running_var, training=True, momentum=0.5)
        return y[:, :3] + self.norm.running_mean[:3]  # type: ignore[index]


STATEFUL = (
    RunningMean,
    Counts,
    Lists,
    Queues,
    Orders,
    Hidden,
    HoldsAnObject,
    OwnGenerator,
    TrainsInForward,
)


@pytest.mark.parametrize("kind", STATEFUL)
def test_the_first_run_meets_what_was_registered_and_measuring_changes_nothing(lab: Lab, kind: type[nn.Module]) -> None:
    module = kind()
    mine = copy.deepcopy(module).eval()
    both(lab, module)
    assert any("keeps state between calls" in note for note in lab.ensemble.get("a").notes)
    with torch.no_grad():
        wanted = [mine(X).clone() for _ in range(6)]
    got = [lab.run(X)[0] for _ in range(2)]
    table = lab.compare(X, rounds=2, strategies=["sequential", "unlimited"])
    got += [lab.run(X)[0] for _ in range(2)]
    assert lab.check_numerics(X).passed
    lab.profile(budget_s=0.02).result(timeout=60)
    got += [lab.run(X)[0] for _ in range(2)]
    for answer, want in zip(got, wanted, strict=True):
        close(answer, want)
    assert all(row.agrees for row in table.rows)


class RemembersTheLargest(nn.Module):
    """Changes for large inputs alone, so that its example does not show that it keeps state."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if float(x.max()) > 100:
            self.largest = float(x.max())
        return x[:, :3] + self.largest


class AddsUpLargeOnes(nn.Module):
    """The same in a buffer, and in a counter outside of the network."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if float(x.max()) > 100:
            self.total += x.max()
            LARGE[0] += 1
        return x[:, :3] + self.total + LARGE[0]


LARGE = [0]


@pytest.mark.parametrize("kind", [RemembersTheLargest, AddsUpLargeOnes])
def test_inputs_of_measuring_never_stay_in_a_network_whose_example_showed_no_state(
    lab: Lab, kind: type[nn.Module]
) -> None:
    LARGE[0] = 0
    module = kind()
    both(lab, module)
    assert not lab.ensemble.get("a").traits.keeps_state
    got = [lab.run(x)[0] for x in (X, X + 200)]
    table = lab.compare(X + 300, rounds=1, strategies=["sequential"])
    got.append(lab.run(X)[0])
    lab.check_numerics(X + 400)
    got.append(lab.run(X)[0])
    assert LARGE == [0], "the notebook's own"
    with torch.no_grad():
        wanted = [module(x) for x in (X, X + 200, X, X)]
    for answer, want in zip(got, wanted, strict=True):
        close(answer, want)
    assert all(row.agrees for row in table.rows), "it is measured as it was registered"
    assert lab.report is not None
    note = next(note for note in lab.report.notes if "its example did not show" in note)
    assert note.startswith("a keeps state between calls")
    assert "put back" in note
    assert "largest" in note or "total" in note


def test_a_network_that_was_measured_and_keeps_no_state_is_not_said_to(lab: Lab) -> None:
    both(lab, nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Linear(8, 3)))
    lab.run(X)
    lab.compare(X + 300, rounds=1, strategies=["sequential"])
    lab.run(X[:4])
    lab.check_numerics(X + 400)
    lab.run(X)
    assert lab.report is not None
    assert not any("state" in note for note in lab.report.notes)


class CountsOnItsFunction(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        function: Any = CountsOnItsFunction.forward
        function.calls = getattr(function, "calls", 0) + 1
        return x[:, :3] * function.calls


class CountsInAClosure(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        calls = [0]

        def counted(x: torch.Tensor) -> torch.Tensor:
            calls[0] += 1
            return x[:, :3] * calls[0]

        self.counted = counted

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.counted(x)  # type: ignore[no-any-return]


DRAWS = torch.Generator().manual_seed(5)


class DrawsOutside(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :3] * torch.rand((), generator=DRAWS)


@pytest.mark.parametrize("kind", [CountsOnItsFunction, CountsInAClosure, DrawsOutside])
def test_the_users_state_outside_a_network_is_where_it_was_and_lanes_begin_there(
    lab: Lab, kind: type[nn.Module]
) -> None:
    module = kind()
    both(lab, module)
    got = [lab.run(X)[0] for _ in range(2)]
    lab.compare(X, rounds=1, strategies=["sequential"])
    assert lab.check_numerics(X).passed
    got += [lab.run(X)[0] for _ in range(2)]
    assert lab.report is not None
    assert not any("changed" in note for note in lab.report.notes)
    with torch.no_grad():
        wanted = [module(X) for _ in range(4)]
    for answer, want in zip(got, wanted, strict=True):
        close(answer, want)


def test_networks_that_share_state_say_with_whom_when_registered_and_in_reports(lab: Lab) -> None:
    shared = Counts()
    lab.register("a", shared, example=X)
    lab.register("c", mlp(seed=7))
    assert lab.ensemble.get("a").shares == ()
    assert any("shares state with a" in note for note in lab.register("b", shared).notes)
    assert any("shares state with b" in note for note in lab.ensemble.get("a").notes)
    assert not any("share" in note for note in lab.ensemble.get("c").notes)
    lab.unregister("c")
    lab.plan = TWO
    lab.run(X)
    assert lab.report is not None
    assert any("shared by a and b" in note and "each has its own" in note for note in lab.report.notes)
    lab.plan = ONE
    lab.run(X)
    told = [note for note in lab.report.notes if "shared by a and b" in note]
    assert [("but for what modules hold that one lane imports for several" in note) for note in told] == [True]
    lab.register("b", mlp(seed=7))
    lab.plan = TWO
    lab.run(X)
    assert not any("share" in note for note in (*lab.ensemble.get("a").notes, *lab.report.notes))


def test_a_network_that_keeps_no_state_is_not_said_to(lab: Lab) -> None:
    module = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.ReLU(inplace=True), nn.Linear(8, 3))
    both(lab, module)
    assert not any("state" in note for note in lab.ensemble.get("a").notes)


CALLS = [0]


class CountsOutside(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        CALLS[0] += 1
        return x[:, :3] + 0.0


def test_a_counter_outside_the_network_is_its_state_and_no_change_of_it(lab: Lab) -> None:
    both(lab, CountsOutside())
    assert any("keeps state" in note for note in lab.ensemble.get("a").notes)
    lab.run(X)
    CALLS[0] += 5
    lab.run(X)
    assert lab.report is not None
    assert not any("changed" in note for note in lab.report.notes)


class Refuses(nn.Module):
    """Refuses batches of more than 16 rows while it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 3)
        self.strict = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.strict and len(x) > 16:
            raise ValueError("too many rows")
        return self.fc(x)  # type: ignore[no-any-return]


MORE = torch.randn(17, 8, generator=torch.Generator().manual_seed(1))


def mended_by_an_attribute(module: Refuses) -> None:
    module.strict = False


def mended_by_another_method(module: Refuses) -> None:
    module.forward = module.fc.forward  # type: ignore[method-assign]


class AnyRows(Refuses):
    forward = lambda self, x: self.fc(x)  # noqa: E731  another method, wherever it comes from


def mended_by_another_class(module: Refuses) -> None:
    module.__class__ = AnyRows


@pytest.mark.parametrize(
    "mend",
    [mended_by_an_attribute, mended_by_another_method, mended_by_another_class],
    ids=["attribute", "method", "class"],
)
def test_a_network_that_failed_and_was_mended_answers_at_the_next_run(
    lab: Lab, mend: Callable[[Refuses], None]
) -> None:
    module = Refuses()
    b = both(lab, module)
    close(lab.run(X), here(module, b))
    with pytest.raises(ModelError, match="too many rows"):
        lab.run(MORE)
    with pytest.raises(ModelError, match="too many rows"):  # as long as nothing has changed, it does so again
        lab.run(MORE)
    mend(module)
    close(lab.run(MORE), here(module, b, x=MORE))


def test_a_network_that_was_left_out_and_was_mended_is_no_longer_left_out(lab: Lab) -> None:
    module = Refuses()
    b = both(lab, module)
    lab.combine("mean")
    close(lab.run(MORE, on_failure="leave-out"), here(b, x=MORE)[0])
    module.strict = False
    close(lab.run(MORE, on_failure="leave-out"), here(module, b, x=MORE).mean(0))


def test_a_member_that_fails_on_its_own_example_since_it_changed_is_left_out_where_that_is_asked_for(lab: Lab) -> None:
    module = Refuses()
    module.strict = False
    b = both(lab, module)
    lab.combine("mean")
    close(lab.run(MORE), here(module, b, x=MORE).mean(0))
    module.forward = None  # type: ignore[assignment]
    with pytest.raises(ModelError):
        lab.run(MORE)
    for _ in range(2):
        close(lab.run(MORE, on_failure="leave-out"), here(b, x=MORE)[0])
        assert lab.report is not None
        assert lab.report.answered is not None
        assert [(one.name, one.why) for one in lab.report.answered.missing] == [("a", "failed")]
    del module.forward
    close(lab.run(MORE, on_failure="leave-out"), here(module, b, x=MORE).mean(0))


def test_what_the_session_has_set_since_is_there_at_the_next_run_also_where_lanes_failed_without_it(lab: Lab) -> None:
    module = NeedsFlag()
    b = both(lab, module)
    close(lab.run(X), here(module, b))
    with pytest.raises(ModelError, match="no flag"):
        lab.run(MORE)
    os.environ["ESEN_LAB_TEST_FLAG"] = "there"
    try:
        close(lab.run(MORE), here(module, b, x=MORE))
    finally:
        del os.environ["ESEN_LAB_TEST_FLAG"]


class NeedsFlag(nn.Module):
    """Takes more than 16 rows only with a variable in the environment."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 16 and "ESEN_LAB_TEST_FLAG" not in os.environ:
            raise ValueError("no flag")
        return x[:, :3] * 2


# --- random numbers -------------------------------------------------------------------------------------------------


class MonteCarlo(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.dropout(torch.ones_like(x), 0.5, training=True)


class DrawsFromNumpy(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 0 + torch.from_numpy(np.random.rand(*x.shape)).float()


class DrawsFromPython(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 0 + random.random()


class Noise(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.randn_like(x)


@pytest.mark.parametrize("kind", [MonteCarlo, DrawsFromNumpy, DrawsFromPython, Noise])
def test_members_draw_apart_and_a_seed_repeats_a_run_whatever_the_plan(lab: Lab, kind: type[nn.Module]) -> None:
    both(lab, kind(), kind())
    found = []
    for plan in (TWO, ONE, Plan(lanes=(Lane(units=1, members=("b", "a"), mode="threads"),), units=1)):
        lab.plan = plan
        torch.manual_seed(0)
        first, second = lab.run(X), lab.run(X)
        torch.manual_seed(0)
        assert torch.equal(lab.run(X), first)
        assert not torch.equal(first, second), "the next run draws other numbers"
        assert not torch.equal(first[0], first[1]), "members draw apart"
        found.append(first)
    assert all(torch.equal(found[0], other) for other in found)
    # With peers, of which one compiles for seconds, for one of these kinds.
    table = lab.compare(X, rounds=2, strategies=None if kind is Noise else list(STRATEGIES))
    assert all(row.agrees for row in table.rows if row.applicable)
    assert "not applicable" in table.row("vmap").outputs
    assert lab.check_numerics(X).passed


def test_registering_and_measuring_draw_nothing_from_the_session(lab: Lab) -> None:
    def session() -> tuple[float, float, float]:
        return float(torch.rand(())), random.random(), float(np.random.rand())

    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    wanted = session()
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    both(lab, MonteCarlo(), mlp(seed=7, outputs=8))
    lab.profile(budget_s=0.02).result(timeout=60)
    assert session() == wanted


# --- gradients and modes --------------------------------------------------------------------------------------------


class Forces(nn.Module):
    """The gradient of an energy, as networks for molecules answer with."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.energy = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            x = x.detach().clone().requires_grad_()
            return torch.autograd.grad(self.energy(x).sum(), x)[0][:, :3]


class AsksForGrad(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :3] * (2.0 if torch.is_grad_enabled() else 1.0)


class AsksForInference(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :3] * (2.0 if torch.is_inference_mode_enabled() else 1.0)


@pytest.mark.parametrize("kind", [Forces, AsksForGrad, AsksForInference])
def test_a_network_is_called_with_gradients_as_it_needs(lab: Lab, kind: type[nn.Module]) -> None:
    module = kind()
    b = both(lab, module)
    wanted = torch.stack([copy.deepcopy(module).eval()(X).detach(), b(X).detach()])
    y = lab.run(X)
    close(y, wanted)
    assert not y.requires_grad


def test_a_network_made_in_inference_mode_is_run_like_any_other(lab: Lab) -> None:
    with torch.inference_mode():
        module = mlp(seed=4)
        b = both(lab, module)
        y = lab.run(X)
    with torch.inference_mode():
        close(y, torch.stack([module(X), b(X)]))


# --- identity -------------------------------------------------------------------------------------------------------


def test_three_networks_of_one_class_of_the_notebook_are_stacked(lab: Lab, tmp_path: Path) -> None:
    namespace: dict[str, object] = {"__name__": "__main__"}
    exec(
        "import torch\nclass Own(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.inner = torch.nn.Linear(8, 3)\n    def forward(self, x):\n        return self.inner(x)\n",
        namespace,
    )
    own: type[nn.Module] = namespace["Own"]  # type: ignore[assignment]
    for name in "abc":
        lab.register(name, own(), example=X)
    row = lab.compare(X, rounds=2, strategies=["vmap"]).row("vmap")
    assert not row.failed
    assert row.agrees


def test_a_way_to_run_that_does_not_exist_here_is_not_called_failed(lab: Lab) -> None:
    both(lab, mlp(seed=1), Counts())
    row = lab.compare(X, rounds=2, strategies=["vmap"]).row("vmap")
    assert not row.applicable
    assert row.outputs == "not applicable"


# --- the panel --------------------------------------------------------------------------------------------------------


def test_the_panel_says_that_lanes_answer_otherwise(lab: Lab, user: ModuleType) -> None:
    from esen_lab.ui.panel.sections import sections

    user.helper = lambda x: x * 9  # type: ignore[attr-defined]
    both(lab, user.Net())
    with pytest.warns(AnswersDiffer):
        lab.run(X)
    answers = sections(lab, cell_busy=False)["plan"]["answers"]
    assert answers["state"] == "wrong"
    assert "OTHER THAN THE NOTEBOOK: a" in answers["text"]


class DropsIfMany(nn.Module):
    """Draws random numbers for batches that are larger than its example."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(self.inner(x), 0.5, training=len(x) > 4)


@pytest.mark.parametrize("options", [{}, {"on_failure": "leave-out"}, {"uncertainty": True}])
def test_random_numbers_that_the_example_did_not_show_are_the_seeds_too(lab: Lab, options: dict[str, Any]) -> None:
    for name in "ab":
        lab.register(name, DropsIfMany(), example=torch.randn(4, 8))
    lab.combine("mean")

    def seeded(**more: Any) -> torch.Tensor:
        torch.manual_seed(0)
        found = lab.run(x, **more)
        return found.answer if "uncertainty" in more else found

    x = torch.randn(16, 8)
    first = seeded(**options)
    assert lab.report is not None
    assert any("draws random numbers, which its example did not show" in note for note in lab.report.notes)
    assert torch.equal(seeded(), first)
    assert not torch.equal(lab.run(x), first)


def test_a_call_that_is_made_again_for_a_change_draws_once_from_the_session(lab: Lab) -> None:
    nets = {name: DropsIfMany() for name in "ab"}
    for name, net in nets.items():
        lab.register(name, net, example=torch.randn(4, 8))
    lab.run(torch.randn(4, 8))
    with torch.no_grad():
        nets["a"].inner.weight += 1.0
    x = torch.randn(16, 8)
    answers = []
    for _ in range(2):
        torch.manual_seed(0)
        answers.append(lab.run(x))
    assert torch.equal(*answers)


def test_a_call_that_fails_before_it_draws_leaves_no_seed_of_an_earlier_one(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.register("a", DropsIfMany(), example=torch.randn(16, 8))
    lab.run(torch.randn(16, 8))
    warm = lab._runtime.state.warm
    assert warm is not None
    assert warm.seed is not None

    def fails(*_: object) -> None:
        raise ModelError("It fails before it draws")

    monkeypatch.setattr(warm, "_in_lanes", fails)
    with pytest.raises(ModelError):
        warm.run(torch.randn(16, 8))
    assert warm.seed is None, "or what is run again for a change would repeat the numbers of the call before"


def test_what_another_thread_has_set_reaches_the_lanes_in_its_own_turn_alone(lab: Lab) -> None:
    lab.register("a", mlp(), example=torch.randn(4, 8))
    x = torch.randn(4, 8)
    lab.run(x)
    lanes_have = lab._runtime.fork_server.settings
    answers: list[torch.Tensor] = []

    async def awaited() -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            answer: torch.Tensor = await lab.arun(x)
            return answer

    def others() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            lab.register("b", mlp(seed=1))
        answers.append(asyncio.run(awaited()))

    with lab._runtime.turns.turn("a run of this thread"):
        thread = threading.Thread(target=others)
        thread.start()
        until(lambda: lab.status().waiting)
        assert lab._runtime.fork_server.settings is lanes_have
    thread.join()
    assert answers[0].dtype is torch.bfloat16
    assert lab.run(x).dtype is torch.float32


def test_plans_are_measured_under_what_was_set_where_that_began(lab: Lab) -> None:
    both(lab, mlp())
    runs = lab._runtime.lane_runs(lab.ensemble, X, 1)
    with torch.autocast("cpu", torch.bfloat16):
        lab.run(X)
    fork_server = lab._runtime.fork_server
    before = fork_server.settings
    assert before is not None
    assert before.values["autocast on cpu"]
    with contextlib.closing(runs.of(ONE)) as reports:
        next(reports)
        assert fork_server.settings is not None
        assert not fork_server.settings.values["autocast on cpu"]
    assert fork_server.settings is before


class AsksForGradients(nn.Module):
    """Answers otherwise where gradients are not recorded."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :3] * (2.0 if torch.is_grad_enabled() else 3.0)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_network_that_answers_otherwise_without_gradients_is_said_to_where_they_are_off(
    lab: Lab, mode: Callable[[], contextlib.AbstractContextManager[None]]
) -> None:
    b = both(lab, AsksForGradients())
    close(lab.run(X), here_as_it_is(AsksForGradients(), b))
    with mode(), pytest.warns(AnswersDiffer, match="a answers otherwise in its lane"):
        lab.run(X)
    close(lab.run(X), here_as_it_is(AsksForGradients(), b))
    assert lab.report is not None
    assert not any("NOTEBOOK" in note for note in lab.report.notes)


def here_as_it_is(*modules: nn.Module) -> torch.Tensor:
    """What this process answers as it is set."""
    return torch.stack([module(X) for module in modules]).detach()


def test_a_network_that_is_registered_again_is_called_as_it_has_to_be_called_now(lab: Lab) -> None:
    module = AsksForGradients()
    b = both(lab, module)
    close(lab.run(X), here_as_it_is(module, b))
    with torch.no_grad():
        lab.register("a", module)
        close(lab.run(X), here_as_it_is(module, b))


CELL_OF_A_FILE = """
import torch
import users_own

class Own(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(8, 3)

    def forward(self, x):
        return users_own.helper(self.inner(x))

net = Own()
"""


def test_what_a_cell_reads_of_an_imported_module_is_followed_and_its_weights_stay(lab: Lab, user: ModuleType) -> None:
    lab.register("a", CELL_OF_A_FILE, example=X)
    lab.register("b", mlp(seed=7))
    lab.plan = TWO
    first = lab.run(X)[0].clone()
    for scale in (5, 7):
        user.SCALE = scale  # type: ignore[attr-defined]
        close(lab.run(X)[0], first * scale)
        assert lab.report is not None
        assert any("a has changed since it was registered (the global name SCALE" in n for n in lab.report.notes)
    lab.run(X)
    assert not any("has changed" in note for note in lab.report.notes)


GENERATOR = torch.Generator().manual_seed(3)


class DrawsFromOne(nn.Module):
    """Draws from a generator that others draw from too."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :3] + torch.rand(3, generator=GENERATOR)


def test_state_that_members_of_one_lane_share_is_that_of_calls_in_turn_and_no_reason_to_warn(lab: Lab) -> None:
    own = torch.Generator()
    own.set_state(GENERATOR.get_state())
    both(lab, DrawsFromOne(), DrawsFromOne(), plan=ONE)
    wanted = torch.stack([X[:, :3] + torch.rand(3, generator=own) for _ in "ab"])
    close(lab.run(X), wanted)
    assert lab.ensemble.get("a").traits.steady, "it is compared with what the notebook answers"
    lab.plan = TWO
    assert lab.check_numerics(runs=1).wrong == ()
