"""Ctrl-C, wherever it strikes: the lab goes on, its answers are right, and nothing is left behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from interrupting import interrupted_at
from models import mlp
from waiting import until

from esen_lab.errors import EsenError
from esen_lab.lab import Lab

X = torch.randn(4, 8)
OTHERS = [torch.randn(count, 8) for count in (1, 2, 3)]
MODULES = {name: mlp(seed=seed) for seed, name in enumerate("ab")}
pytestmark = pytest.mark.own_helper  # interrupts strike while one starts and ends


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = Lab("cpu", store=tmp_path_factory.mktemp("store") / "store.sqlite3")
    for name, module in MODULES.items():
        made.register(name, module, example=X)
    made.profile(shares=[1], budget_s=0.02).result()
    made.search()
    yield made
    made.close()


def is_right(lab: Lab, x: torch.Tensor) -> bool:
    with torch.no_grad():
        wanted = torch.stack([module(x) for module in MODULES.values()]).mean(0)
    return torch.allclose(lab.run(x), wanted, atol=1e-5)


def another_shape(lab: Lab) -> None:
    shapes = lab.__dict__.setdefault("_shapes", [])
    shapes.append(1)
    lab.run(OTHERS[len(shapes) % len(OTHERS)])


def anew(lab: Lab) -> None:
    if lab.state.executor is not None:
        lab.state.executor.close()
    lab.run(X)


def end_the_job(lab: Lab) -> None:
    """A job goes on in the background where who waited for it was interrupted."""
    job = lab.job
    if job is not None and not job.done:
        job.cancel()
        assert job.wait(timeout=120)


def profile(lab: Lab) -> None:
    end_the_job(lab)
    lab.profile(shares=[1], budget_s=0.02, fresh=True).result()


ACTS: dict[str, Callable[[Lab], object]] = {
    "run": lambda lab: lab.run(X),
    "another shape": another_shape,
    "new lanes": anew,
    "register": lambda lab: lab.register("a", MODULES["a"], example=X),
    "profile": profile,
    "search": lambda lab: lab.search(),
    "compare": lambda lab: lab.compare(X, rounds=1, strategies=["sequential"]),
    "apply": lambda lab: lab.apply(lab.plan) if lab.plan is not None else None,
    "close": lambda lab: lab.close(),
}
SAMPLED = {"run": (1, 61), "another shape": (2, 97), "new lanes": (40, 701), "register": (3, 1601), "profile": (1, 199)}
SAMPLED |= {"search": (5, 1201), "compare": (9, 4001), "apply": (1, 23), "close": (2, 131)}


def strike(lab: Lab, act: str, lines: range) -> None:
    for line in lines:
        try:
            where = interrupted_at(line, lambda: ACTS[act](lab))
        except EsenError as problem:  # a search may find that another thread's interrupt has left nothing to do
            raise AssertionError(f"{act}, line {line}: {problem}") from problem
        assert is_right(lab, X), where
        assert is_right(lab, OTHERS[0]), where
        if not where:
            return


@pytest.mark.parametrize("act", ACTS)
def test_an_interrupted_lab_goes_on_with_right_answers(lab: Lab, act: str) -> None:
    assert is_right(lab, X)
    first, step = SAMPLED[act]
    strike(lab, act, range(first, first + 12 * step, step))
    end_the_job(lab)
    until(lambda: len(lab._runtime.fork_server.processes) <= 2)  # of a job whose very start was interrupted, too


@pytest.mark.slow  # some minutes; every line of every act takes hours: strike(lab, act, range(1, 100_000))
@pytest.mark.parametrize("act", ACTS)
def test_an_interrupted_lab_goes_on_at_lines_between_those(lab: Lab, act: str) -> None:
    assert is_right(lab, X)
    first, step = SAMPLED[act]
    between = max(step // 3, 1)
    strike(lab, act, range(first + 1, first + 1 + 25 * between, between))


SIGNALS = """
import os, random, signal, sys, threading, time
import torch
from torch import nn
from esen_lab.lab import Lab
x = torch.randn(4, 8)
networks = {name: nn.Linear(8, 3).eval() for name in "ab"}
lab = Lab("cpu", store=os.path.join(sys.argv[1], "store.sqlite3"))
for name, network in networks.items():
    lab.register(name, network, example=x)
lab.run(x)
with torch.no_grad():
    wanted = torch.stack([network(x) for network in networks.values()]).mean(0)
right = struck = 0
until = time.monotonic() + float(sys.argv[2])
while time.monotonic() < until:
    timer = threading.Timer(random.uniform(0, 0.03), os.kill, (os.getpid(), signal.SIGINT))
    try:
        timer.start()
        while True:
            lab.run(x)
    except KeyboardInterrupt:
        struck += 1
    timer.join()
    right += torch.allclose(lab.run(x), wanted, atol=1e-5)
lab.close()
print(right == struck > 3, right, struck)
"""


def test_signals_at_random_times_leave_a_lab_that_works(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SIGNALS, str(tmp_path), "5"], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.stdout.startswith("True"), done.stdout + done.stderr
