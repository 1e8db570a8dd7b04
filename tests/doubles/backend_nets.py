"""Small networks for tests of backends, and a sub-model executed by one in this process."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from esen_lab.common.trees import Tree
from esen_lab.lanes.backends import backend, backend_parts, why_not
from esen_lab.lanes.backends._cache import Cache
from esen_lab.lanes.backends._executed import Executed
from esen_lab.lanes.backends._protocol import BackendSettings, Calibration


def lacking(name: str) -> Any:
    """A mark that skips where a backend cannot be had."""
    import pytest

    return pytest.mark.skipif(bool(why_not(name)), reason=why_not(name))


def executed(module: nn.Module, name: str, cache: Cache | None = None, calibration: Tree = None) -> Executed:
    """The module, by a backend; in int8, calibrated with inputs of its own."""
    by = None if calibration is None else Calibration.of(calibration)
    settings = BackendSettings(precision=backend_parts(name)[1], calibration=by, cache=cache)
    return Executed(module, name, backend(name), settings)


class Wide(nn.Module):
    """Enough work for all threads of a lane."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*[nn.Linear(256, 256) for _ in range(4)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class Branches(nn.Module):
    """What it does depends on the values of its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.sum() > 0 else x * 3


class Counts(nn.Module):
    """Keeps the number of its calls in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * 2


class ManyKinds(nn.Module):
    """Takes tensors by keyword, in a list and in a dict; answers with a tree of several dtypes."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4)

    def forward(
        self, ids: torch.Tensor, parts: list[torch.Tensor], more: dict[str, torch.Tensor], mask: torch.Tensor
    ) -> dict[str, Any]:
        found = self.table(ids) + parts[0] * parts[1]
        return {
            "sum": found.masked_fill(mask.unsqueeze(-1), 0.0) + more["shift"],
            "best": (found.argmax(-1), mask),
            "none": None,
            "scale": 2.0,
        }


def many_kinds(batch: int = 3) -> dict[str, Any]:
    """An input for `ManyKinds`."""
    return {
        "ids": torch.randint(0, 10, (batch, 5)),
        "parts": [torch.randn(batch, 5, 4), torch.randn(batch, 5, 4)],
        "more": {"shift": torch.randn(batch, 1, 4)},
        "mask": torch.rand(batch, 5) > 0.5,
    }
