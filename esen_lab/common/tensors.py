"""Which tensors lanes can exchange, and how a tensor or array of an input is made one of them.

    an input                     what goes in
    --------------------------   -----------------------------------------------------------------------------
    a dense tensor               itself, without its gradient; conjugate and negative views resolved
    nn.Parameter, a subclass     the plain tensor in it, where the subclass changes nothing that torch does
    a NumPy array                a tensor of the same numbers; copied where torch cannot share its memory
    everything else              refused by one `UsageError` that names the path to it and what to do

Dense: strided, with values in memory that is really there, of a dtype in `DTYPES`. Read beyond its memory, or written
as quantized, a tensor ends the process without a word; so nothing is copied anywhere before it was checked here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from esen_lab.common.free_memory import available_bytes
from esen_lab.common.units import format_bytes
from esen_lab.errors import UsageError, first_line

if TYPE_CHECKING:
    import torch

DTYPES = frozenset(
    (
        *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
        *("float16", "bfloat16", "float32", "float64", "complex32", "complex64", "complex128"),
        *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
    )
)
"""The names within torch of the dtypes that are copied, compared and saved bit for bit."""

_PICKLED = frozenset(
    name for name in DTYPES if name not in ("uint16", "uint32", "uint64", "complex32") and name[:6] != "float8"
)
"""Those of them that torch reads from a bare pickle."""

MEMORY_FORMATS: Mapping[int, str] = {4: "channels_last", 5: "channels_last_3d"}
"""By the number of dimensions: torch's name of the layout with channels innermost."""

_DENSE = "Give x.to_dense()."
_HINTS: Mapping[str, str] = {
    "sparse_coo": _DENSE,
    "sparse_csr": _DENSE,
    "sparse_csc": _DENSE,
    "sparse_bsr": _DENSE,
    "sparse_bsc": _DENSE,
    "_mkldnn": _DENSE,
    "jagged": "Pad it: torch.nested.to_padded_tensor(x, 0.0), with a mask beside it.",
}
_BYTES_OF_64_BITS = 8
_ARRAY_KINDS = "biufc"  # of numbers, in NumPy's letters
_ALWAYS_FITS_BYTES = 1 << 28  # below, nobody asks how much memory there is
# Subclasses that have a __torch_function__ of their own and promise to compute as the plain tensor does.
_COMPUTE_AS_PLAIN = ("torchvision.tv_tensors",)


def check_tensor(tensor: torch.Tensor, what: str, rule: str = "") -> None:
    """Refuse a tensor that cannot be copied into memory that lanes share.

    Args:
        tensor: Any tensor.
        what: What it is called in messages.
        rule: What is said of all tensors of its sort; "": of those of inputs and outputs.

    Raises:
        UsageError: It is no dense tensor with values; the message calls it `what`.
    """
    import torch
    from torch.nn.parameter import is_lazy

    kind = type(tensor)
    if is_lazy(tensor):
        raise _refused(what, "a parameter without a shape yet", "Run its module once first.", rule)
    if kind is not torch.Tensor and not _computes_as_plain(kind):
        own = f"a {kind.__module__}.{kind.__qualname__}, which computes in its own way"
        raise _refused(what, own, _own_way(kind), rule)
    try:
        problem = _problem_of(tensor)
    except RuntimeError as told:  # of a kind that torch made since: it has no sizes or no memory
        problem = f"one without memory of its own ({first_line(told)})", "Give x.to_dense(), or a copy: x.clone()."
    if problem is not None:
        raise _refused(what, *problem, rule)
    check_size(tensor.nbytes, what)


def is_dense(tensor: torch.Tensor) -> bool:
    """The quick look at every call's tensors: whether one is dense, but for its dtype; `check_tensor` says why not."""
    import torch

    return (type(tensor) is torch.Tensor or _computes_as_plain(type(tensor))) and has_its_memory(tensor)


def has_its_memory(tensor: torch.Tensor) -> bool:
    """Whether a tensor of torch's own class is one row of memory that is really there. Nothing of it is read here."""
    try:
        # These raise, or there is no address, on the meta device, for other layouts and inside torch.func.
        if tensor.is_nested or not tensor.data_ptr():
            return False
        held = tensor.untyped_storage().nbytes()
        if tensor.is_contiguous():
            return tensor.storage_offset() * tensor.itemsize + tensor.nbytes <= held
        return _is_in_memory(tensor)
    except (RuntimeError, TypeError, ValueError):
        return False


def _problem_of(tensor: torch.Tensor) -> tuple[str, str] | None:
    """What is wrong with a tensor of torch's own class, and what to do about it."""
    import torch

    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return "one inside torch.func (vmap, grad or functionalize)", "Call this outside of the transformed function."
    if tensor.is_nested:
        return "a nested tensor", _HINTS["jagged"]
    layout = str(tensor.layout).removeprefix("torch.")
    if tensor.layout is not torch.strided:
        return f"one of the layout {layout}", _HINTS.get(layout, _DENSE)
    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.is_quantized:
        return f"quantized, {dtype}", "Give x.dequantize(), or its numbers: x.int_repr()."
    if dtype not in DTYPES:
        return f"of dtype {dtype}", "Give x.view(torch.uint8), or another dtype."
    if tensor.is_meta:
        return (
            "on the meta device, so it has no values",
            "Give one with values, on the CPU or a GPU.",
        )
    if any(getattr(tensor, "names", ())):
        return "one with named dimensions", "Give x.rename(None)."
    if tensor._is_zerotensor():
        return "one without memory of its own", "Give x.clone()."
    if tensor.device.type == "cpu" and not _is_in_memory(tensor):
        return "one whose memory is smaller than its shape", "Give a tensor whose storage was not resized."
    return None


def _is_in_memory(tensor: torch.Tensor) -> bool:
    """Whether all of a strided tensor lies in its storage: `untyped_storage().resize_()` may have shrunk that."""
    if tensor.numel() == 0:
        return True
    end = tensor.storage_offset() + extent(tensor)
    return end * tensor.element_size() <= tensor.untyped_storage().nbytes()


def extent(tensor: torch.Tensor) -> int:
    """How many elements lie from a strided tensor's first one to its last, those in gaps included; it has some."""
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _computes_as_plain(kind: type) -> bool:
    """Whether torch computes with a subclass as with a plain tensor, so that the plain one in it can stand for it."""
    import torch

    if kind.__module__.startswith(_COMPUTE_AS_PLAIN):
        return True
    function: Any = kind.__torch_function__  # type: ignore[attr-defined]
    dispatch: Any = kind.__torch_dispatch__  # type: ignore[attr-defined]
    own_function = getattr(function, "__func__", function)
    known = (getattr(torch.Tensor.__torch_function__, "__func__", None), torch._C._disabled_torch_function_impl)
    return dispatch is torch._C._disabled_torch_dispatch_impl and own_function in known


def _own_way(kind: type) -> str:
    return _HINTS["jagged"] if kind.__name__ == "NestedTensor" else "Give a plain one: x.as_subclass(torch.Tensor)."


def _refused(what: str, given: str, hint: str, rule: str) -> UsageError:
    return UsageError(
        rule or "Tensors that go to sub-models or come from them are dense and have values",
        given=f"{what} is {given}",
        hint=hint,
    )


ALIGNMENT = 64
"""Bytes at whose multiples torch's own memory begins, on a CPU: a cache line."""


def aligned(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, or a copy of it where its memory begins elsewhere than torch's own would.

    Some kernels choose their way, and so their last bits, by the address of their numbers.
    """
    return tensor.clone() if tensor.data_ptr() % ALIGNMENT else tensor


def is_channels_last(tensor: torch.Tensor) -> bool:
    """Whether a tensor of 4 or 5 dimensions is laid out with channels innermost, and not as usual."""
    import torch

    return not tensor.is_contiguous() and tensor.is_contiguous(
        memory_format=getattr(torch, MEMORY_FORMATS[tensor.dim()])
    )


def is_laid_out(tensor: torch.Tensor) -> bool:
    """Whether a tensor lies as lanes are given it: contiguous, or with channels innermost."""
    return tensor.is_contiguous() or (tensor.dim() in MEMORY_FORMATS and is_channels_last(tensor))


def laid_out(tensor: torch.Tensor) -> torch.Tensor:
    """A copy that lies so."""
    import torch

    return tensor.clone(memory_format=torch.preserve_format if is_laid_out(tensor) else torch.contiguous_format)


# --- between processes ----------------------------------------------------------------------------------------------


def reduced(tensor: torch.Tensor) -> Any:
    """How `pickle` makes a tensor of torch's own class again, or NotImplemented where its own way does it.

    torch reads a bare pickle of the dtypes that it took up since 2.1 (float8, uint16 and more) no more.
    """
    import torch

    if str(tensor.dtype).removeprefix("torch.") in _PICKLED or not is_dense(tensor):
        return NotImplemented
    size = tuple(tensor.size()), tuple(tensor.stride())
    plain = tensor.detach()
    if not fills_its_memory(plain):
        plain = plain.contiguous()
        size = tuple(plain.size()), tuple(plain.stride())
    flat = plain.as_strided((plain.numel(),), (1,)) if plain.numel() else plain.reshape(-1)
    return _made_again, (bytes(flat.view(torch.uint8).cpu().numpy().data), str(tensor.dtype)[6:], *size)


def _made_again(data: bytes, dtype: str, shape: tuple[int, ...], stride: tuple[int, ...]) -> torch.Tensor:
    import torch

    made = torch.empty_strided(shape, stride, dtype=getattr(torch, dtype), device="cpu")
    if data:
        made.as_strided((made.numel(),), (1,)).view(torch.uint8).copy_(
            torch.frombuffer(bytearray(data), dtype=torch.uint8)
        )
    return made


def fills_its_memory(tensor: torch.Tensor) -> bool:
    """Whether its elements lie one after another without a gap, in some order."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


# --- the way in -----------------------------------------------------------------------------------------------------


def taken_in(leaf: Any, path: str) -> torch.Tensor | None:
    """What goes in for a leaf of an input (see the table above); None for what is neither a tensor nor an array.

    Raises:
        UsageError: It cannot go in; the message names `path`.
    """
    import torch

    kind = type(leaf)
    if issubclass(kind, torch.Tensor):
        check_tensor(leaf, path)
        return _plain(leaf)
    numpy: Any = _numpy_of(kind)
    return None if numpy is None else _from_array(leaf, path, numpy)


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    import torch

    if tensor.requires_grad:
        tensor = tensor.detach()
    if type(tensor) is not torch.Tensor:
        tensor = tensor.as_subclass(torch.Tensor)
    return tensor.resolve_conj().resolve_neg()


def _numpy_of(kind: type) -> Any:
    """NumPy where `kind` is an array of it; only then it needs to be loaded."""
    if not any(base.__module__.startswith("numpy") for base in kind.__mro__):
        return None
    import numpy

    return numpy if issubclass(kind, numpy.ndarray) else None


def _from_array(array: Any, path: str, numpy: Any) -> torch.Tensor:
    """A tensor of an array's numbers."""
    import torch

    rule = "An array that goes to sub-models holds numbers"
    if isinstance(array, numpy.ma.MaskedArray):
        raise UsageError(rule, given=f"{path} has masked ones", hint="Fill them: x.filled(0), with the mask beside it.")
    if array.dtype.kind not in _ARRAY_KINDS:
        raise UsageError(rule, given=f"{path} is of dtype {array.dtype}", hint="Give its numbers: x.astype('float32').")
    _check_memory(array, path, numpy)
    check_size(array.nbytes, path)
    array = numpy.asarray(array)
    swapped = not array.dtype.isnative
    if swapped or not (array.flags.writeable and array.flags.aligned) or _is_awkward(array):
        array = numpy.array(array, dtype=array.dtype.newbyteorder("=") if swapped else None, order="C")
    try:
        return torch.from_numpy(known_to_torch(array))
    except (TypeError, ValueError) as problem:
        raise UsageError(
            "An array that goes to sub-models holds numbers that torch knows",
            given=f"{path} is of dtype {array.dtype}",
            hint="Convert it with astype.",
        ) from problem


def known_to_torch(array: Any) -> Any:
    """An array, its numbers of 64 bits without a sign called as torch knows them: NumPy has two names for these."""
    return array.view("uint64") if array.dtype.char == "Q" and array.dtype.itemsize == _BYTES_OF_64_BITS else array


def _is_awkward(array: Any) -> bool:
    """Whether its strides are such that torch does not share its memory."""
    return any(stride < 0 or stride % array.itemsize for stride in array.strides)


def _check_memory(array: Any, path: str, numpy: Any) -> None:
    """Refuse an array that reaches beyond what it is a view of, as `numpy.lib.stride_tricks.as_strided` can make."""
    owner = array
    while getattr(owner, "base", None) is not None:
        owner = owner.base
    if owner is array or not isinstance(owner, numpy.ndarray) or not array.size:
        return
    low, high = _bounds(array)
    first, last = _bounds(owner)
    if low < first or high > last:
        raise UsageError(
            "An array that goes to sub-models lies in the memory that it is a view of",
            given=f"{path} reaches beyond it",
            hint="Check its strides.",
        )


def _bounds(array: Any) -> tuple[int, int]:
    """The addresses between which an array lies."""
    low = high = array.__array_interface__["data"][0]
    for size, stride in zip(array.shape, array.strides, strict=True):
        if size and stride < 0:
            low += (size - 1) * stride
        elif size:
            high += (size - 1) * stride
    return low, high + array.itemsize


def flipped(tensor: torch.Tensor, dims: list[int]) -> torch.Tensor:
    """The same in the opposite order along some dimensions; torch flips no whole numbers of these dtypes itself."""
    import torch

    signed = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}.get(tensor.dtype)
    if signed is None:
        return tensor.flip(dims)
    found: torch.Tensor = tensor.view(signed).flip(dims).view(tensor.dtype)
    return found


def sharing(tensors: Sequence[torch.Tensor]) -> tuple[int, int] | None:
    """Which two of some dense tensors have an element in common, by their numbers; None where no two have."""
    spans = sorted((*_span(tensor), number) for number, tensor in enumerate(tensors) if tensor.numel())
    for index, (_, end, first) in enumerate(spans):
        for start, _, second in spans[index + 1 :]:
            if start >= end:
                break
            if tensors[first].device == tensors[second].device and _meet(tensors[first], tensors[second]):
                return min(first, second), max(first, second)
    return None


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    """The addresses between which a tensor lies."""
    start = tensor.data_ptr()
    return start, start + extent(tensor) * tensor.itemsize


def _meet(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two tensors whose spans overlap have a byte in common: columns of one matrix have none."""
    import torch

    low = min(_span(first)[0], _span(second)[0])
    mark = torch.zeros(max(_span(first)[1], _span(second)[1]) - low, dtype=torch.uint8, device="cpu")
    views = []
    for tensor in (first, second):
        steps = [(size, step) for size, step in zip(tensor.shape, tensor.stride(), strict=True) if step]
        sizes = [*(size for size, _ in steps), tensor.itemsize]
        strides = [*(step * tensor.itemsize for _, step in steps), 1]
        views.append(mark.as_strided(sizes, strides, tensor.data_ptr() - low))
    views[0].fill_(1)
    return bool(views[1].any())


def same_bytes(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two dense tensors of one dtype and shape hold the same; NaN equals NaN."""
    import torch

    return torch.equal(first.reshape(-1).view(torch.uint8), second.reshape(-1).view(torch.uint8))


def check_size(size_bytes: int, what: str) -> None:
    """Refuse what does not fit into memory: an expanded tensor can be larger than all of it.

    Raises:
        UsageError: There is not as much memory as `size_bytes`.
    """
    if size_bytes < _ALWAYS_FITS_BYTES:
        return
    available = available_bytes()
    if available is not None and size_bytes > available:
        raise UsageError(
            f"Tensors of a call fit into memory, of which {format_bytes(available)} can be had now",
            given=f"{what} takes {format_bytes(size_bytes)} when it is written out",
            hint="Give a smaller batch.",
        )
