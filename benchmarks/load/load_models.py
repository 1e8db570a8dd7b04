"""The networks that every server is compared on: the same weights in each process."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

WIDTH = 256
SIZES = {"small": (2, 256), "middle": (4, 512), "wide": (3, 1024), "deep": (10, 384)}
"""Name -> (hidden layers, their width): the ensemble of `bench_load.py`."""
HEAVIER = {"broad": (3, 2048), "long": (10, 768)}
"""The same of `bench_rivals.py`: a request takes so long that who carries it weighs less."""
PICTURES = {"many_conv": (6, 64), "broad_conv": (4, 96)}
"""Name -> (convolutions, their channels): members of it that see the row as a picture of 16 x 16."""
RIVALS = (*HEAVIER, *PICTURES)
"""Its ensemble: two whose time hardly grows with the batch, and two whose time does."""


def member(name: str) -> nn.Module:
    """One network."""
    torch.manual_seed(sum(name.encode()))
    return _convolutions(*PICTURES[name]) if name in PICTURES else _perceptron(*{**SIZES, **HEAVIER}[name])


def _perceptron(layers: int, width: int) -> nn.Module:
    parts: list[nn.Module] = [nn.Linear(WIDTH, width), nn.GELU()]
    for _ in range(layers - 1):
        parts += [nn.Linear(width, width), nn.GELU()]
    return nn.Sequential(*parts, nn.Linear(width, 10)).eval()


def _convolutions(layers: int, channels: int) -> nn.Module:
    parts: list[nn.Module] = [nn.Unflatten(1, (1, 16, 16)), nn.Conv2d(1, channels, 3, padding=1), nn.GELU()]
    for _ in range(layers - 1):
        parts += [nn.Conv2d(channels, channels, 3, padding=1), nn.GELU()]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 10)).eval()


def example(rows: int = 1, seed: int = 0) -> torch.Tensor:
    """An input of so many rows."""
    torch.manual_seed(seed)
    return torch.randn(rows, WIDTH)


class Mean(nn.Module):
    """The members one after another, and the mean of their answers: what people write by hand."""

    def __init__(self, names: Sequence[str] = tuple(SIZES)) -> None:
        super().__init__()
        self.members = nn.ModuleList(member(name) for name in names)

    @torch.inference_mode()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The answer."""
        return torch.stack([one(x) for one in self.members]).mean(0)
