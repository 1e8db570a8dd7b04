from __future__ import annotations

import pytest
import safetensors.torch
import torch
from torch import nn

from esen_lab.ensemble.fingerprint import tensor_digest
from esen_lab.ensemble.weights import from_bytes, memory_of, restore, state_of, to_bytes
from esen_lab.errors import StoreError, UsageError

DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.int8,
    torch.int64,
    torch.uint8,
    torch.bool,
    torch.complex64,
    torch.complex128,
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)], ids=str)
def test_every_dtype_and_shape_comes_back_bit_for_bit(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = (torch.randn(shape) * 3).to(dtype)
    found = from_bytes(to_bytes({"t": tensor}))["t"]
    assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
    assert tensor_digest(found) == tensor_digest(tensor)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.randn(4, 5).t(),
        torch.randn(3, 1, 2).permute(2, 1, 0),
    ],
    ids=["channels last", "transposed", "permuted"],
)
def test_memory_order_is_kept(tensor: torch.Tensor) -> None:
    found = from_bytes(to_bytes({"t": tensor}))["t"]
    assert torch.equal(found, tensor)
    strides = [(s, t) for s, t, size in zip(found.stride(), tensor.stride(), tensor.shape, strict=True) if size > 1]
    assert all(s == t for s, t in strides)


def test_views_and_conjugates_keep_their_values() -> None:
    base = torch.randn(6, 6)
    tensors = {
        "whole": base,
        "part": base[1:3, ::2],
        "spread": base[:1].expand(4, 6),
        "conj": torch.randn(3, dtype=torch.complex64).conj(),
    }
    found = from_bytes(to_bytes(tensors))
    assert all(torch.equal(found[name], tensors[name].resolve_conj()) for name in tensors)


def test_two_names_of_one_memory_stay_one_memory() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = module[0].weight
    data = to_bytes(state_of(module))
    found = from_bytes(data)
    assert found["0.weight"].data_ptr() == found["1.weight"].data_ptr()
    assert memory_of(module) == (9 + 3 + 3) * 4


def test_what_is_loaded_is_aligned_as_torchs_own_memory() -> None:
    found = from_bytes(to_bytes({f"t{i}": torch.randn(i + 1) for i in range(20)}))
    assert all(tensor.data_ptr() % 64 == 0 for tensor in found.values())


def test_restoring_gives_values_dtype_and_buffers_that_are_not_persistent() -> None:
    def build() -> nn.Module:
        module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        module.register_buffer("secret", torch.randn(3), persistent=False)
        return module

    first, second = build().to(torch.float64), build()
    restore(second, from_bytes(to_bytes(state_of(first))))
    assert second[0].weight.dtype == torch.float64
    assert all(torch.equal(state_of(second)[name], value) for name, value in state_of(first).items())


def test_restoring_into_another_structure_names_the_difference() -> None:
    tensors = state_of(nn.Linear(2, 2))
    with pytest.raises(UsageError, match=r"no bias"):
        restore(nn.Linear(2, 2, bias=False), tensors)
    with pytest.raises(UsageError, match=r"weight was \[2, 2\] and is \[2, 3\]"):
        restore(nn.Linear(3, 2), tensors)


def test_lazy_parameters_are_given_their_shapes() -> None:
    lazy = nn.LazyLinear(2)
    restore(lazy, state_of(nn.Linear(3, 2)))
    assert lazy(torch.ones(1, 3)).shape == (1, 2)


def test_what_cannot_be_stored_is_named() -> None:
    with pytest.raises(UsageError, match=r"'s' is dense"):
        to_bytes({"s": torch.eye(2).to_sparse()})
    with pytest.raises(UsageError, match=r"'w' has values"):
        to_bytes({"w": nn.LazyLinear(1).weight})


@pytest.mark.parametrize("data", [b"", b"\x00" * 8, b"not safetensors at all"])
def test_damaged_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(StoreError, match="safetensors"):
        from_bytes(data)


def test_a_cut_file_is_refused() -> None:
    with pytest.raises(StoreError):
        from_bytes(to_bytes({"t": torch.ones(100)})[:-1])


def test_a_file_names_dtypes_of_torch_and_nothing_else_of_it() -> None:
    data = to_bytes({"a": torch.zeros(2, dtype=torch.complex64)})
    for name in ("hub.load", "load", "nn", "nothing"):
        bad = data.replace(b"complex64", name.ljust(9).encode())
        with pytest.raises(StoreError, match="dtype of torch"):
            from_bytes(bad)


@pytest.mark.parametrize(
    "facts",
    [
        '{"t": {"stride": [1000000000, 1]}}',
        '{"t": {"stride": [-1, 1]}}',
        '{"t": {"stride": [1]}}',
        '{"t": {"stride": "x"}}',
        '{"t": {"dtype": "Tensor", "shape": [1]}}',
        '{"t": {"dtype": "complex64", "shape": [99]}}',
        '{"t": {"same_as": "u"}}',
        '{"u": {"same_as": "u"}}',
        '{"u": {}}',
        '{"t": 5}',
        "[" * 1000,
        "5",
    ],
)
def test_a_header_that_cannot_be_is_refused(facts: str) -> None:
    data = safetensors.torch.save({"t": torch.ones(2, 3)}, metadata={"esen_lab": facts})
    with pytest.raises(StoreError, match="whole safetensors"):
        from_bytes(data)
