"""The mean of small outputs, with as little left to do as possible once the last of them is there.

A call of torch costs microseconds in a loop, but 0.1 ms and more in a process that has just slept through the run of
the lanes: its code has left the caches. NumPy's path is several times shorter, and the result can be allocated while
the lanes still run. The additions are the same, in the same order, so the result is equal to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_MOST_ELEMENTS = 131_072  # beyond, the shorter path is no longer what counts, and a rehearsal takes too long


@dataclass(frozen=True, slots=True)
class Reserved:
    """Memory for one result, as its two owners see it."""

    tensor: torch.Tensor
    array: Any  # numpy.ndarray


class SmallMean:
    """The mean over tensors that are overwritten in place from call to call.

    `reserve` may run while they are being written; `into` must not, nor in two threads at once.
    """

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        """Use `small_mean`."""
        import numpy
        import torch

        self._like = tensors[0]
        self._arrays = [tensor.numpy() for tensor in tensors]
        self._count = numpy.asarray(len(tensors), dtype=self._arrays[0].dtype)
        self._empty = torch.empty_like
        self._add = numpy.add
        self._divide = numpy.divide
        # Infinities meet without a word in torch too. A context that is made once costs less to enter than
        # `numpy.errstate`, above all by a process that has just been woken.
        self._quietly = Context()
        self._quietly.run(numpy.seterr, all="ignore")

    def reserve(self) -> Reserved:
        """Fresh memory for a result: it is the caller's alone."""
        tensor = self._empty(self._like)
        return Reserved(tensor, tensor.numpy())

    def into(self, reserved: Reserved) -> torch.Tensor:
        """The mean, written into `reserved`."""
        self._quietly.run(self._sum, reserved.array)
        return reserved.tensor

    def _sum(self, out: Any) -> None:
        arrays = self._arrays
        if len(arrays) == 1:
            out[...] = arrays[0]
        else:
            self._add(arrays[0], arrays[1], out)
            for array in arrays[2:]:
                self._add(out, array, out)
        self._divide(out, self._count, out)


def small_mean(outputs: Sequence[Any]) -> SmallMean | None:
    """A `SmallMean` where every output is a small plain tensor like the first, else None.

    Plain: on the CPU, contiguous, float32 or float64, of one shape, at most 131072 elements.
    """
    import torch

    first = outputs[0] if outputs else None
    if not isinstance(first, torch.Tensor) or first.dtype not in (torch.float32, torch.float64):
        return None
    if first.device.type != "cpu" or first.numel() > _MOST_ELEMENTS:
        return None
    for tensor in outputs:
        if not isinstance(tensor, torch.Tensor) or tensor.shape != first.shape or tensor.dtype != first.dtype:
            return None
        if tensor.device.type != "cpu" or not tensor.is_contiguous():
            return None
    return SmallMean(outputs)
