"""Trees of tensors on their way between machines: the bytes of each tensor as one array, and what they look like.

Ray hands arrays of NumPy over without copying them on the way in and out of its store, and torch's tensors not; and
NumPy lacks some dtypes of torch. So each tensor goes as its bytes, and comes back equal to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from esen_lab.common.inputs import take_in
from esen_lab.common.tensors import MEMORY_FORMATS
from esen_lab.common.trees import TensorSpec, Tree, TreeSpec, flatten, spec_of_leaves, unflatten
from esen_lab.run.lane_input import spec_of_rows

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedTree:
    """A tree as plain data.

    Attributes:
        spec: What it looks like.
        parts: The bytes of each of its tensors, as arrays of uint8. They may share memory with the tree.
    """

    spec: TreeSpec
    parts: tuple[Any, ...]

    @property
    def size_bytes(self) -> int:
        """How much there is to send."""
        return sum(part.nbytes for part in self.parts)


def pack_input(x: Tree) -> PackedTree:
    """An input of an ensemble, taken in as every input is.

    Raises:
        UsageError: A part of it cannot go in: see `take_in`.
    """
    leaves, structure = take_in(x)
    return _packed(leaves, spec_of_leaves(leaves, structure, "the input"))


def pack_output(tree: Tree) -> PackedTree:
    """What a sub-model has answered; tensors are read in place."""
    leaves, structure = flatten(tree, "the output")
    return _packed(leaves, spec_of_leaves(leaves, structure, "the output"))


def packed_rows(packed: PackedTree, rows: torch.Tensor) -> PackedTree:
    """Some rows of an input of which each tensor has its rows along dimension 0; they may come more than once."""
    spec, index = spec_of_rows(packed.spec, len(rows)), rows.numpy()
    parts = (
        part.reshape(tensor.shape[0], -1)[index].reshape(-1) if part.size else part
        for part, tensor in zip(packed.parts, packed.spec.tensors, strict=True)
    )
    return PackedTree(spec=spec, parts=tuple(parts))


def unpack(packed: PackedTree) -> Tree:
    """The tree again, with memory of its own, on the CPU."""
    leaves = [_tensor(part, spec) for part, spec in zip(packed.parts, packed.spec.tensors, strict=True)]
    return unflatten(packed.spec.structure, leaves)


def _packed(leaves: Sequence[torch.Tensor], spec: TreeSpec) -> PackedTree:
    return PackedTree(spec=spec, parts=tuple(map(_bytes, leaves)))


def _bytes(tensor: torch.Tensor) -> Any:
    import torch

    plain = tensor.detach().cpu().resolve_conj().resolve_neg()
    return plain.contiguous().reshape(-1).view(torch.uint8).numpy()


def _tensor(part: Any, spec: TensorSpec) -> torch.Tensor:
    import torch

    dtype = getattr(torch, spec.dtype)
    if not part.size:
        return torch.empty(spec.shape, dtype=dtype)
    tensor = torch.from_numpy(part.copy()).view(dtype).reshape(spec.shape)  # what Ray's store holds is read-only
    if spec.channels_last:
        return tensor.contiguous(memory_format=getattr(torch, MEMORY_FORMATS[tensor.dim()]))
    return tensor
