"""Trees on their way between machines come back equal to the bit."""

from __future__ import annotations

import pickle

import pytest
import torch

from esen_lab.cluster.tensor_packing import pack_input, pack_output, unpack

TENSORS = {
    "bf16": torch.randn(3, 2).to(torch.bfloat16),
    "a scalar": torch.tensor(3.5),
    "nothing": torch.zeros(0, 4),
    "bool": torch.tensor([True, False]),
    "a conjugate": torch.tensor([1 + 2j, 3 - 1j]).conj(),
    "a part": torch.arange(12.0).reshape(3, 4)[:, 1:3],
    "NaN": torch.tensor([float("nan"), -0.0]),
}


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_comes_back_equal_to_the_bit(name: str) -> None:
    tensor = TENSORS[name]
    back = unpack(pickle.loads(pickle.dumps(pack_output(tensor), protocol=5)))
    assert back.dtype == tensor.dtype
    assert back.shape == tensor.shape
    plain = tensor.resolve_conj().contiguous()
    assert back.reshape(-1).view(torch.uint8).tolist() == plain.reshape(-1).view(torch.uint8).tolist()


def test_a_layout_with_channels_last_stays_one() -> None:
    x = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    back = unpack(pack_input(x))
    assert torch.equal(back, x)
    assert back.is_contiguous(memory_format=torch.channels_last)


def test_trees_keep_their_structure_and_constants() -> None:
    tree = {"ids": torch.arange(3), "more": (torch.ones(1), None, 2.0, "word")}
    back = unpack(pack_output(tree))
    assert back["more"][1:] == (None, 2.0, "word")
    assert torch.equal(back["ids"], tree["ids"])


def test_what_comes_out_is_the_receivers_own() -> None:
    x = torch.zeros(2)
    back = unpack(pack_output(x))
    back += 1
    assert x.tolist() == [0, 0]
