"""The bytes that tensors, arrays and buffers hold, looked at where they lie: some of them at once, others in turn."""

from __future__ import annotations

import ctypes
import functools
import operator
import pickle
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from esen_lab.common.tensors import extent, has_its_memory
from esen_lab.ensemble.origin import RAISED

if TYPE_CHECKING:
    import torch

LARGEST_OPAQUE = 1 << 16
"""Objects that are larger than this, pickled, are not pickled at every look."""
_SAMPLE_BYTES = 64
_SMALL_BYTES = 512  # up to here all of a tensor is looked at every time
_PIECE_BYTES = 1 << 16
_FORMS_AT_ONCE = 32

Piece = tuple[Callable[[], int], int]
"""What sums up some bytes as they are now, and what that gave."""

form_of = operator.attrgetter("shape", "strides", "dtype")
"""How an array shows its memory, all of which can be set in place."""
tensor_form_of = operator.attrgetter("shape", "dtype", "requires_grad")
"""The same of a tensor, but for its strides, which only one of several dimensions has a choice of."""


def address_of(tensor: torch.Tensor) -> int:
    """Where a tensor's values begin; 0 for a layout without one address."""
    try:
        return tensor.data_ptr()
    except RuntimeError:
        return 0


def addressing(tensors: list[torch.Tensor]) -> Callable[[torch.Tensor], int]:
    """The fastest way to all addresses: torch's own method where every tensor has one address."""
    if not tensors:  # nothing to ask torch for, which may be gone at the end of a process
        return address_of
    import torch

    try:
        for tensor in tensors:
            tensor.data_ptr()
    except RuntimeError:
        return address_of
    return torch.Tensor.data_ptr


def has_form(tensor: torch.Tensor) -> bool:
    """Whether a tensor shows its memory by a shape and strides, of which others may show the same."""
    import torch

    return tensor.layout is torch.strided and not tensor.is_nested and not torch.nn.parameter.is_lazy(tensor)


def form_pieces(tensors: list[torch.Tensor]) -> Iterator[Piece]:
    """The forms of tensors, some at a time."""
    for at in range(0, len(tensors), _FORMS_AT_ONCE):
        forms = functools.partial(_forms_sum, tensors[at : at + _FORMS_AT_ONCE])
        yield forms, forms()


def _forms_sum(tensors: list[torch.Tensor]) -> int:
    return hash(tuple(map(tensor_form_of, tensors)))


def tensor_bytes(tensor: torch.Tensor) -> memoryview | None:
    """The memory from a tensor's first value to its last one, where it can be looked at without torch.

    Of a view there are other values in between: they may count as well.
    """
    import torch

    if tensor.device.type != "cpu" or tensor.layout is not torch.strided or tensor.is_meta or not tensor.numel():
        return None
    if not has_its_memory(tensor):  # it may have been let go of, and reading it would end this process
        return None
    return _memory(tensor.data_ptr(), extent(tensor) * tensor.element_size())


def array_bytes(array: Any) -> memoryview | None:
    """The same of an array of NumPy of any layout and dtype but objects; whoever reads it holds the array."""
    if not array.size:
        return None
    steps = [stride * (count - 1) for stride, count in zip(array.strides, array.shape, strict=True)]
    before, after = -sum(step for step in steps if step < 0), sum(step for step in steps if step > 0)
    return _memory(array.__array_interface__["data"][0] - before, before + after + array.itemsize)


def _memory(address: int, size: int) -> memoryview:
    return memoryview((ctypes.c_char * size).from_address(address)).cast("B")


def is_array(value: Any) -> bool:
    """Whether it is an array of NumPy whose values lie in its own memory.

    Not one of a file, which may be shorter by now: reading that would end this process.
    """
    numpy = sys.modules.get("numpy")
    if numpy is None or not issubclass(type(value), numpy.ndarray):
        return False
    return not value.dtype.hasobject and not _is_of_a_file(value)


def _is_of_a_file(array: Any) -> bool:
    numpy: Any = sys.modules.get("numpy")
    while issubclass(type(array), numpy.ndarray):
        if issubclass(type(array), numpy.memmap):
            return True
        array = array.base
    return False


def samples(view: memoryview) -> list[memoryview]:
    """What is looked at every time: all that is small, else the beginning, the middle and the end."""
    size = view.nbytes
    if size <= _SMALL_BYTES:
        return [view]
    middle = size // 2
    return [view[:_SAMPLE_BYTES], view[middle : middle + _SAMPLE_BYTES], view[size - _SAMPLE_BYTES :]]


def pieces(view: memoryview) -> Iterator[Piece]:
    """What is looked at in turn: nothing of what is small."""
    for at in _piece_starts(view.nbytes):
        piece = view[at : at + _PIECE_BYTES]
        yield functools.partial(zlib.crc32, piece), zlib.crc32(piece)


def _piece_starts(size: int) -> range:
    return range(0, size if size > _SMALL_BYTES else 0, _PIECE_BYTES)


# --- buffers ----------------------------------------------------------------------------------------------------------


def is_buffer(value: Any) -> bool:
    """Whether an object is one row of bytes, such as a `bytearray`."""
    try:
        return "O" not in memoryview(value).format  # whose bytes say where objects are, not what
    except RAISED:
        return False


def buffer_picture(value: Any) -> tuple[Any, ...]:
    """Some bytes of a buffer. It is held for this moment only: a bytearray that is held cannot grow."""
    view = memoryview(value)
    flat = _flat(view)
    return view.format, view.shape, view.strides, b"".join(samples(flat))


def buffer_pieces(value: Any) -> Iterator[Piece]:
    """All bytes of a buffer, in turn; each piece looks for itself again."""
    for at in _piece_starts(memoryview(value).nbytes):
        sums = functools.partial(_buffer_sum, value, at)
        yield sums, sums()


def _buffer_sum(value: Any, at: int) -> int:
    return zlib.crc32(_flat(memoryview(value))[at : at + _PIECE_BYTES])


def _flat(view: memoryview) -> memoryview:
    try:
        return view.cast("B")
    except TypeError:  # not one row, or of numbers that are not this machine's
        return memoryview(view.tobytes())


# --- objects of any kind ----------------------------------------------------------------------------------------------


def pickled(value: Any) -> Any:
    """An object of any kind as what it would be pickled as, such as a generator with its state.

    Of the arrays in it, such as a table's columns, only where they lie and some bytes.

    Returns:
        Equal for what is the same; None where it cannot be had.
    """
    try:
        if (state := _state_of_torchs(value)) is not None:
            return state
        data, buffers = _with_buffers(value)
        return (data, *map(_picture, buffers)) if buffers else data
    except RAISED:
        return None


def pickled_pieces(value: Any) -> Iterator[Piece]:
    """All bytes of the arrays in an object, in turn."""
    try:
        buffers = _with_buffers(value)[1] if _state_of_torchs(value) is None else []
    except RAISED:
        buffers = []
    for view in buffers:  # each keeps its array alive
        yield from pieces(view)


def pickled_sum(value: Any) -> int:
    """One number for all of what an object would be pickled as."""
    return zlib.crc32(pickle.dumps(value))


def in_band(picture: Any) -> int:
    """How many bytes of a picture that `pickled` made are made anew by every look."""
    return len(picture[0] if isinstance(picture, tuple) else picture)


def _state_of_torchs(value: Any) -> bytes | None:
    if not type(value).__module__.startswith("torch"):
        return None
    get_state = getattr(value, "get_state", None)
    return None if get_state is None else bytes(get_state().numpy().tobytes())


def _with_buffers(value: Any) -> tuple[bytes, list[memoryview]]:
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    return data, [buffer.raw() for buffer in buffers]


def _picture(view: memoryview) -> tuple[int, int, bytes]:
    numpy = sys.modules.get("numpy")
    at = 0 if numpy is None else numpy.frombuffer(view, "u1").__array_interface__["data"][0] if view.nbytes else 0
    return view.nbytes, at, b"".join(samples(view))
