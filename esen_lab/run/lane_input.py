"""The input of a plan's lanes: one block of shared memory that all of them have mapped.

A lane that is late reads the input of an earlier run. The next input is then written into another block, of which the
other lanes are told at once, and the late one when it is at rest again. There are at most as many blocks as lanes, and
one more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from esen_lab.common.trees import Structure, Tree, TreeSpec, select, specs_by_path, tree_spec
from esen_lab.common.words import unknown
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
        tells_later: Whether lanes may be told where the input lies when they are woken, without waiting for them: an
            order is read before the wake-up that follows it, and waiting for its answer is waiting for a core.
        untold: Lanes that are to be told when they are woken: see `tell`.
    """

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers = workers
        self._arena = TreeArena()
        self._told = False  # whether all lanes, but for those that are to be told later, know where the input lies
        self._reads: dict[int, TreeArena] = {}  # for each lane the arena that it was told of last
        self._spare: list[TreeArena] = []  # arenas that are not in use for new inputs
        self._left = False  # whether lanes were late when the others were told last
        self.untold: set[int] = set()
        self.tells_later = all(worker.own_process and worker.in_force.torch_device == "cpu" for worker in workers)
        self.shared = False

    @property
    def spec(self) -> TreeSpec:
        """What the last input looked like."""
        return self._arena.layouts[0].spec

    @property
    def size(self) -> int:
        """How many bytes the last input has; 0 before the first."""
        return self._arena.layouts[0].size if self._arena.layouts else 0

    @property
    def parted(self) -> bool:
        """Whether lanes read in different places, or are still to be told: all are told anew once none is late."""
        return self._left or bool(self.untold)

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

    def announce(
        self,
        spec: TreeSpec,
        late: Collection[int] = (),
        *,
        at_once: bool = True,
        waiting: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """Tell every lane where an input of this look will lie, but for those that are late.

        Args:
            spec: The look.
            late: Lanes that are at work for an earlier run.
            at_once: Whether the others are told now; else each when it is woken.
            waiting: Entered where lanes are waited for: those that are given other memory, or share a GPU's.

        Raises:
            EsenError: There is no memory for it, or a lane has ended.
        """
        # An interrupt may leave some lanes with the layout of before, so until all know, none does. A block that one
        # of them may not have heard of is sent again.
        known, self._told = self._told, False
        grown = self._arena.prepare([spec])
        if grown or not known:
            self._reads = {index: arena for index, arena in self._reads.items() if index in late}
        self.untold = set(late) if at_once else set(range(len(self._workers)))
        told = [index for index, worker in enumerate(self._workers) if index not in self.untold and worker.alive]
        wait = not self.tells_later or any(self._reads.get(index) is not self._arena for index in told)
        with waiting() if wait and told else nullcontext():
            for index in told:
                self._tell(index, wait=wait)
        self.shared = at_once and not late and self._share_on_gpu(self._arena.layouts[0].size)
        self._left = bool(late)
        self._told = True

    def _tell(self, index: int, *, wait: bool) -> None:
        block = None if self._reads.get(index) is self._arena else self._arena.block
        self._workers[index].set_input(self._arena.layouts[0], block, wait=wait)
        self._reads[index] = self._arena

    def tell(self, index: int) -> None:
        """Tell a lane that is at rest, and is woken next, where the input lies now; raises as `announce` does."""
        if index in self.untold:
            self._tell(index, wait=not self.tells_later)
            self.untold.discard(index)

    def forget_lane(self, index: int) -> None:
        """Another process is this lane: it has been told nothing."""
        self._reads.pop(index, None)
        self._told = False

    def leave_to(self, late: Collection[int]) -> None:
        """Write the next input elsewhere than where these lanes, which are late, may be reading; none: as usual."""
        held = [self._reads.get(index, self._arena) for index in late]
        if any(arena is self._arena for arena in held):
            free = [arena for arena in self._spare if not any(arena is one for one in held)]
            self._told = False
            self._spare.append(self._arena)
            self._arena = free[0] if free else TreeArena()
            self._spare = [arena for arena in self._spare if arena is not self._arena]
        elif self.parted and not late:
            self._told = self._left = False  # all are at rest: told at once, they may share what is on a GPU

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
        odd = [f"{path} is missing" for path in wanted if path not in given]
        for path, spec in given.items():
            like = wanted.get(path)
            if like is None or like.dtype != spec.dtype:
                odd.append(f"{path} is {spec}, " + (f"the example's {like}" if like else "and the example has none"))
        return "; ".join(odd[:4])

    def close(self) -> None:
        """Let go of the memory; the lanes are ended by others."""
        for arena in (self._arena, *self._spare):
            arena.close()


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
    strange = [str(key) for key in x if key not in taken] if isinstance(x, Mapping) else []
    if strange:
        raise unknown(
            f"An input that is a dict holds arguments that a sub-model's example has: {', '.join(sorted(taken))}",
            strange[0],
            taken,
            given=f"the input with {', '.join(strange)}",
            hint="Leave it out, or register the sub-models that take it with an example that has it.",
        )
