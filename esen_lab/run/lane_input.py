"""The input of a plan's lanes: one block of shared memory that all of them have mapped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from esen_lab.common.trees import Structure, Tree, TreeSpec, select, specs_by_path, tree_spec
from esen_lab.ensemble import Ensemble
from esen_lab.errors import EsenError, UsageError
from esen_lab.lanes import Worker
from esen_lab.lanes.arena import Block, TreeArena
from esen_lab.lanes.shared_input import FLAG_BYTES

if TYPE_CHECKING:
    import torch

_WORTH_SHARING_BYTES = 1 << 20  # a smaller input reaches each GPU lane sooner than lanes can wait for each other


class LaneInput:
    """Where the input of every run lies. Used by one thread at a time.

    Args:
        workers: The lanes; they are told where the input lies when it looks other than the last one.

    Attributes:
        shared: Whether one lane brings the input to the GPU for all.
    """

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers = workers
        self._arena = TreeArena()
        self._told = False  # whether all lanes know where the input lies
        self.shared = False

    @property
    def spec(self) -> TreeSpec:
        """What the last input looked like."""
        return self._arena.layouts[0].spec

    def write_plain(self, x: Tree) -> bool:
        """The short way for one tensor that looks like the last one; False: take the long way, nothing was written."""
        return self._told and self._arena.write_plain(x)

    def fits(self, leaves: Sequence[torch.Tensor], structure: Structure) -> bool:
        """Whether a flattened input looks like the last one, so that no lane has to be told."""
        return self._told and self._arena.fits(0, leaves, structure)

    def write(self, leaves: Sequence[torch.Tensor]) -> None:
        """Copy a flattened input that looks as the lanes were told."""
        self._arena.write(0, leaves)

    def looks_like(self, spec: TreeSpec) -> bool:
        """Whether the lanes were told of an input of this look."""
        return self._told and self.spec == spec

    @property
    def tensors(self) -> Sequence[torch.Tensor]:
        """The tensors of the last input, as the lanes read them."""
        return self._arena.tensors[0]

    def gather(self, source: LaneInput, rows: torch.Tensor) -> None:
        """Copy these rows of another input of a look with as many rows here, see `LaneRunner.write_rows`."""
        import torch

        for here, there in zip(self.tensors, source.tensors, strict=True):
            torch.index_select(there, 0, rows, out=here)

    def announce(self, spec: TreeSpec) -> None:
        """Tell every lane where an input of this look will lie.

        Raises:
            EsenError: There is no memory for it, or a lane has ended.
        """
        # An interrupt may leave some lanes with the layout of before, so until all know, none does. A block that one
        # of them may not have heard of is sent again.
        known, self._told = self._told, False
        grown = self._arena.prepare([spec])
        layout, block = self._arena.layouts[0], self._arena.block
        for worker in self._workers:
            worker.set_input(layout, block if grown or not known else None)
        self.shared = self._share_on_gpu(layout.size)
        self._told = True

    def _share_on_gpu(self, size: int) -> bool:
        """Have one lane bring a large input to the GPU for all of them; whether that is so now."""
        # Lanes in this process read the same memory anyway.
        processes = [worker for worker in self._workers if worker.own_process]
        lanes = [worker for worker in processes if worker.in_force.torch_device != "cpu"]
        if len(lanes) < 2 or size < _WORTH_SHARING_BYTES:
            return False
        flag = Block.create(FLAG_BYTES)
        try:
            lent = lanes[0].gpu.lend_input(flag)
            for worker in lanes[1:]:
                worker.gpu.borrow_input(lent, flag)
        except EsenError:
            # CUDA IPC is not to be had here (some containers and allocators refuse it): every lane brings its own.
            for worker in lanes:
                worker.set_input(self._arena.layouts[0], None)
            return False
        finally:
            flag.close()
        return True

    def unlike(self, example: Tree) -> str:
        """Where the last input is not of the dtypes and structure of an example, for people; "" where it is."""
        if not self._arena.layouts:
            return ""
        given, wanted = specs_by_path(self.spec, "the input"), specs_by_path(tree_spec(example), "the input")
        odd = [f"there is no {path}" for path in wanted if path not in given]
        for path, spec in given.items():
            like = wanted.get(path)
            if like is None or like.dtype != spec.dtype:
                odd.append(f"{path} is {spec}, " + (f"the example's {like}" if like else "and the example has none"))
        return "; ".join(odd[:4])

    def close(self) -> None:
        """Let go of the memory; the lanes are ended by others."""
        self._arena.close()


def spec_of_rows(spec: TreeSpec, rows: int) -> TreeSpec:
    """The look of an input with so many rows along dimension 0 of each of its tensors."""
    return replace(spec, tensors=tuple(replace(one, shape=(rows, *one.shape[1:])) for one in spec.tensors))


def check_keys(x: Tree, ensemble: Ensemble) -> None:
    """Check that a dict holds every argument that a sub-model takes, and none that no sub-model takes.

    Raises:
        UsageError: It does not; the message names the sub-model, or the argument.
    """
    taken: set[str] = set()
    for submodel in ensemble.submodels:
        try:
            select(x, submodel.input_keys)
        except UsageError as problem:
            raise UsageError(
                f"Sub-model {submodel.name!r}: {problem.rule}", given=problem.given, hint=problem.hint
            ) from None
        if submodel.input_keys is None:
            return  # it is given whatever there is
        taken.update(submodel.input_keys)
    # Left out without a word, an attention mask would change every answer.
    unknown = [str(key) for key in x if key not in taken] if isinstance(x, Mapping) else []
    if unknown:
        raise UsageError(
            f"An input that is a dict holds arguments that a sub-model's example has: {', '.join(sorted(taken))}",
            given=f"the input with {', '.join(unknown)}",
            hint="Leave it out, or register the sub-models that take it with an example that has it.",
        )
