"""Sub-models that start processes, each in another way; the file of its number in a folder says that one is there."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

_KEPT: list[Any] = []


def _stay(where: str) -> None:
    (Path(where) / str(os.getpid())).touch()
    time.sleep(600)


class _Stays(torch.utils.data.Dataset[int]):
    def __init__(self, where: str) -> None:
        self.where = where

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        _stay(self.where)
        return 0


class Starts(nn.Module):
    """Starts processes when it is first called, and leaves them alone."""

    def __init__(self, how: str, where: str) -> None:
        super().__init__()
        self.how, self.where = how, where

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        getattr(self, f"_{self.how}")()
        self.how = "nothing"
        return x

    def _nothing(self) -> None:
        """It has started them."""

    def _fork(self) -> None:
        if os.fork() == 0:
            _stay(self.where)

    def _daemon(self) -> None:
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                _stay(self.where)
            os._exit(0)

    def _subprocess(self) -> None:
        code = f"import os, time; open(os.path.join({self.where!r}, str(os.getpid())), 'w'); time.sleep(600)"
        subprocess.Popen([sys.executable, "-c", code], start_new_session=True, env={})

    def _pool(self) -> None:
        pool = multiprocessing.get_context("fork").Pool(2)
        pool.map_async(_stay, [self.where, self.where])
        _KEPT.append(pool)

    def _loader(self) -> None:
        loader = torch.utils.data.DataLoader(_Stays(self.where), num_workers=1)
        _KEPT.append(iter(loader))
