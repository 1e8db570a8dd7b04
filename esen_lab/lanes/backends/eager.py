"""As PyTorch does it by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from esen_lab.common.trees import Tree, flatten, unflatten
from esen_lab.lanes.backends._protocol import BackendSettings, Call, Example, Refused


class Eager:
    """The module itself; in another precision, under autocast."""

    reads: ClassVar[tuple[str, ...]] = ()
    as_torch: ClassVar[bool] = True

    def __init__(self, module: nn.Module, settings: BackendSettings) -> None:
        self._module = module
        self._settings = settings

    @staticmethod
    def why_not(torch_device: str, *, precision: str) -> str:
        """A precision that autocast does not have there."""
        return no_autocast(torch_device, precision)

    @staticmethod
    def version() -> str:
        """Torch itself."""
        return ""

    def prepare(self, example: Example) -> Call:
        """The same for every look."""
        return autocast(_plain(self._module), example, self._settings)


def _plain(module: nn.Module) -> Call:
    def call(_: Sequence[torch.Tensor], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tree:
        return module(*args, **kwargs)

    return call


def no_autocast(torch_device: str, precision: str) -> str:
    """Why PyTorch itself does not compute in a precision there, as a sentence without its end; "" where it does."""
    if precision == "int8":
        return "PyTorch itself does not quantise here"
    if precision == "fp16" and not torch_device.startswith("cuda"):
        return "float16 is for GPUs, and CPUs compute in bfloat16"
    return ""


def autocast(call: Call, example: Example, settings: BackendSettings) -> Call:
    """The same call with products in the precision asked for, and answers of the dtypes that they have without.

    Raises:
        Refused: Autocast does not have that precision.
    """
    if not settings.precision:
        return call
    kind = example.leaves[0].device.type if example.leaves else "cpu"
    if why := no_autocast(kind, settings.precision):
        raise Refused(why)
    precision = torch.float16 if settings.precision == "fp16" else torch.bfloat16
    dtypes = [leaf.dtype for leaf in example.answer]

    def cast(leaves: Sequence[torch.Tensor], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tree:
        with torch.autocast(kind, dtype=precision):
            answers, structure = flatten(call(leaves, args, kwargs))
        return unflatten(structure, [answer.to(dtype) for answer, dtype in zip(answers, dtypes, strict=True)])

    return cast


BACKEND = Eager
