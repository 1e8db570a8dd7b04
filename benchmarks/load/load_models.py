"""The ensemble that every server of `bench_load.py` answers with: the same weights in each process."""

from __future__ import annotations

import torch
from torch import nn

WIDTH = 256
SIZES = {"small": (2, 256), "middle": (4, 512), "wide": (3, 1024), "deep": (10, 384)}
"""Name -> (hidden layers, their width)."""


def member(name: str) -> nn.Module:
    """One network."""
    layers, width = SIZES[name]
    torch.manual_seed(sum(name.encode()))
    parts: list[nn.Module] = [nn.Linear(WIDTH, width), nn.GELU()]
    for _ in range(layers - 1):
        parts += [nn.Linear(width, width), nn.GELU()]
    return nn.Sequential(*parts, nn.Linear(width, 10)).eval()


def example(rows: int = 1) -> torch.Tensor:
    """An input of so many rows."""
    torch.manual_seed(0)
    return torch.randn(rows, WIDTH)


class Mean(nn.Module):
    """The members one after another, and the mean of their answers: what people write by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.members = nn.ModuleList(member(name) for name in SIZES)

    @torch.inference_mode()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The answer."""
        return torch.stack([one(x) for one in self.members]).mean(0)
