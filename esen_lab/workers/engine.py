"""What a lane does, without any process around it: holds sub-models, runs them, writes their outputs."""

from __future__ import annotations

import contextlib
import copy
import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from esen_lab.devices import FakePlacement, Placement
from esen_lab.errors import UsageError
from esen_lab.trees import Structure, Tree, TreeSpec, call_with, flatten, select, tensor_spec, unflatten
from esen_lab.workers.arena import Block, Layout, TreeArena
from esen_lab.workers.base import TIMING

if TYPE_CHECKING:
    import torch
    from torch import nn

Kept: TypeAlias = "tuple[list[torch.Tensor], Structure]"
"""Outputs that look different from the last ones: a flattened tree."""


class InSubModel(Exception):  # noqa: N818  wraps what the sub-model raised, and says which one it was
    """The code of a sub-model raised; the cause is its exception."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


@dataclass(slots=True, kw_only=True)
class Loaded:
    """A sub-model in this lane.

    Attributes:
        name: Its name.
        module: The network.
        example: Its example, on the CPU.
        active_units: How many units of the share it uses.
        overwrites_input: Whether it must be given a copy of its input.
        forward: How it is run on a device other than the CPU: the plain call, or a faster way to the same answer.
    """

    name: str
    module: nn.Module
    example: Tree
    active_units: int
    overwrites_input: bool
    forward: Callable[[Tree], Tree]

    @property
    def keys(self) -> tuple[str, ...] | None:
        """The keyword arguments it takes of a dict, or None."""
        return tuple(self.example) if isinstance(self.example, Mapping) else None


@dataclass(slots=True)
class Timed:
    """When one member ran, and whether NaN came out."""

    start_ns: int
    end_ns: int
    nan: bool


class Engine:
    """One lane. Not safe for several threads: the worker's single loop owns it."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self.number = 0  # of the run that is asked for
        self._pace = placement.pace if isinstance(placement, FakePlacement) else None
        self._loaded: dict[str, Loaded] = {}
        self._arrangement: tuple[Loaded, ...] = ()
        self._mode = "serial"
        self._input: Tree = None
        self._inputs: list[Tree] = []
        self._arena = TreeArena()
        self.outputs = self._arena
        self._input_arena = TreeArena()
        self._pool: ThreadPoolExecutor | None = None
        self._batched: Callable[[Tree], Tree] | None = None

    # --- setting up ----------------------------------------------------------------------------------------------

    def load(self, name: str, payload: memoryview, example: Tree, active_units: int) -> None:
        """Build a sub-model and run it once on a copy of its example, which also warms it up."""
        import cloudpickle
        import torch

        if isinstance(self._placement, FakePlacement):
            self._placement.knows(name)
        try:
            with self._loading():
                module = self._settle(cloudpickle.loads(payload)())
                self._placement.use(active_units)
                leaves, structure = flatten(example, "the example")
                copies = [self._copied(leaf) for leaf in leaves]
                versions = [leaf._version for leaf in copies]
                # no_grad and not inference_mode: only there do in-place changes count up a tensor's version.
                with torch.no_grad():
                    flatten(call_with(module, unflatten(structure, copies)), f"the output of {name!r}")
        except Exception as problem:
            raise InSubModel(name) from problem
        self._loaded[name] = Loaded(
            name=name,
            module=module,
            example=example,
            active_units=active_units,
            # It would change the input under the hands of the other sub-models: such a one gets a copy per run.
            overwrites_input=versions != [leaf._version for leaf in copies],
            forward=partial(call_with, module),
        )

    # What another place than the CPU does differently while a sub-model is loaded.

    def _settle(self, module: nn.Module) -> nn.Module:
        return module

    def _copied(self, leaf: torch.Tensor) -> torch.Tensor:
        return leaf.clone()

    def _loading(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def unload(self, name: str) -> None:
        """Forget a sub-model."""
        self._loaded.pop(name, None)
        if any(member.name == name for member in self._arrangement):
            self._arrangement = ()

    def arrange(self, members: Sequence[str], mode: str) -> None:
        """Choose what `run` runs."""
        if self._pace is not None and mode != "serial":
            raise UsageError("Lanes of a simulated device run their sub-models one after another", given=f"mode {mode}")
        self._arrangement = tuple(self._get(name) for name in members)
        self._mode = mode
        self._arena.close()
        self._arena = self.outputs = TreeArena()
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        self._batched = None
        if mode == "threads":
            self._pool = ThreadPoolExecutor(max_workers=len(members), thread_name_prefix="member")
        elif mode == "vmap":
            self._batched = _batch([member.module for member in self._arrangement])
        self._choose_inputs()

    def set_input(self, layout: Layout, block: Block | None) -> None:
        """Take the input of runs from `block` (or the same one as before)."""
        self._input_arena.adopt(block, (layout,))
        self._input = self._input_arena.read(0)
        self._choose_inputs()

    def _choose_inputs(self) -> None:
        if self._input is not None:
            self._inputs = [select(self._input, member.keys) for member in self._arrangement]

    def _get(self, name: str) -> Loaded:
        if name not in self._loaded:
            raise UsageError("A lane runs sub-models that it has loaded", given=name)
        return self._loaded[name]

    # --- running -------------------------------------------------------------------------------------------------

    def run(self) -> tuple[bytes, bool, bool]:
        """Run the arrangement once on the current input.

        Returns:
            Packed timings (`TIMING` per member), whether the outputs' layouts changed, and whether their block is new.
        """
        if not self._inputs:
            raise UsageError("A lane is told its sub-models and its input before it runs", given="neither")
        kept: list[Kept | None] = [None] * len(self._arrangement)
        timed = self._run_all(kept)
        changed = any(outputs is not None for outputs in kept)
        grown = self._relay(kept) if changed else False
        return b"".join(TIMING.pack(t.start_ns, t.end_ns, t.nan) for t in timed), changed, grown

    def _run_all(self, kept: list[Kept | None]) -> list[Timed]:
        """Run every member, and write their outputs or put them into `kept`."""
        count = len(self._arrangement)
        if self._mode == "serial":
            return [self._run_member(index, kept) for index in range(count)]
        if self._mode == "threads":
            assert self._pool is not None
            futures = [self._pool.submit(self._run_member, index, kept) for index in range(count)]
            return [future.result() for future in futures]
        return self._run_batched(kept)

    def _run_member(self, index: int, kept: list[Kept | None]) -> Timed:
        import torch

        member = self._arrangement[index]
        if self._mode == "serial":
            self._placement.use(member.active_units)
        start = time.perf_counter_ns()
        try:
            with torch.inference_mode():
                output = call_with(member.module, self._input_for(member, self._inputs[index]))
                leaves, structure = flatten(output, f"the output of {member.name!r}")
                nan = self._store(index, leaves, structure, kept)
        except Exception as problem:
            raise InSubModel(member.name) from problem
        if self._pace is not None:
            self._pace(member.name, member.active_units, start)
        return Timed(start, time.perf_counter_ns(), nan)

    def _run_batched(self, kept: list[Kept | None]) -> list[Timed]:
        import torch

        assert self._batched is not None
        start = time.perf_counter_ns()
        try:
            with torch.inference_mode():
                leaves, structure = flatten(self._batched(self._input_for(self._arrangement[0], self._inputs[0])))
                nans = [
                    self._store(index, [leaf[index] for leaf in leaves], structure, kept)
                    for index in range(len(self._arrangement))
                ]
        except Exception as problem:
            raise InSubModel(self._arrangement[0].name) from problem
        end = time.perf_counter_ns()
        return [Timed(start, end, nan) for nan in nans]

    @staticmethod
    def _input_for(member: Loaded, tree: Tree) -> Tree:
        if not member.overwrites_input:
            return tree
        leaves, structure = flatten(tree)
        return unflatten(structure, [leaf.clone() for leaf in leaves])

    def _store(
        self,
        index: int,
        leaves: list[torch.Tensor],
        structure: Structure,
        kept: list[Kept | None],
    ) -> bool:
        """Write one member's outputs where the last ones were, or keep them when they look different."""
        if self._arena.fits(index, leaves, structure):
            self._arena.write(index, leaves)
        else:
            kept[index] = (leaves, structure)
        return self._has_nan(leaves)

    @staticmethod
    def _has_nan(leaves: Sequence[torch.Tensor]) -> bool:
        return any((leaf.is_floating_point() or leaf.is_complex()) and bool(leaf.isnan().any()) for leaf in leaves)

    def _relay(self, kept: list[Kept | None]) -> bool:
        """Lay the outputs out anew after at least one changed its looks; returns whether the block is new."""
        everything = []
        for index, outputs in enumerate(kept):
            if outputs is None:
                # Copied, since the new layout may lie over the old one.
                old = [view.clone() for view in self._arena.tensors[index]]
                everything.append((old, self._arena.layouts[index].spec.structure))
            else:
                everything.append(outputs)
        specs = [
            TreeSpec(structure=structure, tensors=tuple(tensor_spec(leaf) for leaf in leaves))
            for leaves, structure in everything
        ]
        grown = self._arena.prepare(specs)
        for index, (leaves, _) in enumerate(everything):
            self._arena.write(index, leaves)
        return grown

    # --- measuring -----------------------------------------------------------------------------------------------

    def call(self, function: str, name: str, kwargs: Mapping[str, Any]) -> Any:
        """Call "package.module:function" with a step of one loaded sub-model."""
        return self._function(function)(self._step_of(self._get(name)), **kwargs)

    @staticmethod
    def _function(path: str) -> Callable[..., Any]:
        module, _, attribute = path.partition(":")
        found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
        return found

    def _step_of(self, member: Loaded) -> Callable[[], None]:
        """A run of one sub-model on its example, with everything a real run does in the worker."""
        alone = Engine(self._placement)
        alone._loaded[member.name] = member
        alone.arrange((member.name,), "serial")
        alone._inputs = [member.example]

        def step() -> None:
            alone.run()

        return step

    # --- the end -------------------------------------------------------------------------------------------------

    def lost(self) -> bool:
        """Whether nothing can run here any more; the worker then leaves."""
        return False

    def close(self) -> None:
        """Called when the other side has hung up."""


def _batch(modules: Sequence[nn.Module]) -> Callable[[Tree], Tree]:
    """All modules as one batched call: `torch.func.stack_module_state` and `vmap`. They share one architecture."""
    from torch.func import functional_call, stack_module_state, vmap

    parameters, buffers = stack_module_state(list(modules))
    skeleton = copy.deepcopy(modules[0]).to("meta")

    def run(tree: Tree) -> Tree:
        def one(own_parameters: dict[str, torch.Tensor], own_buffers: dict[str, torch.Tensor]) -> Tree:
            state = (own_parameters, own_buffers)
            if isinstance(tree, Mapping):
                return functional_call(skeleton, state, args=(), kwargs=dict(tree))
            return functional_call(skeleton, state, args=tuple(tree) if isinstance(tree, (tuple, list)) else (tree,))

        return vmap(one)(parameters, buffers)

    return run
