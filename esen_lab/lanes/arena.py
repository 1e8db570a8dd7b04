"""Tensors in memory that several processes map: set up once, written in place for every call.

A block is a memory file without a name (`memfd`), or an unlinked temporary file where those do not exist. It is
passed as a file descriptor, so nothing has to be unlinked and nothing is left behind whoever dies.
"""

from __future__ import annotations

import errno
import fcntl
import math
import mmap
import os
import tempfile
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from esen_lab.common.free_memory import available_bytes
from esen_lab.common.resources import above_standard, duplicate, no_descriptors, standard_kept
from esen_lab.common.tensors import (
    ALIGNMENT,
    MEMORY_FORMATS,
    has_its_memory,
    is_channels_last,
    is_dense,
)
from esen_lab.common.trees import Structure, TensorSpec, Tree, TreeSpec, unflatten
from esen_lab.common.units import format_bytes
from esen_lab.errors import DeviceError

if TYPE_CHECKING:
    import torch

_Look: TypeAlias = "tuple[type, torch.dtype, torch.Size, int, bool | None]"  # bytes; channels last, where that counts
_Made: TypeAlias = (
    "tuple[list[list[torch.Tensor]], list[list[_Look]], torch.Tensor | None]"  # views, their looks, plain
)
MOST_KEPT = 64
"""Looks of trees whose views are kept: batches of changing sizes come again and again."""
_ASK_FROM_BYTES = 1 << 28  # below, nobody asks how much memory there is
_SEALED = hasattr(os, "memfd_create") and hasattr(fcntl, "F_ADD_SEALS")
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL if _SEALED else 0


class Block:
    """One piece of shared memory, mapped here.

    Attributes:
        fd: The descriptor to pass on, or -1 once closed (by `close`, or when the block is dropped). Closing it leaves
            every mapping alive.
        size: In bytes, at least 1.
        memory: The mapping. Freed with the last tensor that looks into it.
    """

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
        self.size = size
        with standard_kept():  # a mapping has a descriptor of its own
            self.memory = mmap.mmap(fd, size)
        self._closer = weakref.finalize(self, os.close, fd)
        self._closer.atexit = False  # the system closes it then

    @classmethod
    def received(cls, fd: int, size: int) -> Block:
        """A block that another process has made, `size` bytes of which are there and cannot be taken away again.

        Without the latter, reading it could end this process. The descriptor is closed where it is refused.

        Raises:
            ValueError: It is something else, or smaller.
            DeviceError: Descriptors have run out here.
        """
        try:
            if _SEALED and fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
                raise ValueError("memory that may shrink")
            if os.fstat(fd).st_size < size:
                raise ValueError("memory that is smaller than it is said to be")
            return cls(fd, size)
        except (OSError, ValueError, OverflowError) as problem:
            os.close(fd)
            if isinstance(problem, OSError) and problem.errno in (errno.EMFILE, errno.ENFILE):
                raise no_descriptors(str(problem)) from problem  # a mapping holds one of its own
            raise ValueError(str(problem)) from problem

    @classmethod
    def create(cls, size: int) -> Block:
        """A new block of zeros.

        Raises:
            DeviceError: There is no memory for it.
        """
        size = max(size, 1)
        available = available_bytes() if size >= _ASK_FROM_BYTES else None
        if available is not None and size > available:  # it would be given, and writing it would end this process
            raise _no_memory(size, f"{format_bytes(available)} are left")
        fd = -1
        try:
            fd = _memory_file(size)
            return cls(fd, size)
        except BaseException as problem:
            if fd >= 0:
                os.close(fd)
            if isinstance(problem, OSError) and problem.errno in (errno.EMFILE, errno.ENFILE):
                raise no_descriptors(str(problem)) from problem
            if isinstance(problem, (OSError, ValueError)):
                raise _no_memory(size, str(problem)) from problem
            raise

    @classmethod
    def holding(cls, data: bytes) -> Block:
        """A new block with a copy of these bytes; raises as `create` does."""
        block = cls.create(len(data))
        block.memory[: len(data)] = data
        return block

    @property
    def address(self) -> int:
        """Where it lies in this process, for those who register memory with a driver."""
        import torch

        return torch.frombuffer(self.memory, dtype=torch.uint8, count=1).data_ptr()

    def close(self) -> None:
        """Close the descriptor; tensors in the block stay valid."""
        self._closer()
        self.fd = -1


def _memory_file(size: int) -> int:
    """A file in memory of this size, which nobody who has it can make smaller."""
    if not hasattr(os, "memfd_create"):
        with tempfile.TemporaryFile() as file:
            fd = duplicate(file.fileno())
    else:
        fd = above_standard(os.memfd_create("esen_lab", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    try:
        os.ftruncate(fd, size)
        if _SEALED:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _no_memory(size: int, why: str) -> DeviceError:
    return DeviceError(
        f"Lanes exchange tensors in shared memory, and {format_bytes(size)} of it could not be had: {why}",
        hint="Free memory, or use a smaller batch.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where the tensors of one tree lie in a block."""

    spec: TreeSpec
    offsets: tuple[int, ...]
    size: int


def lay_out(spec: TreeSpec, start: int = 0) -> Layout:
    """Place the tensors of `spec` one after another from `start` on, each on its own cache lines."""
    offsets = []
    position = start
    for tensor in spec.tensors:
        position = -(-position // ALIGNMENT) * ALIGNMENT
        offsets.append(position)
        position += bytes_of(tensor.dtype, tensor.shape)
    return Layout(spec=spec, offsets=tuple(offsets), size=position)


def views(block: Block, layout: Layout) -> list[torch.Tensor]:
    """The tensors of `layout` in `block`, in the order of flattening. They share the block's memory."""
    import torch

    # Made under inference_mode, they could only ever be written there again: a later call from outside would fail.
    with torch.inference_mode(mode=False):
        return [_view(block, spec, at) for spec, at in zip(layout.spec.tensors, layout.offsets, strict=True)]


class TreeArena:
    """Trees written into one growing block, with views made once per shape.

    Writing a tree that looks like the last one copies its tensors and allocates nothing.
    """

    def __init__(self) -> None:
        self._block: Block | None = None
        self._layouts: tuple[Layout, ...] = ()
        self._views: list[list[torch.Tensor]] = []
        self._looks: list[list[_Look]] = []
        self._plain: torch.Tensor | None = None
        self._made: dict[tuple[Layout, ...], _Made] = {}  # of this block
        self._seen: Callable[[], Any] = _nothing  # the tensor that `write_plain` took last
        self._seen_at = 0

    @property
    def block(self) -> Block | None:
        """The block in use, or None before the first `prepare`."""
        return self._block

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """One layout per tree, in order."""
        return self._layouts

    @property
    def tensors(self) -> list[list[torch.Tensor]]:
        """For each tree its views, in the order of flattening."""
        return self._views

    def prepare(self, specs: Sequence[TreeSpec]) -> bool:
        """Make room for trees that look like `specs`.

        Returns:
            Whether the block is a new one, whose descriptor the other side must be sent.
        """
        layouts = []
        position = 0
        for spec in specs:
            layout = lay_out(spec, position)
            layouts.append(layout)
            position = layout.size
        grown = self._block is None or self._block.size < position
        if grown:
            # Half as much again: batches that grow step by step do not remap at every step.
            block = Block.create(position if self._block is None else position + position // 2)
            self.close()
            self._block = block
        assert self._block is not None
        self._layouts = tuple(layouts)
        self._look()
        return grown

    def fits(self, index: int, leaves: Sequence[torch.Tensor], structure: Structure) -> bool:
        """Whether a flattened tree looks exactly like tree `index`; the cheap check on the path of every call."""
        if index >= len(self._layouts):
            return False
        spec = self._layouts[index].spec
        if structure != spec.structure or len(leaves) != len(spec.tensors):
            return False
        try:
            for leaf, (kind, dtype, shape, size, channels_last) in zip(leaves, self._looks[index], strict=True):
                if type(leaf) is not kind and not is_dense(leaf):  # a subclass may hold more than its numbers
                    return False
                if leaf.dtype is not dtype or leaf.shape != shape:
                    return False
                if channels_last is not None and is_channels_last(leaf) != channels_last:
                    return False
                # Reading beyond its memory would end this process. It raises for layouts that have no such memory.
                held = leaf.untyped_storage().nbytes()
                if not (leaf.storage_offset() == 0 and held >= size and leaf.is_contiguous()) and not is_dense(leaf):
                    return False
        except (RuntimeError, TypeError, ValueError):
            return False
        return True

    def write(self, index: int, leaves: Sequence[torch.Tensor]) -> None:
        """Copy the tensors of tree `index` in; they must look like its spec."""
        for view, leaf in zip(self._views[index], leaves, strict=True):
            view.copy_(leaf.detach() if leaf.requires_grad else leaf)

    def write_plain(self, tensor: Any) -> bool:
        """The short way for the most frequent case: one tensor that looks like the only one here.

        Returns:
            Whether it was copied in; False: take the long way.
        """
        plain = self._plain
        if plain is None or type(tensor) is not type(plain):
            return False
        # The same tensor at the same address is not looked at again: storage that is resized moves.
        seen = self._seen() is tensor and tensor.data_ptr() == self._seen_at
        if not seen and not has_its_memory(tensor):
            return False
        if tensor.shape != plain.shape or tensor.dtype is not plain.dtype or tensor.requires_grad:
            return False
        plain.copy_(tensor)
        if not seen:
            self._seen, self._seen_at = weakref.ref(tensor), tensor.data_ptr()
        return True

    def read(self, index: int) -> Tree:
        """Tree `index` as views into the block."""
        return unflatten(self._layouts[index].spec.structure, self._views[index])

    def adopt(self, block: Block | None, layouts: tuple[Layout, ...]) -> None:
        """Take over what the other side prepared: `block` where it is a new one, and the layouts in it."""
        if block is not None:
            self.close()
            self._block = block
        assert self._block is not None
        self._layouts = layouts
        self._look()

    def _look(self) -> None:
        """Have the views of the layouts in force."""
        made = self._made.get(self._layouts)
        if made is None:
            made = self._views_now()
            if len(self._made) >= MOST_KEPT:
                self._made.clear()
            self._made[self._layouts] = made
        self._views, self._looks, self._plain = made

    def _views_now(self) -> _Made:
        assert self._block is not None
        found = [views(self._block, layout) for layout in self._layouts]
        looks = [_looks_of(own, layout) for own, layout in zip(found, self._layouts, strict=True)]
        alone = len(self._layouts) == 1 and self._layouts[0].spec.structure == ("tensor",)
        # Not where the layout of channels is looked at too.
        return found, looks, found[0][0] if alone and found[0][0].dim() not in MEMORY_FORMATS else None

    def close(self) -> None:
        """Let go of the block; views handed out stay valid."""
        if self._block is not None:
            self._block.close()
            self._block = None
        self._views = []
        self._looks = []
        self._plain = None
        self._layouts = ()
        self._made.clear()


def _looks_of(tensors: Sequence[torch.Tensor], layout: Layout) -> list[_Look]:
    return [
        (type(view), view.dtype, view.shape, view.nbytes, spec.channels_last if view.dim() in MEMORY_FORMATS else None)
        for view, spec in zip(tensors, layout.spec.tensors, strict=True)
    ]


def _nothing() -> None:
    """Before the first tensor."""


def bytes_of(dtype: str, shape: Sequence[int]) -> int:
    """How many bytes the numbers of a tensor take."""
    import torch

    size: int = getattr(torch, dtype).itemsize
    return math.prod(shape) * size


def _view(block: Block, spec: TensorSpec, offset: int) -> torch.Tensor:
    import torch

    dtype: torch.dtype = getattr(torch, spec.dtype)
    count = math.prod(spec.shape)
    if count == 0:
        return torch.empty(spec.shape, dtype=dtype, device="cpu")  # there is nothing to share
    flat = torch.frombuffer(block.memory, dtype=dtype, count=count, offset=offset)
    if spec.channels_last:
        n, c, *sizes = spec.shape
        return flat.view(n, *sizes, c).movedim(-1, 1)
    return flat.view(spec.shape)
