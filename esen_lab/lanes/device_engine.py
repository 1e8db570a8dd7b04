"""A lane whose sub-models live on a GPU. Its life from outside is that of `Engine`.

One run, everything queued on the lane's stream without waiting in between:

    1. The input crosses from shared host memory to the device, once for all members; a large one once for all lanes
       (see `shared_input.py`).
    2. Each member runs on it, and its outputs cross back into shared host memory; or they stay on the GPU, to be
       combined there (see `kept_outputs.py`).
    3. The lane waits for the stream, once; then it looks for NaN and answers.

Shared host memory is pinned where CUDA takes it, so that copies are asynchronous and fast. When a member began and
ended is read from marks in the stream (CUDA events), laid on the host's clock at the moment the first was queued:

    start(first) = when the run began;   end(i) = start(first) + GPU time between the first mark and mark i
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from esen_lab.common.trees import Tree, call_with, flatten, map_tensors, select, spec_of_leaves, unflatten
from esen_lab.errors import UsageError
from esen_lab.lanes.arena import Block, Layout, TreeArena
from esen_lab.lanes.backends import executed_by, inside
from esen_lab.lanes.capturing import CAPTURING
from esen_lab.lanes.engine import OF_MEMBERS, Engine, ExampleRun, InSubModel, Kept, Loaded, Timed
from esen_lab.lanes.kept_outputs import Combining, KeptOutputs, Lent, Rule
from esen_lab.lanes.shared_input import Borrowing, Lending, ReadyFlag
from esen_lab.lanes.stream import Compute, GraphLane, seeded

if TYPE_CHECKING:
    import torch
    from torch import nn

    from esen_lab.devices import Placement


class DeviceEngine(Engine):
    """One lane on a GPU.

    Args:
        placement: The lane's place, already applied.
        compute: The stream it uses.
    """

    def __init__(self, placement: Placement, compute: Compute) -> None:
        super().__init__(placement)
        self.compute = compute
        self._host: list[torch.Tensor] = []
        self._there: list[torch.Tensor] = []
        self._marks: list[Any] = []
        self._branches: list[Compute] = []
        self._pinned: dict[str, int] = {}
        self._shared: Lending | Borrowing | None = None
        self._here: KeptOutputs | None = None  # where outputs stay on the GPU
        self._combining: Combining | None = None
        self._combined = TreeArena()
        self.last_run_s = 0.0  # between the first and the last mark of the last run

    # --- setting up ----------------------------------------------------------------------------------------------

    def _settle(self, module: nn.Module) -> nn.Module:
        return module.to(self.compute.device)

    def _copied(self, leaf: torch.Tensor) -> torch.Tensor:
        return leaf.to(self.compute.device, copy=True)

    @contextlib.contextmanager
    def _loading(self) -> Iterator[None]:
        # What libraries do when they start may wait for the whole device, which no capture beside it survives.
        with CAPTURING:
            with self.compute.entered():
                yield
            self.compute.synchronize()

    def unload(self, name: str) -> None:
        """Forget a sub-model, and give its memory back."""
        super().unload(name)
        self.compute.give_back_memory()

    def arrange(self, members: Sequence[str], mode: str) -> None:
        """Choose what `run` runs."""
        self._send_again()
        self._unpin("outputs")
        super().arrange(members, "serial" if mode == "async" else mode)  # kernels are begun and left alone anyway
        self._branches = [self.compute.another() for _ in members] if mode == "threads" else []

    def set_input(self, layout: Layout, block: Block | None) -> None:
        """Take the input of runs from `block` (or the same one as before)."""
        if block is not None:
            self._unpin("input")
        super().set_input(layout, block)
        if block is not None:
            self._pin("input", block)

    def _choose_inputs(self) -> None:
        self._shared = None
        if self._input is None:
            return
        import torch

        self._host, structure = flatten(self._input)
        with self.compute.entered(), torch.inference_mode(mode=False):
            # empty_like keeps the layout of channels, which a sub-model may be fast with.
            self._there = [torch.empty_like(leaf, device=self.compute.device) for leaf in self._host]
        self._take_apart(unflatten(structure, self._there))

    def lend_input(self, flag: Block) -> bytes:
        """Bring the input for all lanes from now on; returns what the others borrow it with."""
        lent, event = self.compute.lend(self._there)
        self._shared = Lending(ReadyFlag(flag), event)
        return lent

    def borrow_input(self, lent: bytes, flag: Block) -> None:
        """Read the input where another lane brings it."""
        self._there, event = self.compute.borrow(lent)
        self._shared = Borrowing(ReadyFlag(flag), event)
        self._take_apart(unflatten(flatten(self._input)[1], self._there))

    def _bring(self) -> None:
        """Queue the input's way to the device, or the wait for it."""
        if isinstance(self._shared, Borrowing):
            self._shared.flag.wait_for(self.number)
            self.compute.wait_for(self._shared.event)
            return
        for there, here in zip(self._there, self._host, strict=True):
            there.copy_(here, non_blocking=True)
        if self._shared is not None:
            self.compute.mark(self._shared.event)
            self._shared.flag.open_for(self.number)

    def _pin(self, what: str, block: Block) -> None:
        address = block.address
        if self.compute.pin(address, block.size):
            self._pinned[what] = address

    def _unpin(self, what: str) -> None:
        address = self._pinned.pop(what, None)
        if address is not None:
            self.compute.synchronize()
            self.compute.unpin(address)

    # --- running -------------------------------------------------------------------------------------------------

    def _run_all(self, kept: list[Kept | None]) -> list[Timed]:
        import torch

        count = len(self._arrangement)
        began = time.perf_counter_ns()
        with torch.inference_mode(), self.compute.entered():
            first = self._mark(0)
            self._bring()
            if self._mode == "serial":
                for index in range(count):
                    self._queue(index, kept)
                spans, marks = [(index, index + 1) for index in range(count)], self._marks
            elif self._mode == "threads":
                brought = self._mark(1)
                ends = self._queue_in_threads(brought, kept)
                marks = [first, *ends]
                spans = [(0, index + 1) for index in range(count)]
            else:
                self._queue_batched(kept)
                self._mark(1)
                spans, marks = [(0, 1)] * count, self._marks
            if self._here is not None:
                self._here.tell_nan()
        self._wait()
        ended = time.perf_counter_ns()
        last = max(end for _, end in spans)
        at = [began + int(self.compute.seconds_between(first, mark) * 1e9) for mark in marks[: last + 1]]
        self.last_run_s = (max(at[end] for _, end in spans) - began) / 1e9
        for index, outputs in enumerate(kept):
            if outputs is not None:
                kept[index] = ([leaf.cpu() for leaf in outputs[0]], outputs[1])
        return [
            Timed(min(at[start], ended), min(at[end], ended), self._found_nan(index, kept[index]), member.drew)
            for index, (member, (start, end)) in enumerate(zip(self._arrangement, spans, strict=True))
        ]

    def _found_nan(self, index: int, changed: Kept | None) -> bool:
        if changed is None and self._here is not None:
            return self._here.has_nan(index)
        return self._has_nan(self._arena.tensors[index] if changed is None else changed[0])

    def _queue(self, index: int, kept: list[Kept | None]) -> None:
        """Queue one member and its outputs' way back, and a mark at its end."""
        self._placement.use(self._arrangement[index].active_units)
        self._queue_member(index, kept)
        self._mark(index + 1)

    def _queue_member(self, index: int, kept: list[Kept | None]) -> None:
        member = self._arrangement[index]
        usual = member.traits.grad == "inference"  # as whoever runs them all is already
        try:
            with contextlib.nullcontext() if usual else _out_of_inference(member):
                given = self._given(index)
                leaves, structure = self._answer(index, given)
                if index in self._unmet:  # the bytes are compared there, which is waited for: once per look
                    self._has_met(index, given)
        except OF_MEMBERS as problem:
            raise InSubModel(member.name) from problem
        self._send_back(index, leaves, structure, kept)

    def _chance(self) -> tuple[Any, ...]:
        return (*super()._chance(), self.compute.chance())

    @contextlib.contextmanager
    def _seeded(self, number: int) -> Iterator[None]:
        with super()._seeded(number), contextlib.nullcontext() if self.own_process else seeded(self.compute, number):
            yield

    def _send_back(self, index: int, leaves: list[torch.Tensor], structure: Any, kept: list[Kept | None]) -> None:
        if not self._arena.fits(index, leaves, structure):
            spec_of_leaves(
                leaves, structure, f"the output of {self._arrangement[index].name!r}"
            )  # before they are read
            kept[index] = (leaves, structure)
            return
        if self._here is not None:
            self._here.keep(index, leaves)
            return
        for view, leaf in zip(self._arena.tensors[index], leaves, strict=True):
            view.copy_(leaf, non_blocking=True)

    def _queue_in_threads(self, brought: Any, kept: list[Kept | None]) -> list[Any]:
        import torch

        def member(index: int) -> Any:
            branch = self._branches[index]
            with torch.inference_mode(), branch.entered():
                branch.wait_for(brought)
                self._queue_member(index, kept)
                end = branch.mark()
            branch.synchronize()
            return end

        assert self._pool is not None
        futures = [self._pool.submit(member, index) for index in range(len(self._arrangement))]
        wait_for(futures)  # also where one has raised: one that is still at work would write into the next answer
        return [future.result() for future in futures]

    def _queue_batched(self, kept: list[Kept | None]) -> None:
        assert self._batched is not None
        try:
            given = self._given(0)
            answers = call_with(self._batched, given)
            if 0 in self._unmet:
                self._has_met(0, given)
        except OF_MEMBERS as problem:
            raise InSubModel(self._arrangement[0].name) from problem
        for index, answer in enumerate(answers):
            self._send_back(index, *flatten(answer), kept)

    def _mark(self, number: int) -> Any:
        if number == len(self._marks):
            self._marks.append(self.compute.mark())
            return self._marks[number]
        return self.compute.mark(self._marks[number])

    def _wait(self) -> None:
        try:
            self.compute.synchronize()
        except Exception as problem:
            # The GPU says late, and not of which member, that something went wrong.
            raise InSubModel(" or ".join(member.name for member in self._arrangement)) from problem

    def _relay(self, kept: list[Kept | None]) -> bool:
        self.bring_outputs(stay=False)  # the others' are laid out anew together with what changed
        self._unpin("outputs")
        grown = super()._relay(kept)
        if self._arena.block is not None:
            self._pin("outputs", self._arena.block)
        return grown

    # --- one by one: each is waited for, so what is told lies on the host; times are the host's ------------------

    def _begin_stepwise(self, *, alone: bool) -> None:
        if alone:
            import torch

            with torch.inference_mode(), self.compute.entered():
                self._bring()

    def _run_alone(self, index: int, kept: list[Kept | None]) -> Timed:
        import torch

        member = self._arrangement[index]
        self._placement.use(member.active_units)
        start = time.perf_counter_ns()
        with torch.inference_mode(), self.compute.entered():
            self._queue_member(index, kept)
        try:
            self.compute.synchronize()
        except Exception as problem:
            raise InSubModel(member.name) from problem
        changed = kept[index]
        if changed is not None:
            changed = kept[index] = ([leaf.cpu() for leaf in changed[0]], changed[1])
        nan = self._has_nan(self._arena.tensors[index] if changed is None else changed[0])
        return Timed(start, time.perf_counter_ns(), nan, member.drew)

    def _relay_apart(self, kept: list[Kept | None]) -> None:
        self._unpin("outputs")
        super()._relay_apart(kept)
        if self._arena.block is not None:
            self._pin("outputs", self._arena.block)

    # --- outputs that stay on the GPU ----------------------------------------------------------------------------

    def keep_outputs(self) -> None:
        """From the next run on, leave outputs on the GPU."""
        if len(self._arena.layouts) != len(self._arrangement):
            raise UsageError("A lane keeps its outputs once a run has shown how they look", given="no run yet")
        self._here = KeptOutputs(self.compute, [member.name for member in self._arrangement], self._arena)

    def lend_outputs(self, *, to_processes: bool) -> Lent:
        """What the lane that combines reads the kept outputs with, in this process or in another."""
        if self._here is None:
            raise UsageError("A lane lends outputs that it keeps", given="a lane that sends them")
        return self._here.lent(to_processes=to_processes)

    def combine_outputs(
        self, rule: Rule, order: Sequence[str], others: Sequence[Lent], layout: Layout, block: Block
    ) -> None:
        """Be the lane that combines: `others` with its own, into `block`."""
        lanes = [self.lend_outputs(to_processes=False), *others]
        self._combined.adopt(block, (layout,))
        self._pin("combined", block)
        self._combining = Combining(self.compute, rule, order, lanes, self._combined)

    def combine(self) -> None:
        """Combine the outputs of the last run, when all lanes have answered."""
        if self._combining is None:
            raise UsageError("A lane is told how to combine before it does", given="nothing")
        self._combining.run()

    def bring_outputs(self, *, stay: bool) -> None:
        """Send the outputs of the last run to the host after all, and with `stay` only this once."""
        if self._here is not None:
            with self.compute.entered():
                self._here.bring_back(self._arena)
            self.compute.synchronize()
        if not stay:
            self._send_again()

    def _send_again(self) -> None:
        self._here = self._combining = None
        self._unpin("combined")
        self._combined.close()

    # --- measuring -----------------------------------------------------------------------------------------------

    def _step_of(self, member: Loaded) -> DeviceStep:
        alone = DeviceEngine(self._placement, self.compute)
        alone._loaded[member.name] = member
        alone.arrange((member.name,), "serial")
        leaves, structure = flatten(member.example)
        alone._input = unflatten(structure, [self.compute.pinned(leaf) for leaf in leaves])
        alone._choose_inputs()
        return DeviceStep(engine=alone, gpu=self._placement.gpu_uuid)

    def graph_lane(self) -> GraphLane | None:
        """See `Engine.graph_lane`."""
        graphs = [executed_by(member.module) == "cuda-graph" for member in self._arrangement]
        if self._mode != "serial" or not all(graphs):
            return None
        return GraphLane(
            compute=self.compute,
            members={member.name: partial(self._captured, member) for member in self._arrangement},
        )

    def _captured(self, member: Loaded, tree: Tree) -> Tree:
        # The graph of one sub-model cannot be captured into another.
        return call_with(inside(member.module), self._input_for(member, select(tree, member.keys)))

    # --- the end -------------------------------------------------------------------------------------------------

    def lost(self) -> bool:
        """Whether nothing can run here any more."""
        return self.compute.lost()

    def close(self) -> None:
        """Let the GPU finish what it is at: a client of MPS must not leave with work in flight.

        What is pinned is let go before its memory is, which the driver would otherwise still know as its own.
        """
        self._combining = None
        with contextlib.suppress(Exception):  # it is the end: an error has been said before, or concerns nobody
            for what in list(self._pinned):
                self._unpin(what)
            self.compute.synchronize()


@contextlib.contextmanager
def _out_of_inference(member: Loaded) -> Iterator[None]:
    """As a member is called that answers as in the notebook only without inference_mode, from within it."""
    import torch

    with torch.inference_mode(mode=False), member.traits.called():
        yield


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceStep(ExampleRun):
    """A step on a GPU, as `profiler.timing.measure` takes it: a call waits until the outputs are back.

    Attributes:
        gpu: The GPU's UUID, for readings of it; "" where there are none.
    """

    engine: DeviceEngine
    gpu: str

    def answers(self) -> Tree:
        """Run once, and copy what came out."""
        self.engine.run()
        return map_tensors(lambda leaf: leaf.clone(), self.engine.outputs.read(0))

    @property
    def device_s(self) -> float:
        """How long the last run took on the GPU's own clock, copies included."""
        return self.engine.last_run_s

    @property
    def meter(self) -> PeakMeter:
        """Measures memory of the GPU."""
        return PeakMeter(self.engine.compute)


class PeakMeter:
    """How much more memory of the GPU tensors hold while a sub-model runs: `start`, the step, `stop`."""

    def __init__(self, compute: Compute) -> None:
        self._compute = compute
        self._before = 0

    def start(self) -> None:
        """Begin a new peak."""
        self._compute.synchronize()
        self._compute.reset_peak_memory()
        self._before = self._compute.memory_bytes()

    def stop(self) -> int | None:
        """The growth in bytes since `start`."""
        self._compute.synchronize()
        return max(0, self._compute.peak_memory_bytes() - self._before)
