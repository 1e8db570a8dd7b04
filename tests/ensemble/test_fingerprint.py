from __future__ import annotations

import subprocess
import sys
import time

import pytest
import torch

from esen_lab.ensemble.fingerprint import fingerprint, same_bits, tensor_digest, tensor_digests, text_digest

PROGRAM = """
import torch
from torch import nn
from esen_lab.ensemble import make_submodel
torch.manual_seed(3)
net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.1), nn.Flatten(), nn.Linear(4 * 36, 3))
print(make_submodel("a", net, torch.ones(2, 1, 8, 8)).fingerprint)
print(make_submodel("b", "torch.nn:Identity", torch.ones(2)).fingerprint)
"""


def test_it_is_the_same_in_every_process() -> None:
    runs = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True, text=True, check=True, timeout=120,
        ).stdout.split()
        for seed in ("1", "2")
    ]  # fmt: skip
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 2


@pytest.mark.parametrize(
    "other",
    [torch.tensor([1.0, 2.0]).double(), torch.tensor([[1.0, 2.0]]), torch.tensor([1.0, 2.5]), torch.tensor([1.0])],
    ids=["dtype", "shape", "value", "length"],
)
def test_another_tensor_has_another_digest(other: torch.Tensor) -> None:
    assert tensor_digest(other) != tensor_digest(torch.tensor([1.0, 2.0]))


def test_minus_zero_and_memory_order_count() -> None:
    assert tensor_digest(torch.tensor([0.0])) != tensor_digest(torch.tensor([-0.0]))
    square = torch.arange(4.0).reshape(2, 2)
    assert tensor_digest(square.t().contiguous().t()) != tensor_digest(square)


def test_texts_are_told_apart_by_where_they_end() -> None:
    assert text_digest("ab", "c") != text_digest("a", "bc")


def test_each_part_counts_and_addresses_do_not() -> None:
    digests = tensor_digests({"w": torch.ones(2)})
    base = fingerprint(digests, "Net <function f at 0x7f01abcd>", "source")
    assert base == fingerprint(digests, "Net <function f at 0x55550123>", "source")
    assert base != fingerprint(digests, "Net2 <function f at 0x7f01abcd>", "source")
    assert base != fingerprint(digests, "Net <function f at 0x7f01abcd>", "other")
    assert base != fingerprint(tensor_digests({"v": torch.ones(2)}), "Net <function f at 0x7f01abcd>", "source")


def test_same_bits_takes_nan_for_equal_and_lengths_for_different() -> None:
    nan = torch.tensor([float("nan")])
    assert same_bits([nan], [nan.clone()])
    assert not same_bits([nan], [])
    assert not same_bits([torch.tensor([0.0])], [torch.tensor([-0.0])])


@pytest.mark.timing
def test_half_a_gigabyte_takes_few_seconds() -> None:
    weights = {f"w{i}": torch.empty(12_500_000).fill_(i) for i in range(10)}
    begin = time.perf_counter()
    tensor_digests(weights)
    assert time.perf_counter() - begin < 10, "0.7 s on a quiet core"
