"""What lanes hold is a copy, and it answers as the network itself does wherever that keeps what it computes with."""

from __future__ import annotations

import asyncio
import functools
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from esen_lab import Lab, Plan
from esen_lab.devices import open_device
from esen_lab.errors import ModelError, UsageError
from esen_lab.export import Running
from esen_lab.export.bundle import load_bundle
from esen_lab.planner.plan import Lane
from esen_lab.run import Executor, ForkServer
from esen_lab.run.fidelity import AnswersDiffer

X = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
INPUTS = (X, X * 2 + 1, X * -1 + 3, X * 0.5 - 2, X)
ALONE = Plan(lanes=(Lane(units=1, members=("a",)),), units=1)


@pytest.fixture(autouse=True)
def _no_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", AnswersDiffer)
        yield


def load(folder: Path) -> Running:
    """As the exported script does."""
    plan, ensemble = load_bundle(folder)
    return Running.start(plan, ensemble, open_device("cpu"), fork_server=ForkServer(), start=Executor.start)


def answers_alike(lab: Lab, make: Callable[[], nn.Module]) -> nn.Module:
    """One network of two that are made alike is called here, the other one is registered and run: that one."""
    mine, module = make(), make()
    lab.register("a", module, example=X)
    lab.plan = ALONE
    if mine.training:
        mine.eval()
    for x in INPUTS:
        with torch.no_grad():
            wanted = mine(x).detach().clone()
        torch.testing.assert_close(lab.run(x)[0], wanted)
    return module


# --- what a network holds ---------------------------------------------------------------------------------------------


class ScaledWeights(nn.Module):
    """Keeps a scale where quantized networks do: on the weight itself."""

    def __init__(self, kind: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.w: Any = kind(torch.ones(8))
        self.w.scale = 3.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.w * getattr(self.w, "scale", 1.0)


@pytest.mark.parametrize("kind", [nn.Parameter, nn.Buffer, torch.clone])
def test_what_a_weight_has_as_attributes_is_followed_and_exported(
    lab: Lab, kind: Callable[[torch.Tensor], torch.Tensor], tmp_path: Path
) -> None:
    module = answers_alike(lab, lambda: ScaledWeights(kind))
    before = lab.ensemble.get("a").fingerprint
    module.w.scale = 7.0
    torch.testing.assert_close(lab.run(X)[0], X * 7)
    assert lab.ensemble.get("a").fingerprint != before
    with load(lab.export(tmp_path / "plan.py").folder) as exported:
        torch.testing.assert_close(exported(X)[0], X * 7)


class SharedMemory(nn.Module):
    """Parameters that show parts of one row, which calls change."""

    def __init__(self) -> None:
        super().__init__()
        flat = torch.ones(16)
        self.register_buffer("flat", flat)
        self.a, self.b = nn.Parameter(flat[:8]), nn.Parameter(flat[8:])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.flat.mul_(1.5)  # type: ignore[operator]
        return x * self.a + self.b


def test_parameters_that_show_the_memory_of_others_go_on_doing_so(lab: Lab) -> None:
    answers_alike(lab, SharedMemory)


# --- parts in another mode than the whole ----------------------------------------------------------------------------


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(8), nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.norm(x))  # type: ignore[no-any-return]


def adapting() -> nn.Module:
    """Batch norm that goes on learning, the rest in eval mode."""
    module = Normed().eval()
    module.norm.train()
    return module


def test_a_part_that_is_in_training_mode_after_eval_is_run_so(lab: Lab) -> None:
    answers_alike(lab, adapting)


def test_dropout_that_is_turned_on_after_eval_draws_and_may_be_turned_later(lab: Lab, tmp_path: Path) -> None:
    module = Normed().eval()
    module.drop.train()
    lab.register("a", module, example=X)
    lab.plan = ALONE

    def dropped(y: torch.Tensor) -> int:
        return int((y == 0).sum())

    assert dropped(lab.run(X))
    with load(lab.export(tmp_path / "plan.py").folder) as exported:
        assert dropped(exported(X))
    module.eval()
    assert not dropped(lab.run(X))
    assert lab.report is not None
    assert any("which of its parts are in training mode" in note for note in lab.report.notes)
    module.train()  # to be trained on: lanes stay in eval mode
    assert not dropped(lab.run(X))
    assert not any("changed" in note for note in lab.report.notes)
    module.eval()
    module.drop.train()
    assert dropped(lab.run(X))


def wrapped() -> nn.Module:
    """A network in training mode whose `forward` is a function around the one it had."""
    module = Normed()
    nn.init.constant_(module.norm.weight, 3.0)
    inner = module.forward

    def doubled(x: torch.Tensor) -> torch.Tensor:
        return inner(x) * 2

    module.forward = doubled  # type: ignore[method-assign]
    return module


def test_a_function_around_the_networks_own_forward_runs_the_copy_in_eval_mode(lab: Lab) -> None:
    module = answers_alike(lab, wrapped)
    assert module.training
    assert module.norm.running_mean.abs().sum() == 0  # type: ignore[union-attr, operator]


class NotCopied(nn.Sequential):
    """A part that a copy of the whole shares."""

    def __deepcopy__(self, memo: object) -> NotCopied:
        return self


def test_a_part_that_is_not_to_be_copied_stays_the_users_own(lab: Lab) -> None:
    def make() -> nn.Module:
        return nn.Sequential(NotCopied(nn.BatchNorm1d(8), nn.Dropout(0.5)))

    module = answers_alike(lab, make)
    assert module[0].training  # type: ignore[index]


# --- inputs that a network keeps -------------------------------------------------------------------------------------


class Difference(nn.Module):
    """Of one input and the one before."""

    def __init__(self, part: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.part = part
        self.before: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x * 1 if self.before is None else x - self.before
        self.before = self.part(x)
        return y


class LastThree(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen: deque[torch.Tensor] = deque(maxlen=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x)
        return sum(self.seen)  # type: ignore[return-value]


@pytest.mark.parametrize(
    "make",
    [lambda: Difference(lambda x: x), lambda: Difference(lambda x: x[:1]), LastThree],
    ids=["itself", "a view of it", "several"],
)
def test_an_input_that_a_network_keeps_is_what_it_was(lab: Lab, make: Callable[[], nn.Module]) -> None:
    answers_alike(lab, make)


# --- what no copy can have is refused --------------------------------------------------------------------------------


BY_NUMBER: dict[int, float] = {}
BY_NETWORK: weakref.WeakKeyDictionary[nn.Module, float] = weakref.WeakKeyDictionary()


class ByNumber(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * BY_NUMBER.get(id(self), 1.0)


class ByNetwork(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * BY_NETWORK.get(self, 1.0)


class Remembers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = 1.0

    @functools.lru_cache  # noqa: B019  what is tested
    def mask(self, count: int) -> torch.Tensor:
        return torch.ones(count) * self.scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.mask(x.shape[1])


class LeavesOut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = 5.0

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "scale": 1.0}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


def by_number() -> nn.Module:
    module = ByNumber()
    BY_NUMBER[id(module)] = 4.0
    return module


def by_network() -> nn.Module:
    module = ByNetwork()
    BY_NETWORK[module] = 4.0
    return module


def remembers() -> nn.Module:
    module = Remembers()
    module.mask(8)
    module.scale = 9.0
    return module


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("make", [by_number, by_network, remembers, LeavesOut])
def test_a_network_whose_copy_answers_otherwise_is_refused(
    lab: Lab, make: Callable[[], nn.Module], training: bool
) -> None:
    module = make().train(training)
    with pytest.raises(UsageError, match="A copy of a sub-model answers as it does itself"):
        lab.register("a", module, example=X)


def test_a_cached_value_that_is_stale_here_is_refused_when_it_became_so(lab: Lab) -> None:
    module = Remembers().eval()
    lab.register("a", module, example=X)
    lab.plan = ALONE
    lab.run(X)
    module.scale = 2.0
    with pytest.raises(UsageError, match="A copy of a sub-model answers as it does itself"):
        lab.run(X)


class Identity(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a + b if a is b else a - b


class Gain(nn.Module):
    def forward(self, x: Any) -> torch.Tensor:
        return x * getattr(x, "gain", 1.0)  # type: ignore[no-any-return]


def test_what_depends_on_the_identity_or_attributes_of_its_input_is_refused(lab: Lab) -> None:
    with pytest.raises(UsageError, match="where the example is the same tensor more than once"):
        lab.register("a", Identity(), example=(X, X))
    lab.register("a", Identity(), example=(X, X.clone()))
    x: Any = X.clone()
    x.gain = 3.0
    with pytest.raises(UsageError, match=r"one with attributes of its own \(gain\)"):
        lab.register("b", Gain(), example=x)
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    row = X.reshape(2, 8, 8)
    lab.unregister("a")
    lab.register("a", attention, example=(row, row, row))


class Ends(nn.Module):
    """Counts its calls, and raises for large inputs what is no `Exception`."""

    def __init__(self, kind: type[BaseException]) -> None:
        super().__init__()
        self.kind = kind
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if float(x.max()) > 100:
            raise self.kind
        return x + self.calls


@pytest.mark.parametrize("kind", [GeneratorExit, asyncio.CancelledError])
def test_whatever_a_member_raises_ends_no_lane(lab: Lab, kind: type[BaseException]) -> None:
    lab.register("a", Ends(kind), example=X)
    lab.plan = ALONE
    torch.testing.assert_close(lab.run(X)[0], X + 1)
    with pytest.raises(ModelError, match=f"'a' raised .*{kind.__name__}"):
        lab.run(X + 1000)
    torch.testing.assert_close(lab.run(X)[0], X + 3)


def test_a_parametrized_lstm_goes_to_lanes(lab: Lab) -> None:
    module = nn.LSTM(8, 3, batch_first=True)
    nn.utils.parametrize.register_parametrization(module, "weight_hh_l0", Doubled())
    module.eval()
    row = X.reshape(2, 8, 8)
    lab.register("a", module, example=row)
    lab.plan = ALONE
    with torch.no_grad():
        wanted = module(row)[0]
    torch.testing.assert_close(lab.run(row)[0][0], wanted)


class Doubled(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * 2
