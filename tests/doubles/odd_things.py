"""Things that somebody may pass to an ensemble, or return from a sub-model: what works, and what is refused.

`GOOD` and `BAD` map a name to a function that makes the thing. `Echo` answers with the first tensor it finds.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple
from unittest.mock import MagicMock

import numpy as np
import torch
from torch import nn

warnings.filterwarnings("ignore", category=UserWarning, module="odd_things|torch")  # of layouts that torch calls new
X = torch.arange(12.0).reshape(3, 4) / 7
DTYPES = (
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "bfloat16", "float64", "complex32", "complex64", "complex128"),
    *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
)
_BYTES = torch.zeros(12, dtype=torch.uint8)


class Echo(nn.Module):
    """Answers with the first tensor that it finds in what it is given."""

    def forward(self, x: Any = None, *rest: Any, **named: Any) -> torch.Tensor:
        while not isinstance(x, torch.Tensor):
            x = next(iter(x.values())) if isinstance(x, dict) else x[0]
        return x.clone()


class Answers(nn.Module):
    """Answers with one of the things below; with the input itself while that begins with a number up to 90."""

    def __init__(self, name: str, always: bool) -> None:
        super().__init__()
        self.name, self.always = name, always

    def forward(self, x: torch.Tensor) -> Any:
        if self.always or float(x.flatten()[0]) > 90:
            return {**GOOD, **BAD}[self.name]()
        return x.clone()


class Quiet(torch.Tensor):
    """A subclass that changes nothing."""


class Loud(torch.Tensor):
    """A subclass that may compute in its own way."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return super().__torch_function__(func, types, args, kwargs or {})


class Pair(NamedTuple):
    a: Any
    b: Any


@dataclasses.dataclass
class Record:
    x: Any


class Own(Mapping[str, Any]):
    """A mapping of the user's own."""

    def __init__(self, inside: Mapping[str, Any]) -> None:
        self.inside = inside

    def __getitem__(self, key: str) -> Any:
        return self.inside[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.inside)

    def __len__(self) -> int:
        return len(self.inside)


class Failing(Own):
    """One that reads its parts when it is asked, and cannot."""

    def __getitem__(self, key: str) -> Any:
        raise OSError("the disk is gone")


class Mode(enum.IntEnum):
    FAST = 1


def shrunk(size: int) -> torch.Tensor:
    tensor = torch.rand(3, 4)
    tensor.untyped_storage().resize_(size)
    return tensor


def made_in_inference_mode() -> torch.Tensor:
    with torch.inference_mode():
        return torch.rand(3, 4)


def fake() -> Any:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode() as mode:
        return mode.from_tensor(X)


def inside(transform: Callable[..., Any], x: torch.Tensor = X) -> Any:
    seen: list[torch.Tensor] = []

    def function(tensor: torch.Tensor) -> torch.Tensor:
        seen.append(tensor)
        return tensor.sum()

    transform(function)(x)
    return seen[0]


def quantized(dtype: torch.dtype) -> torch.Tensor:
    return torch.quantize_per_tensor(X, 0.1, 0, dtype)


def per_channel() -> torch.Tensor:
    return torch.quantize_per_channel(X, torch.ones(3), torch.zeros(3), 0, torch.qint8)


def nested(levels: int) -> Any:
    tree: Any = X
    for _ in range(levels):
        tree = [tree]
    return tree


def holds_itself() -> list[Any]:
    tree: list[Any] = [X]
    tree.append(tree)
    return tree


def doubled(times: int) -> list[Any]:
    tree: list[Any] = [X]
    for _ in range(times):
        tree = [tree, tree]
    return tree


def read_only() -> Any:
    array = X.numpy().copy()
    array.setflags(write=False)
    return array


def packed() -> Any:
    return np.zeros(3, dtype=[("a", "i1"), ("b", "f4")])


def beyond() -> Any:
    return np.lib.stride_tricks.as_strided(np.zeros(4, np.float32), (3, 10**7), (4 * 10**7, 4))


GOOD: dict[str, Callable[[], Any]] = {
    "tensor": lambda: X,
    **{dtype: lambda dtype=dtype: X.to(getattr(torch, dtype)) for dtype in DTYPES},  # type: ignore[misc]
    "no numbers": lambda: torch.zeros(0, 4),
    "no numbers of a wide shape": lambda: torch.zeros(0, 10**15),
    "scalar": lambda: torch.tensor(2.0),
    "expanded": lambda: torch.ones(1, 4).expand(3, 4),
    "overlapping": lambda: torch.arange(6.0).as_strided((3, 4), (1, 1)),
    "transposed": X.t,
    "every second": lambda: torch.rand(6, 8)[::2, ::2],
    "channels last": lambda: torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last),
    "channels last in 3d": lambda: torch.rand(2, 3, 4, 4, 4).to(memory_format=torch.channels_last_3d),
    "parameter": lambda: nn.Parameter(X),
    "buffer": lambda: nn.Buffer(X),
    "subclass": lambda: X.as_subclass(Quiet),
    "requires grad": lambda: X.clone().requires_grad_(),
    "of a graph": lambda: X.clone().requires_grad_() * 2,
    "inference": made_in_inference_mode,
    "shared": lambda: X.clone().share_memory_(),
    "conjugate": lambda: torch.complex(X, X).conj(),
    "negative bit": lambda: torch.complex(X, X).conj().imag,
    "tuple": lambda: (X, X),
    "list": lambda: [X],
    "named tuple": lambda: Pair(X, X),
    "ordered dict": lambda: collections.OrderedDict(x=X),
    "default dict": lambda: collections.defaultdict(int, x=X),
    "user dict": lambda: collections.UserDict(x=X),
    "mapping of one's own": lambda: Own({"x": X}),
    "mapping proxy": lambda: types.MappingProxyType({"x": X}),
    "constants": lambda: (X, True, 1, 1.0, -0.0, "text", None, float("nan")),
    "NumPy's scalars": lambda: (X, np.float32(2), np.int64(1), np.bool_(True), np.str_("text")),
    "sizes": lambda: (X, torch.Size([1, 2])),
    "whole numbers as keys": lambda: ({1: X, "a": X},),
    "pairs as keys": lambda: ({("user", "item"): X},),
    "40 levels": lambda: nested(40),
    "2000 parts": lambda: [X] * 2000,
}
ARRAYS: dict[str, Callable[[], Any]] = {
    "array": X.numpy,
    "reversed": lambda: X.numpy()[::-1],
    "mirrored": lambda: X.numpy()[:, ::-1],
    "big-endian": lambda: X.numpy().astype(">f4"),
    "big-endian complex": lambda: X.numpy().astype(">c8"),
    "read-only": read_only,
    "broadcast": lambda: np.broadcast_to(np.float32(2), (3, 4)),
    "field": lambda: packed()["b"],
    "unaligned": lambda: np.frombuffer(b"\0" * 49, dtype=np.float32, offset=1).reshape(3, 4),
    "Fortran": lambda: np.asfortranarray(X.numpy()),
    "windows": lambda: np.lib.stride_tricks.sliding_window_view(np.arange(6, dtype="f4"), 4),
    "matrix": lambda: np.matrix(X.numpy()),
    "array of no numbers": lambda: np.zeros((0, 4), np.float32),
    "array of no dimensions": lambda: np.array(3.0, np.float32),
    **{dtype: lambda dtype=dtype: X.numpy().astype(dtype) for dtype in ("?", "u2", "u8", "f2", "f8", "c16")},  # type: ignore[misc]
}
BAD: dict[str, Callable[[], Any]] = {
    "sparse": X.to_sparse,
    "sparse rows": X.to_sparse_csr,
    "sparse columns": X.to_sparse_csc,
    "sparse blocks": lambda: torch.rand(4, 4).to_sparse_bsr((2, 2)),
    "mkldnn": X.to_mkldnn,
    "nested": lambda: torch.nested.nested_tensor([X, X[:2]]),
    "jagged": lambda: torch.nested.nested_tensor([X, X[:2]], layout=torch.jagged),
    "masked": lambda: torch.masked.masked_tensor(X, X > 1),
    "meta": lambda: X.to("meta"),
    "quint8": lambda: quantized(torch.quint8),
    "qint8": lambda: quantized(torch.qint8),
    "qint32": lambda: quantized(torch.qint32),
    "quint4x2": lambda: quantized(torch.quint4x2),
    "quantized by channel": per_channel,
    "bits": lambda: _BYTES.view(torch.bits8),
    "uint4": lambda: _BYTES.view(torch.uint4),
    "float4": lambda: _BYTES.view(torch.float4_e2m1fn_x2),
    "no memory": lambda: shrunk(0),
    "too little memory": lambda: shrunk(8),
    "more than all memory": lambda: torch.ones(1).expand(10**13),
    "zeros without memory": lambda: torch._efficientzerotensor(3, 4),
    "loud subclass": lambda: X.as_subclass(Loud),
    "lazy parameter": nn.UninitializedParameter,
    "lazy buffer": nn.UninitializedBuffer,
    "dataclass": lambda: Record(X),
    "namespace": lambda: types.SimpleNamespace(x=X),
    "failing mapping": lambda: Failing({"x": X}),
    "objects as keys": lambda: ({object(): X},),
    "floats as keys": lambda: ({1.5: X},),
    "bytes": lambda: (X, b"a"),
    "complex constant": lambda: (X, 1j),
    "enum": lambda: (X, Mode.FAST),
    "dtype": lambda: (X, torch.float32),
    "endless digits": lambda: (X, 10**5000),
    "set": lambda: {1},
    "generator": lambda: (part for part in [X]),
    "holds itself": holds_itself,
    "2 to the 40 parts": lambda: doubled(40),
    "100 levels": lambda: nested(100),
    "100,000 levels": lambda: nested(100_000),
    "200,000 parts": lambda: [1] * 200_000,
    "storage": X.untyped_storage,
    "structured array": packed,
    "objects": lambda: np.array([None, X], dtype=object),
    "texts": lambda: np.array(["a"]),
    "dates": lambda: np.array(["2020-01-01"], dtype="M8[D]"),
    "long doubles": lambda: np.zeros(3, np.longdouble),
    "masked array": lambda: np.ma.masked_array(X.numpy(), mask=X.numpy() > 1),
    "array beyond its memory": lambda: np.lib.stride_tricks.as_strided(
        np.zeros(4, np.float32), (3, 10**7), (4 * 10**7, 4)
    ),
    "array of more than all memory": lambda: np.broadcast_to(np.float32(2), (10**7, 10**7)),
}
# Refused as inputs only: no worker can make them, or nobody returns them.
NEVER_IN: dict[str, Callable[[], Any]] = {
    "fake": fake,
    "in vmap": lambda: inside(torch.func.vmap, torch.rand(2, 3, 4)),
    "in grad": lambda: inside(torch.func.grad),
    "in functionalize": lambda: inside(torch.func.functionalize),
    "None": lambda: None,
    "number": lambda: 3,
    "text": lambda: "a",
    "empty list": list,
    "empty dict": dict,
    "floats": lambda: [1.0, 2.0],
    "mock": lambda: MagicMock(spec=torch.Tensor),
    "class": lambda: torch.Tensor,
    "module": lambda: nn.Linear(1, 1),
}
