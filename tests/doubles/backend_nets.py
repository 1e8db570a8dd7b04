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


class Residual(nn.Module):
    """Convolutions with skips, as in ResNets, and a gate over channels, as in EfficientNets."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.BatchNorm2d(8), nn.Hardswish())
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Hardsigmoid())
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.body(x))
        return self.head((x * self.gate(x)).mean((2, 3)))


class ConvNext(nn.Module):
    """One block of a ConvNeXt."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 16, 4, 4), nn.Conv2d(16, 16, 7, 1, 3, groups=16)
        self.mix = nn.Sequential(nn.LayerNorm(16, eps=1e-6), nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return (x + self.mix(self.deep(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)).mean((2, 3))


class Vit(nn.Module):
    """A vision transformer of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 8, 8)
        self.first, self.places = (nn.Parameter(torch.randn(1, n, 32) * 0.02) for n in (1, 17))
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True, activation="gelu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.layer(torch.cat([self.first.expand(x.shape[0], -1, -1), x], 1) + self.places)[:, 0]


class Recurrent(nn.Module):
    """An LSTM, of tokens where there are some."""

    def __init__(self, tokens: int = 0) -> None:
        super().__init__()
        self.table = nn.Embedding(tokens, 8) if tokens else nn.Identity()
        self.lstm, self.head = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.table(x))[0][:, -1])


class Attends(nn.Module):
    """Attention with a mask of truths."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x: torch.Tensor, left_out: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, x, key_padding_mask=left_out, need_weights=False)[0]


class Encoder(nn.Module):
    """As BERT: tokens, a mask and types in 64 bits; places computed of the tokens, as in RoBERTa."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.kinds = nn.Embedding(200, 32, padding_idx=0), nn.Embedding(2, 32)
        self.places, self.norm = nn.Embedding(64, 32), nn.LayerNorm(32)
        self.query, self.key, self.value, self.head = (nn.Linear(32, 32) for _ in range(4))

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
        there = ids.ne(0).long()
        x = self.norm(self.words(ids) + self.kinds(kinds) + self.places(torch.cumsum(there, 1) * there))
        bias = (1.0 - mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
        heads = (each(x).unflatten(-1, (4, 8)).transpose(1, 2) for each in (self.query, self.key, self.value))
        found = nn.functional.scaled_dot_product_attention(*heads, attn_mask=bias)
        return torch.tanh(self.head(self.norm(x + found.transpose(1, 2).flatten(2))[:, 0]))


class Recommends(nn.Module):
    """Tables in one, each with an offset."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("offsets", torch.tensor([0, 10, 30]))
        self.table, self.head = nn.Embedding(60, 8), nn.Linear(24, 1)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.table(ids + self.offsets).flatten(1)).sigmoid()


class Pixels(nn.Module):
    """Takes images as bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = Residual()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inside(x.float() / 255 - 0.5)


def _tokens(most: int) -> tuple[torch.Tensor, ...]:
    mask = torch.tensor([[1] * 12, [1] * 8 + [0] * 4])
    return torch.randint(1, most, (2, 12)), mask, torch.zeros(2, 12, dtype=torch.int64)


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.LayerNorm(32), nn.Linear(32, 3), nn.LogSoftmax(-1))


def _ids(scale: int) -> torch.Tensor:
    return torch.randint(0, scale, (4, 3)) * torch.tensor([1, 2, 3])


ORDINARY: dict[str, tuple[Any, Any, Any]] = {
    "residual": (Residual, lambda: (torch.rand(2, 3, 32, 32),), lambda: (torch.randn(2, 3, 32, 32) * 20,)),
    "convnext": (ConvNext, lambda: (torch.randn(2, 3, 32, 32),), lambda: (torch.zeros(2, 3, 32, 32),)),
    "vit": (Vit, lambda: (torch.randn(2, 3, 32, 32),), lambda: (-torch.rand(2, 3, 32, 32),)),
    "lstm": (Recurrent, lambda: (torch.randn(2, 6, 8),), lambda: (torch.randn(2, 6, 8) * 9,)),
    "lstm of tokens": (
        lambda: Recurrent(50),
        lambda: (torch.randint(0, 5, (2, 6)),),
        lambda: (torch.randint(5, 50, (2, 6)),),
    ),
    "attention": (
        Attends,
        lambda: (torch.randn(2, 6, 16), torch.arange(12).reshape(2, 6) > 9),
        lambda: (torch.randn(2, 6, 16) * 5, torch.arange(12).reshape(2, 6) > 7),
    ),
    "transformer": (
        lambda: nn.TransformerEncoderLayer(16, 4, 32, batch_first=True),
        lambda: (torch.randn(2, 6, 16),),
        lambda: (torch.randn(2, 6, 16) - 9,),
    ),
    "mlp": (_mlp, lambda: (torch.rand(4, 8),), lambda: (torch.randn(4, 8) * 9,)),
    "encoder": (Encoder, lambda: _tokens(20), lambda: _tokens(200)),
    "recommends": (Recommends, lambda: (_ids(3),), lambda: (_ids(10),)),
    "pixels": (
        Pixels,
        lambda: (torch.randint(0, 99, (2, 3, 32, 32), dtype=torch.uint8),),
        lambda: (torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8),),
    ),
}
"""Each: how it is made, an input, and a later one elsewhere."""
