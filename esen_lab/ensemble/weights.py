"""Tensors as safetensors bytes and back, bit for bit, with what the format itself drops.

Safetensors keeps contiguous, separate tensors. What a network may hold beyond that (another memory order, two names
for one memory, a dtype the format does not know) goes into the file's own header as JSON, under the key "esen_lab".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import msgspec

from esen_lab.common.tensors import aligned, check_tensor, fills_its_memory
from esen_lab.ensemble.fingerprint import view_key
from esen_lab.ensemble.origin import is_tensor
from esen_lab.errors import StoreError, UsageError
from esen_lab.files import converted, decode_json

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.nn import UninitializedParameter

_KEY = "esen_lab"
_DENSE = "Parameters and buffers of a sub-model are dense and have values"
# The dtypes that the format has had from the start; others are kept as bytes.
_KNOWN = frozenset(("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64"))


def state_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter and buffer under every name it has, non-persistent buffers included. Not copied."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def check_state(module: nn.Module, *, lazy: bool = False) -> None:
    """Refuse a network whose weights have a form that is neither read bit for bit nor kept.

    Args:
        module: The network.
        lazy: Whether parameters may still wait for their shapes.

    Raises:
        UsageError: A parameter or buffer is sparse, quantized, nested, without values, ...; the message has its name.
    """
    buffers = dict(module.named_buffers(remove_duplicate=False))
    for name, tensor in state_of(module).items():
        if lazy and is_lazy(tensor):
            continue
        try:
            check_tensor(tensor, f"the {'buffer' if name in buffers else 'parameter'} {name!r}", _DENSE)
        except UsageError as problem:
            raise UsageError(problem.rule, given=problem.given, hint=_hint_of(tensor)) from problem
    for path, part in module.named_modules():
        for key, value in vars(part).items():
            if is_tensor(value) and value.is_nested:  # a part's tables hold none themselves
                where = f"the attribute {f'{path}.{key}' if path else key!r}"
                check_tensor(value, where, _DENSE)


def _hint_of(tensor: torch.Tensor) -> str:
    if is_lazy(tensor):
        return "Leave it out where the example does not reach it, or run the network once first."
    if tensor.is_meta:
        return "Load its weights first, as with module.to_empty(device='cpu') and load_state_dict."
    return "Keep it dense and convert it in forward, or, where it is sparse, make it a plain attribute: self.w = w."


def memory_of(module: nn.Module) -> int:
    """Bytes of parameters and buffers; memory under two names counts once."""
    sizes: dict[tuple[str, int], int] = {}
    for tensor in state_of(module).values():
        storage = tensor.untyped_storage()
        sizes[str(tensor.device), storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values())


def restore(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Give `module` the values that `state_of` found: dtype, memory order and sharing included.

    Raises:
        UsageError: The module's names or shapes are not those of `tensors`; the message names the first that differs.
    """
    import torch

    present = state_of(module)
    missing, extra = sorted(tensors.keys() - present.keys()), sorted(present.keys() - tensors.keys())
    differ = [*(f"no {name}" for name in missing), *(f"a new {name}" for name in extra)]
    if differ:
        raise _built_otherwise(", ".join(differ[:4]))
    with torch.no_grad():
        for name, tensor in tensors.items():
            target = present[name]
            if is_lazy(target):
                cast("UninitializedParameter", target).materialize(tuple(tensor.shape), dtype=tensor.dtype)
            elif target.shape != tensor.shape:
                raise _built_otherwise(f"{name} was {list(tensor.shape)} and is {list(target.shape)}")
            target.data = tensor.data


def _built_otherwise(given: str) -> UsageError:
    return UsageError(
        "A sub-model has the same parameters and buffers each time it is built",
        given=given,
        hint="Build it without chance, and without reading what may change.",
    )


def to_bytes(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """All `tensors` in the safetensors format.

    Raises:
        UsageError: A tensor is sparse, quantized, or has no values yet.
    """
    import safetensors.torch
    import torch

    plain: dict[str, torch.Tensor] = {}
    facts: dict[str, dict[str, Any]] = {}
    seen: dict[tuple[Any, ...], str] = {}
    memories: set[int] = set()
    for name, tensor in tensors.items():
        if is_lazy(tensor) or tensor.is_meta:
            raise UsageError(f"The tensor {name!r} has values", given="one that is not initialised yet")
        value = tensor.detach()
        if value.layout is not torch.strided or value.is_quantized:
            raise UsageError(f"The tensor {name!r} is dense", given=f"{value.layout}, {value.dtype}")
        same = view_key(value) if value.numel() else (name,)
        if same in seen:
            facts[name] = {"same_as": seen[same]}
            continue
        seen[same] = name
        fact: dict[str, Any] = {}
        if not value.is_contiguous() and fills_its_memory(value):
            fact["stride"] = list(value.stride())
        value = value.cpu().contiguous()
        if value.is_conj() or value.is_neg():
            value = value.resolve_conj().resolve_neg()
        if value.dtype.is_complex or _dtype_name(value) not in _KNOWN:
            fact["dtype"], fact["shape"] = _dtype_name(value), list(value.shape)
            value = torch.view_as_real(value).contiguous() if value.dtype.is_complex else value
            value = value.reshape(-1).view(torch.uint8)
        if fact:
            facts[name] = fact
        # Two names may be different views of one memory; the format wants each on its own.
        memory = value.untyped_storage().data_ptr()
        plain[name] = value.clone() if memory in memories else value
        memories.add(memory)
    return safetensors.torch.save(plain, metadata={_KEY: json.dumps(facts)})


def from_bytes(data: bytes) -> dict[str, torch.Tensor]:
    """The inverse of `to_bytes`; new memory on the CPU.

    Raises:
        StoreError: The bytes are not whole safetensors data.
    """
    import safetensors.torch

    try:
        plain = safetensors.torch.load(data)
        length = int.from_bytes(data[:8], "little")
        header = decode_json(data[8 : 8 + length]).get("__metadata__", {})
        facts = converted(decode_json(header.get(_KEY, "{}").encode()), dict[str, _Fact], "the header")
        return _as_they_were(plain, facts)
    except Exception as problem:  # the format's own reader raises a type of its own
        raise StoreError("Weights are whole safetensors data", given=str(problem)) from problem


class _Fact(msgspec.Struct):
    """What the header adds to one tensor."""

    same_as: str = ""
    dtype: str = ""
    shape: list[int] = []
    stride: list[int] | None = None


def _as_they_were(plain: Mapping[str, torch.Tensor], facts: Mapping[str, _Fact]) -> dict[str, torch.Tensor]:
    import torch

    out: dict[str, torch.Tensor] = {}
    for name in [*plain, *(name for name in facts if name not in plain)]:
        fact = facts.get(name, _Fact())
        if fact.same_as:
            out[name] = out[fact.same_as]
            continue
        value = plain[name]
        if fact.dtype:
            dtype = getattr(torch, fact.dtype, None)
            if not isinstance(dtype, torch.dtype):
                raise StoreError("A tensor has a dtype of torch", given=f"{name}: {fact.dtype}")
            if not value.numel() and 0 not in fact.shape:
                raise StoreError("An empty tensor has an empty shape", given=f"{name}: {fact.shape}")
            value = value.view(dtype).reshape(fact.shape) if value.numel() else value.new_empty(fact.shape, dtype=dtype)
        if fact.stride is not None:
            reach = 1 + sum((size - 1) * step for size, step in zip(value.shape, fact.stride, strict=True))
            if reach != value.numel() or min(fact.stride, default=0) < 0:
                raise StoreError("A tensor fills its memory", given=f"{name}: strides {fact.stride}")
            value = torch.empty_strided(value.shape, fact.stride, dtype=value.dtype).copy_(value)
        out[name] = aligned(value)
    return out


def is_lazy(tensor: torch.Tensor) -> bool:
    """Whether a parameter or buffer still waits for its shape, as those of `nn.LazyLinear` do."""
    from torch import nn

    return isinstance(tensor, (nn.UninitializedParameter, nn.UninitializedBuffer))


def _dtype_name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def has_lazy(module: nn.Module) -> bool:
    """Whether a parameter or buffer of `module` still waits for its shape."""
    return any(map(is_lazy, state_of(module).values()))
