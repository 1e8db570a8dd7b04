"""The ensembles of `make gpu-check`, seeded and built here, and the small networks that its other sections need."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

ENSEMBLES = ("mixed-cnns", "transformers", "one-heavy", "eight-equal")
BATCHES = (16, 1)


def models_of(ensemble: str, batch: int, tiny: bool) -> tuple[dict[str, Any], Any]:
    """Seeded networks and an input for all of them.

    Args:
        ensemble: One of `ENSEMBLES`.
        batch: Rows of the input.
        tiny: Sizes for a rehearsal.
    """
    torch.manual_seed(0)
    if ensemble == "mixed-cnns":
        sizes = [(4, 1), (8, 1)] if tiny else [(32, 4), (64, 6), (128, 8), (256, 8), (96, 16)]
        side = 16 if tiny else 224
        return {f"cnn{w}x{d}": _cnn(w, d) for w, d in sizes}, torch.randn(batch, 3, side, side)
    if ensemble == "transformers":
        sizes = [(64, 1), (128, 1)] if tiny else [(128, 2), (256, 4), (512, 6), (768, 12)]
        return {f"encoder{w}x{d}": _transformer(w, d) for w, d in sizes}, torch.randn(batch, 4 if tiny else 128, 64)
    if ensemble == "one-heavy":
        heavy = _cnn(8, 2) if tiny else _cnn(512, 12)
        light = {f"light{n}": _cnn(4 if tiny else 32, 1) for n in range(2 if tiny else 7)}
        side = 16 if tiny else 128
        return {"heavy": heavy, **light}, torch.randn(batch, 3, side, side)
    width = 8 if tiny else 4096
    return {f"member{n}": _mlp(width) for n in range(2 if tiny else 8)}, torch.randn(batch, 64, 64)


def _cnn(width: int, depth: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1, stride=2), nn.ReLU()]
    for _ in range(depth):
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)).eval()


def _transformer(width: int, depth: int) -> nn.Module:
    layer = nn.TransformerEncoderLayer(width, max(1, width // 64), 4 * width, batch_first=True, dropout=0.0)
    into, out = nn.Linear(64, width), nn.Linear(width, 10)
    return nn.Sequential(into, nn.TransformerEncoder(layer, depth, enable_nested_tensor=False), out).eval()


def _mlp(width: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64 * 64, width), nn.ReLU(), nn.Linear(width, 10)).eval()


class Product(nn.Module):
    """Two matrix products in one dtype; float32 either with TF32 or without."""

    def __init__(self, width: int, dtype: torch.dtype, *, tf32: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width).to(dtype) / width**0.5)
        self.tf32 = tf32

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """X W W."""
        torch.set_float32_matmul_precision("high" if self.tf32 else "highest")
        return (x @ self.weight) @ self.weight


class Passes(nn.Module):
    """Reads all of its input and writes an output of a given size: what crosses is all that costs."""

    base: torch.Tensor

    def __init__(self, outputs: int, seed: int) -> None:
        super().__init__()
        self.register_buffer("base", torch.randn(outputs, generator=torch.Generator().manual_seed(seed)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The base plus the mean of the input."""
        return self.base + x.mean()
