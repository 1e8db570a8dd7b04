"""Any callable of tensors or of arrays, as a module whose code is that callable's."""

from __future__ import annotations

from typing import Any

from esen_lab.common.trees import Tree
from esen_lab.ensemble.kinds.adapted import Adapter, arrays_of, device_of, tensors_of
from esen_lab.ensemble.kinds.callables import name_of


class Function(Adapter):
    """A callable as a module. All that it holds is there to be seen: it is watched and saved as a network is.

    Attributes:
        function: The callable.
        arrays: Whether it is given NumPy arrays.
    """

    kind = "function"
    runs_in = "Python"

    def __init__(self, function: Any, *, arrays: bool) -> None:
        super().__init__()
        self.function = function
        self.arrays = arrays
        self.training = False

    @property
    def convertible(self) -> bool:
        """Where it computes with torch."""
        return not self.arrays

    def forward(self, *args: Any, **kwargs: Any) -> Tree:
        """What the callable answers, as tensors."""
        if self.arrays:
            device = device_of(args, kwargs)
            args, kwargs = tuple(arrays_of(list(args))), arrays_of(kwargs)
            return tensors_of(self.function(*args, **kwargs), device)
        return tensors_of(self.function(*args, **kwargs), None)

    def extra_repr(self) -> str:
        """What it calls."""
        return f"{name_of(self.function)}{', with arrays' if self.arrays else ''}"
