"""The notebook's own modules: not held, only known for as long as the notebook keeps them."""

from __future__ import annotations

import gc
import weakref
from typing import Any


class Originals:
    """The live modules that sub-models were made from, by name."""

    def __init__(self) -> None:
        self._modules: dict[str, weakref.ref[Any]] = {}

    def replace(self, name: str, source: Any = None) -> None:
        """Remember what a sub-model was made from, where that is a live module; else forget what was known."""
        self._modules.pop(name, None)
        if hasattr(source, "named_parameters"):
            self._modules[name] = weakref.ref(source)

    def leave_gpu(self) -> tuple[str, ...]:
        """Move them from GPUs to the CPU; see `Lab.leave_gpu`."""
        import torch

        moved = []
        for name, reference in self._modules.items():
            module = reference()
            if module is None:
                continue
            tensors = [*module.parameters(), *module.buffers()]
            if any(tensor.device.type == "cuda" for tensor in tensors):
                module.to("cpu")
                moved.append(name)
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            gc.collect()
            torch.cuda.empty_cache()
        return tuple(moved)
