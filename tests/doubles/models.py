"""Small modules that tests share. Importable by workers too: the tests' folder is on their path."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import cloudpickle
import torch
from torch import nn


def modules_here(step: object) -> list[str]:
    """Everything that is imported in the process of a lane, for `Worker.call`."""
    return sorted(sys.modules)


def mlp(width: int = 32, seed: int = 0, inputs: int = 8, outputs: int = 3) -> nn.Module:
    """A seeded two-layer network."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, outputs)).eval()


class Sleeper(nn.Module):
    """Takes a fixed time without using a core: lanes overlap even where there are fewer cores than lanes."""

    def __init__(self, seconds: float = 0.005) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds)
        return x * 2


class Raises(nn.Module):
    """Fails on purpose when the batch is larger than one; prints before it does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] > 1:
            print("about to fail", flush=True)
            raise ValueError("a batch of one, please")
        return x


class MakesNan(nn.Module):
    """Puts NaN out."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * float("nan")


class KillsItself(nn.Module):
    """Ends its own process when the first value is negative, as the system does when memory runs out."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.flatten()[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return x


class OverwritesInput(nn.Module):
    """Changes its input in place, as a first layer with inplace=True does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.add_(1)


class ByKeyword(nn.Module):
    """Called like a Hugging Face model: by keyword, with a dict out."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 4)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor | None = None) -> dict[str, Any]:
        hidden = self.embed(ids)
        if mask is not None:
            hidden = hidden * mask[..., None]
        return {"logits": hidden.sum(1), "hidden": hidden, "cache": None}


def payload(module: nn.Module) -> bytes:
    """What a worker loads: a pickled callable that returns the module."""
    return cloudpickle.dumps(partial(_same, module))


def _same(module: nn.Module) -> nn.Module:
    return module


def call_step(step: Callable[[], None], times: int = 1, pause_s: float = 0.0) -> dict[str, Any]:
    """Something to call in a worker."""
    for _ in range(times):
        step()
    time.sleep(pause_s)
    return {"pid": os.getpid(), "threads": torch.get_num_threads()}


class WrongAt(nn.Module):
    """Answers wrongly under one limit of NVIDIA MPS, as is reported of half-precision products."""

    def __init__(self, percent: int) -> None:
        super().__init__()
        self.percent = percent
        self.layer = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wrong = os.environ.get("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE") == str(self.percent)
        return self.layer(x) * (1.5 if wrong else 1.0)


class Draws(nn.Module):
    """Answers differently every time."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.rand(len(x), 3)


def environment(step: Callable[[], None], names: list[str]) -> dict[str, str | None]:
    """What is in the environment of the process that this is called in."""
    return {name: os.environ.get(name) for name in names}


class Held(nn.Module):
    """Answers x times a factor once a file is there, and writes a line into another one each time it begins."""

    def __init__(self, gate: str, factor: float = 1.0, calls: str = "") -> None:
        super().__init__()
        self.gate, self.factor, self.calls = gate, factor, calls

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.calls:
            with open(self.calls, "a", encoding="utf-8") as file:
                file.write("began\n")
        while not os.path.exists(self.gate):
            time.sleep(0.002)
        return x * self.factor


class Times(nn.Module):
    """Answers x times a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


class CountsCalls(nn.Module):
    """Answers by how often it was called."""

    calls: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * 0 + self.calls


class WrongOnOneThread(nn.Module):
    """A double of a kernel that is wrong at some shares."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (1.2 if torch.get_num_threads() == 1 else 1.0)
