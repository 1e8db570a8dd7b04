"""Tensors in memory that several processes map: set up once, written in place for every call.

A block is a memory file without a name (`memfd`), or an unlinked temporary file where those do not exist. It is
passed as a file descriptor, so nothing has to be unlinked and nothing is left behind whoever dies.
"""

from __future__ import annotations

import math
import mmap
import os
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from esen_lab.errors import DeviceError
from esen_lab.trees import Structure, TensorSpec, Tree, TreeSpec, flatten, tensor_spec, unflatten
from esen_lab.units import format_bytes

if TYPE_CHECKING:
    import torch

ALIGNMENT = 64  # a cache line: no two tensors share one, and vector loads are aligned


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
        self.memory = mmap.mmap(fd, size)
        self._closer = weakref.finalize(self, os.close, fd)
        self._closer.atexit = False  # the system closes it then

    @classmethod
    def create(cls, size: int) -> Block:
        """A new block of zeros.

        Raises:
            DeviceError: There is no memory for it.
        """
        size = max(size, 1)
        fd = -1
        try:
            if hasattr(os, "memfd_create"):
                fd = os.memfd_create("esen_lab")
            else:
                with tempfile.TemporaryFile() as file:
                    fd = os.dup(file.fileno())
            os.ftruncate(fd, size)
            return cls(fd, size)
        except (OSError, ValueError) as problem:
            if fd >= 0:
                os.close(fd)
            raise DeviceError(
                f"Lanes exchange tensors in shared memory, and {format_bytes(size)} of it could not be had: {problem}",
                hint="Free memory, or use a smaller batch.",
            ) from problem

    @property
    def address(self) -> int:
        """Where it lies in this process, for those who register memory with a driver."""
        import torch

        return torch.frombuffer(self.memory, dtype=torch.uint8, count=1).data_ptr()

    def close(self) -> None:
        """Close the descriptor; tensors in the block stay valid."""
        self._closer()
        self.fd = -1


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
        position += _bytes_of(tensor)
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
        self._plain: torch.Tensor | None = None

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
        for leaf, view, described in zip(leaves, self._views[index], spec.tensors, strict=True):
            if leaf.dtype != view.dtype or leaf.shape != view.shape:
                return False
            if leaf.dim() == 4 and tensor_spec(leaf).channels_last != described.channels_last:
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
        if tensor.shape != plain.shape or tensor.dtype is not plain.dtype or tensor.requires_grad:
            return False
        plain.copy_(tensor)
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
        """Make the views of the layouts in force."""
        assert self._block is not None
        self._views = [views(self._block, layout) for layout in self._layouts]
        alone = len(self._layouts) == 1 and self._layouts[0].spec.structure == ("tensor",)
        # Not for four dimensions: there the layout of channels is looked at too.
        self._plain = self._views[0][0] if alone and self._views[0][0].dim() != 4 else None

    def close(self) -> None:
        """Let go of the block; views handed out stay valid."""
        if self._block is not None:
            self._block.close()
            self._block = None
        self._views = []
        self._plain = None
        self._layouts = ()


def spec_of(tree: Tree, what: str) -> tuple[list[torch.Tensor], TreeSpec]:
    """The tensors of a tree and its spec, flattened once."""
    leaves, structure = flatten(tree, what)
    return leaves, TreeSpec(structure=structure, tensors=tuple(tensor_spec(leaf) for leaf in leaves))


def _bytes_of(spec: TensorSpec) -> int:
    import torch

    dtype: torch.dtype = getattr(torch, spec.dtype)
    return math.prod(spec.shape) * dtype.itemsize


def _view(block: Block, spec: TensorSpec, offset: int) -> torch.Tensor:
    import torch

    dtype: torch.dtype = getattr(torch, spec.dtype)
    count = math.prod(spec.shape)
    if count == 0:
        return torch.empty(spec.shape, dtype=dtype)  # there is nothing to share
    flat = torch.frombuffer(block.memory, dtype=dtype, count=count, offset=offset)
    if spec.channels_last:
        n, c, h, w = spec.shape
        return flat.view(n, h, w, c).permute(0, 3, 1, 2)
    return flat.view(spec.shape)
