"""Fingerprints: the same in every process and every run for the same weights, structure and source; else different."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{4,}")


def text_digest(*texts: str) -> str:
    """Blake2b of `texts` as 32 hexadecimal digits; ("ab", "c") and ("a", "bc") differ."""
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def tensor_digest(tensor: torch.Tensor) -> str:
    """Blake2b of dtype, shape, memory order and values."""
    import torch

    value = tensor.detach().cpu()
    order = "" if value.is_contiguous() else str(value.stride())
    digest = hashlib.blake2b(f"{value.dtype} {tuple(value.shape)} {order}".encode(), digest_size=16)
    if value.numel():
        flat = value.resolve_conj().resolve_neg().contiguous().reshape(-1)
        if flat.dtype.is_complex:
            flat = torch.view_as_real(flat).reshape(-1)
        digest.update(memoryview(flat.view(torch.uint8).numpy().data))
    return digest.hexdigest()


def tensor_digests(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """The digest of each; memory that has two names is read once."""
    known: dict[tuple[Any, ...], str] = {}
    out = {}
    for name, tensor in tensors.items():
        key = (str(tensor.device), tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if tensor.numel() == 0 or key not in known:
            known[key] = tensor_digest(tensor)
        out[name] = known[key]
    return out


def fingerprint(digests: Mapping[str, str], structure: str, source: str) -> str:
    """One fingerprint of a sub-model.

    Args:
        digests: What `tensor_digests` gives for its tensors.
        structure: Its classes and plain attributes as text; addresses in it do not count.
        source: The source text it was built from, or "".
    """
    names = sorted(digests)
    return text_digest(
        _ADDRESS.sub("0x", structure), source, *(part for name in names for part in (name, digests[name]))
    )


def same_bits(first: Iterable[torch.Tensor], second: Iterable[torch.Tensor]) -> bool:
    """Whether two rows of tensors agree in number, dtype, shape and every bit (NaN equals NaN)."""
    a, b = list(first), list(second)
    return len(a) == len(b) and all(
        x.dtype == y.dtype and x.shape == y.shape and tensor_digest(x.contiguous()) == tensor_digest(y.contiguous())
        for x, y in zip(a, b, strict=True)
    )
