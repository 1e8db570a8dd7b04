"""Outputs that stay on the GPU until they are combined there, and the lane that combines them.

What happens in a call, once the executor has chosen so:

    every lane      1. copies its outputs into tensors of its own on the GPU, and looks for NaN there   2. answers
    one lane        3. is told that all have answered: it combines, and writes one output into shared host memory

The lanes have waited for their streams before they answer, so whoever reads their tensors after that reads what this
call wrote. Other processes read them by CUDA IPC, other lanes of one process as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from esen_lab.common.trees import Structure, Tree, flatten, unflatten
from esen_lab.errors import DeviceError
from esen_lab.lanes.arena import TreeArena

if TYPE_CHECKING:
    import torch

    from esen_lab.lanes.stream import Compute

Rule: TypeAlias = Callable[[Mapping[str, Tree]], Tree]
"""Makes one output of those of all sub-models, given by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lent:
    """The outputs of one lane, as another lane takes them.

    Attributes:
        names: Its sub-models.
        structures: For each, what its flattened tensors make.
        counts: For each, how many tensors that are.
        tensors: All of them, one sub-model after another; between processes what `Compute.borrow` takes in their place.
    """

    names: tuple[str, ...]
    structures: tuple[Structure, ...]
    counts: tuple[int, ...]
    tensors: list[torch.Tensor] | bytes

    def trees(self, compute: Compute) -> dict[str, Tree]:
        """Each sub-model's output on the GPU; every run overwrites it."""
        flat = compute.borrow(self.tensors)[0] if isinstance(self.tensors, bytes) else self.tensors
        found: dict[str, Tree] = {}
        at = 0
        for name, structure, count in zip(self.names, self.structures, self.counts, strict=True):
            found[name] = unflatten(structure, flat[at : at + count])
            at += count
        return found


class KeptOutputs:
    """The outputs of one lane on the GPU.

    Args:
        compute: The lane's stream.
        names: Its sub-models.
        like: Where their outputs lie on the host otherwise: the tensors here look the same.
    """

    def __init__(self, compute: Compute, names: Sequence[str], like: TreeArena) -> None:
        import torch

        self._compute = compute
        self._names = tuple(names)
        self._structures = tuple(layout.spec.structure for layout in like.layouts)
        with compute.entered(), torch.inference_mode(mode=False):
            # empty_like keeps the layout of channels.
            self._tensors = [[torch.empty_like(view, device=compute.device) for view in tree] for tree in like.tensors]
            self._nan = torch.zeros(len(self._names), dtype=torch.bool, device=compute.device)
        self._nan_here = compute.pinned(torch.zeros(len(self._names), dtype=torch.bool))
        compute.synchronize()  # other streams and processes may use them from now on

    def keep(self, index: int, leaves: Sequence[torch.Tensor]) -> None:
        """Queue one sub-model's output into its place."""
        for own, leaf in zip(self._tensors[index], leaves, strict=True):
            own.copy_(leaf, non_blocking=True)
        self._nan[index].copy_(any_nan(leaves, self._compute.device), non_blocking=True)

    def tell_nan(self) -> None:
        """Queue the way back of what was found about NaN."""
        self._nan_here.copy_(self._nan, non_blocking=True)

    def has_nan(self, index: int) -> bool:
        """Whether an output holds NaN; after `tell_nan` and a wait."""
        return bool(self._nan_here[index])

    def bring_back(self, arena: TreeArena) -> None:
        """Queue the outputs' way to where they lie otherwise."""
        for views, tree in zip(arena.tensors, self._tensors, strict=True):
            for view, own in zip(views, tree, strict=True):
                view.copy_(own, non_blocking=True)

    def lent(self, *, to_processes: bool) -> Lent:
        """What other lanes read these outputs with."""
        flat = [tensor for tree in self._tensors for tensor in tree]
        return Lent(
            names=self._names,
            structures=self._structures,
            counts=tuple(len(tree) for tree in self._tensors),
            tensors=self._compute.lend(flat)[0] if to_processes else flat,
        )


class Combining:
    """What the lane that combines holds.

    Args:
        compute: Its stream.
        rule: The combine rule.
        order: All sub-models, in the order of the ensemble.
        lanes: The outputs of every lane.
        arena: Where the combined output goes: its first tree.
    """

    def __init__(
        self, compute: Compute, rule: Rule, order: Sequence[str], lanes: Sequence[Lent], arena: TreeArena
    ) -> None:
        known: dict[str, Tree] = {}
        for lent in lanes:
            known.update(lent.trees(compute))
        self._outputs = {name: known[name] for name in order if name in known}
        self._rule = rule
        self._arena = arena
        self._compute = compute

    def run(self) -> None:
        """Combine what lies there, and wait until the output is on the host.

        Raises:
            DeviceError: The output looks different from what it is made room for.
        """
        import torch

        with torch.inference_mode(), self._compute.entered():
            leaves, structure = flatten(self._rule(self._outputs), "the combined output")
            if not self._arena.fits(0, leaves, structure):
                raise DeviceError(
                    "A combined output looks alike on the CPU and on the GPU", given="another shape or type"
                )
            for view, leaf in zip(self._arena.tensors[0], leaves, strict=True):
                view.copy_(leaf, non_blocking=True)
        self._compute.synchronize()


def any_nan(leaves: Sequence[torch.Tensor], device: Any) -> torch.Tensor:
    """Whether any of these tensors holds NaN: a boolean tensor on `device`, which nobody waits for yet."""
    import torch

    floating = [leaf for leaf in leaves if leaf.is_floating_point() or leaf.is_complex()]
    if not floating:
        return torch.zeros((), dtype=torch.bool, device=device)
    return torch.stack([leaf.isnan().any() for leaf in floating]).any()
