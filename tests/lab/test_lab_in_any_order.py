"""A lab's methods in any order, and from several threads: answers are right, and what fails is an `EsenError`.

The orders are random and belong to their seed, so that a failure can be had again.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from choosing_lab import with_points
from models import mlp
from torch import nn

from esen_lab import Lab, Plan
from esen_lab.devices import CpuDevice
from esen_lab.errors import EsenError, ModelError
from esen_lab.planner.plan import Lane

X = torch.randn(4, 8)
THREE, TWO = CpuDevice(cores=[(0,), (0,), (0,)]), CpuDevice(cores=[(0,), (0,)])
TOO_LARGE = 90.0


class Picky(nn.Module):
    """Raises for an input that begins with a large number."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.inner = mlp(seed=seed)
        self.limit = TOO_LARGE

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if float(x.flatten()[0]) > self.limit:
            raise ValueError("too large")
        output: torch.Tensor = self.inner(x)
        return output


class Somebody:
    """Does what comes to mind with a lab, and knows what its answers must be."""

    def __init__(self, lab: Lab, folder: Path, seed: int) -> None:
        self.lab = lab
        self.folder = folder
        self.mind = random.Random(seed)
        self.modules: dict[str, nn.Module] = {}
        self.rule = "mean"

    @property
    def names(self) -> list[str]:
        return list(self.lab.ensemble.names)

    def registers(self) -> None:
        name, seed = self.mind.choice("abcd"), self.mind.randrange(1000)
        module = self.mind.choice([mlp(seed=seed), Picky(seed)])
        self.lab.register(name, module, example=X)
        self.modules[name] = module

    def unregisters(self) -> None:
        name = self.mind.choice("abcd")
        self.lab.unregister(name)
        del self.modules[name]

    def changes(self) -> None:
        """A registered network, behind the lab's back."""
        if not self.modules:
            return
        module = self.modules[self.mind.choice(sorted(self.modules))]
        weights = self.mind.choice([one for one in module.modules() if isinstance(one, nn.Linear)])
        factor = self.mind.uniform(0.5, 2.0)

        def counted() -> None:
            with torch.no_grad():
                weights.weight.mul_(factor)

        def replaced() -> None:
            weights.bias = nn.Parameter(weights.bias.detach() * factor)

        def limited() -> None:
            module.limit = self.mind.choice([TOO_LARGE, 2 * TOO_LARGE])  # type: ignore[assignment]

        self.mind.choice([counted, lambda: weights.weight.data.mul_(factor), replaced, limited])()

    def combines(self) -> None:
        rule = self.mind.choice(["mean", "stack"])
        self.lab.combine(rule)
        self.rule = rule

    def gets_points(self) -> None:
        def table() -> list[float]:
            return sorted((self.mind.uniform(1e-3, 1e-2) for _ in range(self.lab.device.units)), reverse=True)

        with_points(self.lab, {name: table() for name in self.names})

    def profiles(self) -> None:
        job = self.lab.profile(budget_s=0.01, shares=[self.mind.randint(1, 3)], fresh=self.mind.random() < 0.3)
        if self.mind.random() < 0.7:
            job.result(timeout=60)
        else:
            job.cancel()

    def searches(self) -> None:
        limits = self.mind.choice([None, {"max_lanes": 1}, {"one_each": True}])
        self.lab.search(self.mind.choice(["exact", "equal", "sequential", "optuna"]), limits=limits)

    def searches_in_the_background(self) -> None:
        job = self.lab.start_search(time_limit_s=1.0)
        if self.mind.random() < 0.5:
            job.cancel()

    def plans_by_hand(self) -> None:
        names, units = self.names, self.lab.device.units
        self.mind.shuffle(names)
        count = self.mind.randint(1, max(1, min(len(names), units)))
        lanes = [Lane(units=units // count, members=tuple(names[i::count])) for i in range(count) if names[i::count]]
        self.lab.plan = Plan(lanes=tuple(lanes), units=units)

    def runs(self) -> None:
        x = torch.randn(self.mind.choice([1, 4, 9]), 8)
        if self.mind.random() < 0.15:
            x[0, 0] = TOO_LARGE + 1
        refused = {name for name in self.names if self._refuses(name, x)}
        try:
            found = self.lab.run(x)
        except ModelError as problem:
            if not any(repr(name) in str(problem) for name in refused):
                pytest.fail(f"{refused or 'nobody'} raises here, and in a lane: {problem}")
            raise
        assert self.lab.report is not None
        ran = {span.name for span in self.lab.report.spans}  # a background search may change the plan meanwhile
        assert not ran & refused
        with torch.inference_mode():
            outputs = torch.stack([self.modules[name](x) for name in self.names if name in ran])
            torch.testing.assert_close(found, outputs.mean(0) if self.rule == "mean" else outputs, rtol=1e-4, atol=1e-4)

    def _refuses(self, name: str, x: torch.Tensor) -> bool:
        """Whether a network, as it is here and now, raises for an input."""
        try:
            self.modules[name](x)
        except ValueError:
            return True
        return False

    def tunes(self) -> None:
        editor = self.lab.tune()
        self.mind.choice(
            [
                lambda: editor.share({self.mind.choice(self.names): self.mind.randint(1, 3)}),
                lambda: editor.split(self.mind.choice(self.names)),
                lambda: editor.propose().result(timeout=30),
                editor.apply,
                editor.undo,
                lambda: editor.measure(repeats=2),
            ]
        )()
        assert 0 < editor.state.bound_s <= editor.state.jct_s * (1 + 1e-9)

    def compares(self) -> None:
        self.lab.compare(X, rounds=1, strategies=[self.mind.choice(["sequential", "equal", "threads", "vmap"])])

    def checks(self) -> None:
        self.lab.check_numerics(runs=1)
        self.lab.points.forget_wrong()

    def chooses_members(self) -> None:
        front = self.lab.studies.members(torch.randn(32, 8), torch.randint(0, 2, (32,)))
        self.lab.studies.take(self.mind.choice(front.choices))

    def changes_the_device(self) -> None:
        self.lab.use_device(self.mind.choice([THREE, TWO]))

    def saves_and_loads(self) -> None:
        self.lab.save(self.folder / "plan.json")
        self.lab.load(self.folder / "plan.json")

    def looks(self) -> None:
        assert str(self.lab.status())
        assert self.lab._repr_html_()
        self.lab.readings.glance()
        self.lab.points.fit_so_far()

    def closes(self) -> None:
        self.lab.close()

    def kills_a_process(self) -> None:
        for _, pid in self.lab._runtime.fork_server.processes[:1]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def acts(self, actions: list[Callable[[], None]], weights: list[float]) -> bool:
        """Do one thing; whether it could be done."""
        try:
            self.mind.choices(actions, weights)[0]()
        except EsenError:
            return False
        return True


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(device=THREE, store=tmp_path / "points.sqlite")
    yield made
    made.close()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_any_order_of_its_methods_gives_right_answers_or_an_error_for_people(
    lab: Lab, tmp_path: Path, seed: int
) -> None:
    me = Somebody(lab, tmp_path, seed)
    weighted = {
        me.registers: 3,
        me.changes: 4,
        me.unregisters: 1,
        me.combines: 1,
        me.gets_points: 5,
        me.profiles: 1,
        me.searches: 5,
        me.searches_in_the_background: 2,
        me.plans_by_hand: 3,
        me.runs: 8,
        me.tunes: 6,
        me.compares: 1,
        me.checks: 1,
        me.chooses_members: 1,
        me.changes_the_device: 1,
        me.saves_and_loads: 2,
        me.looks: 2,
        me.closes: 0.5,
        me.kills_a_process: 1,
    }
    done = sum(me.acts(list(weighted), list(weighted.values())) for _ in range(80))
    assert done > 20, "most of it was refused: this shows little"


def test_several_threads_at_once_leave_a_lab_that_works(lab: Lab, tmp_path: Path) -> None:
    for seed, name in enumerate("abc"):
        lab.register(name, mlp(seed=seed), example=X)
    modules: dict[str, nn.Module] = {name: mlp(seed=seed) for seed, name in enumerate("abc")}
    until = time.monotonic() + 6
    problems: list[BaseException] = []

    def somebody(seed: int) -> None:
        me = Somebody(lab, tmp_path / str(seed), seed)
        me.folder.mkdir()
        me.modules = modules
        actions = [
            *(me.gets_points, me.searches, me.searches_in_the_background, me.runs, me.runs, me.tunes, me.looks),
            *(me.checks, me.changes_the_device, me.saves_and_loads),
        ]
        try:
            while time.monotonic() < until:
                me.acts(list(actions), [1] * len(actions))
        except BaseException as problem:
            problems.append(problem)
            raise

    threads = [threading.Thread(target=somebody, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert problems == []
    assert not any(thread.is_alive() for thread in threads)
    lab.plan = Plan(lanes=(Lane(units=2, members=("a", "b", "c")),), units=2)
    me = Somebody(lab, tmp_path, seed=1)
    me.modules = modules
    me.runs()
