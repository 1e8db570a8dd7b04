"""Modules of many kinds, with an input for each: what snapshots and skeletons have to cope with."""

from __future__ import annotations

import enum
import functools
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations


class Mode(enum.Enum):
    FAST = 1


class Options:
    def __init__(self) -> None:
        self.scale, self.mode = 2.0, Mode.FAST


class Odd(nn.Module):
    """Attributes of every kind that has a plain form."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.by_name = nn.ModuleDict({"tail": nn.Linear(4, 2)})
        self.layers[1].weight = self.layers[0].weight
        self.same_memory = nn.Parameter(self.layers[0].bias.data)
        self.register_buffer("hidden", torch.randn(4), persistent=False)
        self.plain = torch.randn(4)
        self.table = {"act": functional.gelu, 3: [torch.tanh, nn.ReLU]}
        self.order = OrderedDict(a=(1, 2), b={"x", "y"})
        self.shape, self.dtype, self.device = torch.Size([2, 3]), torch.float32, torch.device("cpu")
        self.layout = torch.channels_last
        self.partial = functools.partial(functional.leaky_relu, negative_slope=0.3)
        self.mode, self.options = Mode.FAST, Options()
        self.numbers = (np.float64(0.1), np.arange(3), 1j, float("inf"), b"\x01", range(2), slice(1, None), ...)
        self.myself_in_a_list = [self.layers[0]]
        self.missing = None

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        assert self.layers[0] is self.myself_in_a_list[0]
        assert self.mode is Mode.FAST
        assert self.options.mode is Mode.FAST
        for layer in self.layers:
            x = self.table["act"](layer(x)) + self.hidden + self.plain + self.same_memory
        return {"logits": self.by_name["tail"](self.partial(x)) * self.options.scale, "more": (x, None)}


class Remembers(nn.Module):
    """Makes an attribute when it first runs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not hasattr(self, "mask"):
            self.mask = torch.ones_like(x)
        return x * self.mask


def double_output(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
    return output * 2


def hooked() -> nn.Module:
    module = nn.Linear(3, 3)
    module.register_forward_hook(double_output)
    return module


def old_weight_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 4)), nn.utils.spectral_norm(nn.Linear(4, 2)))


def batch_norm() -> nn.Module:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding="same"), nn.BatchNorm2d(4), nn.SiLU())
    module(torch.randn(8, 3, 5, 5))  # in training mode: running statistics move
    return module


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")
    return nn.TransformerEncoder(layer, 2)


def attention() -> nn.Module:
    return nn.MultiheadAttention(8, 2, batch_first=True)


def twice_parametrized() -> nn.Module:
    return nn.Sequential(parametrizations.spectral_norm(parametrizations.weight_norm(nn.Linear(3, 4))))


IMAGE, ROW, SEQUENCE = torch.randn(2, 3, 5, 5), torch.randn(2, 3), torch.randn(2, 5, 8)
ZOO: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "odd attributes": (Odd, torch.randn(2, 4)),
    "batch norm": (batch_norm, IMAGE),
    "channels last": (lambda: batch_norm().to(memory_format=torch.channels_last), IMAGE),
    "double": (lambda: nn.Linear(3, 2).double(), ROW.double()),
    "bfloat16": (lambda: nn.Linear(3, 2).bfloat16(), ROW.bfloat16()),
    "frozen": (lambda: nn.Linear(3, 2).requires_grad_(False), ROW),
    "parametrized weight norm": (lambda: parametrizations.weight_norm(nn.Linear(3, 4)), ROW),
    "two parametrizations": (twice_parametrized, ROW),
    "orthogonal": (lambda: parametrizations.orthogonal(nn.Linear(3, 3)), ROW),
    "old weight norm": (old_weight_norm, ROW),
    "transformer": (encoder, SEQUENCE),
    "whole transformer": (lambda: nn.Transformer(8, 2, 1, 1, 16, batch_first=True), (SEQUENCE, SEQUENCE)),
    "attention": (attention, dict.fromkeys(("query", "key", "value"), SEQUENCE)),
    "lstm": (lambda: nn.LSTM(8, 4, 2, bidirectional=True, batch_first=True), SEQUENCE),
    "gru": (lambda: nn.GRU(8, 4, batch_first=True), SEQUENCE),
    "embedding": (lambda: nn.EmbeddingBag(10, 4, mode="mean"), torch.randint(0, 10, (2, 3))),
    "remembers": (Remembers, ROW),
    "hook": (hooked, ROW),
    "nothing": (nn.Identity, ROW),
}  # fmt: skip
