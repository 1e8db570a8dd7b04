"""Modules that behave here, where they are registered, and misbehave in a worker. Importable by workers."""

from __future__ import annotations

import os
import signal
import time

import torch
from torch import nn


class Misbehaves(nn.Module):
    """Raises, sleeps or ends its process in any other process than the one that made it.

    Args:
        how: "raise", "sleep" (a minute), "sleep later" (from the second step on: not while it is loaded), "kill" or
            "kill alone" (only when it has one thread).
    """

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.home = os.getpid()
        self.steps = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if os.getpid() == self.home:
            return x
        print("about to", self.how, flush=True)
        if self.how == "raise":
            raise ValueError("not in a worker")
        self.steps += 1
        if self.how == "sleep" or (self.how == "sleep later" and self.steps > 1):
            time.sleep(60)
        if self.how == "kill" or (self.how == "kill alone" and torch.get_num_threads() == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        return x


class Naps(nn.Module):
    """Takes a fixed time."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds)
        return x


class Fills(nn.Module):
    """Needs a buffer of `megabytes` while it runs."""

    def __init__(self, megabytes: int) -> None:
        super().__init__()
        self.megabytes = megabytes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.ones(self.megabytes, 1 << 18).sum()  # float32: 4 bytes each


def slow_to_build(home: int) -> nn.Module:
    """Takes a minute to build in any process but `home`."""
    if os.getpid() != home:
        time.sleep(60)
    return nn.Identity()


class TakesNoAutocast(nn.Module):
    """Raises where it is computed under autocast."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.is_autocast_enabled("cpu"):
            raise ValueError("under autocast")
        return x
