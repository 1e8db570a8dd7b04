"""The way of a sub-model to an engine: traced by `torch.export` as a function of tensors that gives tensors.

Inputs and answers are trees, which engines do not know. What is traced takes the tensors of an input one after another
and gives those of the answer; the structures stay here. The first dimension may have any size where tracing allows it,
so that one trace serves every batch; a size of 1 is traced as it is, since torch takes it for one that is broadcast.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import torch
from torch import nn

from esen_lab.common.trees import Structure, Tree, flatten, unflatten
from esen_lab.ensemble.kinds.engine_model import EngineModel
from esen_lab.lanes.backends._executed import said
from esen_lab.lanes.backends._guards import Range
from esen_lab.lanes.backends._protocol import BackendSettings, Example, Refused

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_NOT_BROADCAST = 2


class _Flat(nn.Module):
    def __init__(self, module: nn.Module, structure: Structure) -> None:
        super().__init__()
        self.module = module
        self._structure = structure

    def forward(self, *leaves: torch.Tensor) -> tuple[torch.Tensor, ...]:
        args, kwargs = unflatten(self._structure, list(leaves))
        return tuple(flatten(self.module(*args, **kwargs))[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A sub-model as a graph of operators.

    Attributes:
        program: The graph, a function of tensors that gives tensors.
        example: What it was traced with.
        free: For each tensor of the input between which sizes its first dimension may have others; None where not.
    """

    program: ExportedProgram
    example: Example
    free: tuple[Range | None, ...]

    def serves(self, other: Example) -> bool:
        """Whether it may be used for inputs that look like another example, with other sizes put in."""
        mine, others = ((of.structure, of.answer_structure, of.switches) for of in (self.example, other))
        if mine != others:
            return False
        pairs = zip(self.example.leaves, other.leaves, self.free, strict=True)
        return all(a.dtype == b.dtype and _alike(a.shape, b.shape, free=free) for a, b, free in pairs)


def _alike(one: torch.Size, other: torch.Size, *, free: Range | None) -> bool:
    if one == other or free is None:
        return one == other
    return len(one) == len(other) and one[1:] == other[1:] and free[0] <= other[0] <= free[1]


def traced(module: nn.Module, example: Example) -> Trace:
    """Trace a sub-model.

    Raises:
        Refused: It cannot be traced.
    """
    if not example.leaves or not example.answer:
        raise Refused("its input or its answer has no tensors")
    flat = _Flat(module, example.structure)
    flat.training = False  # its own mode alone: an exported program has none that could be set

    def leaves() -> tuple[torch.Tensor, ...]:
        """New ones for each trace: torch marks those whose sizes it is to leave open."""
        return tuple(leaf.detach().clone() for leaf in example.leaves)

    free = tuple({0: torch.export.Dim.AUTO} if leaf.dim() and leaf.shape[0] > 1 else None for leaf in example.leaves)
    with quiet():
        try:
            program = torch.export.export(flat, leaves(), dynamic_shapes=(free,))
        except Exception:
            try:
                program = torch.export.export(flat, leaves())
            except Exception as problem:
                raise Refused(f"torch.export cannot trace it: {said(problem)}") from problem
    return Trace(program=program, example=example, free=_open_sizes(program))


def _open_sizes(program: ExportedProgram) -> tuple[Range | None, ...]:
    """See `Trace.free`: a network that asks for its batch may be traced for that one alone, or for larger ones."""
    names = set(program.graph_signature.user_inputs)
    found: list[Range | None] = []
    for node in program.graph.nodes:
        if node.name in names:
            value = node.meta["val"]
            size: Any = value.shape[0] if value.dim() else 0
            is_open = isinstance(size, torch.SymInt) and size.node.maybe_as_int() is None
            found.append(_within(program.range_constraints.get(size.node.expr)) if is_open else None)
    return tuple(found)


def _within(bounds: Any) -> Range:
    """The sizes of a constraint. Where that begins at 2, it is only said that 1 may be broadcast: see above."""
    if bounds is None:
        return (0, sys.maxsize)
    least = int(bounds.lower)
    most = int(bounds.upper) if bounds.upper < sys.maxsize else sys.maxsize  # torch has an infinity of its own
    return (least if least > _NOT_BROADCAST else 0, most)


class Traces:
    """The traces of a sub-model: one serves every look that it may be used for."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._made: list[Trace] = []

    def of(self, example: Example) -> Trace:
        """One for an example's look.

        Raises:
            Refused: It cannot be traced.
        """
        found = self.made(example)
        if found is None:
            found = traced(self._module, example)
            self._made.append(found)
        return found

    def made(self, example: Example) -> Trace | None:
        """One that there is already, or None."""
        return next((trace for trace in self._made if trace.serves(example)), None)

    def program(self, example: Example) -> ExportedProgram | None:
        """See `Backend.program`."""
        return None if isinstance(self._module, EngineModel) else self.of(example).program


_IN_USE: WeakValueDictionary[str, Traces] = WeakValueDictionary()


def traces_of(module: nn.Module, settings: BackendSettings) -> Traces:
    """The traces of a sub-model: those of another backend that executes the same one here, if there are any."""
    if not settings.fingerprint:
        return Traces(module)
    return _IN_USE.setdefault(settings.fingerprint, Traces(module))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the remarks that exporters make to their own developers."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


class Bound:
    """A prepared engine as a call: memory is bound to it once, and again where an input lies elsewhere.

    Args:
        example: The look.
        bind_input: Have the engine read input `index` from a dense tensor.
        bind_output: Have it write answer `index` to a dense tensor.
        compute: Execute, or begin to.
        wait: Wait for what `compute` has begun; None where that returns when it is done.
    """

    def __init__(
        self,
        example: Example,
        bind_input: Callable[[int, torch.Tensor], object],
        bind_output: Callable[[int, torch.Tensor], object],
        compute: Callable[[], object],
        wait: Callable[[], object] | None = None,
    ) -> None:
        self._bind_input = bind_input
        self._compute = compute
        self._wait = wait
        self._inputs: list[torch.Tensor | None] = [None] * len(example.leaves)
        self._at = [-1] * len(example.leaves)
        self.answers = [torch.empty_like(a, memory_format=torch.contiguous_format) for a in example.answer]
        for index, answer in enumerate(self.answers):
            bind_output(index, answer)
        self._tree: Tree = unflatten(example.answer_structure, self.answers)

    def __call__(self, leaves: Sequence[torch.Tensor], _: Sequence[Any], __: Mapping[str, Any]) -> Tree:
        """Execute; the answer lies where the next call writes it."""
        self._begin(leaves)
        return self._end()

    def begin(self, leaves: Sequence[torch.Tensor]) -> Callable[[], Tree] | None:
        """Begin to execute, and return what waits for the answer; None where this cannot be begun and left alone."""
        if self._wait is None:
            return None
        self._begin(leaves)
        return self._end

    def _begin(self, leaves: Sequence[torch.Tensor]) -> None:
        for index, leaf in enumerate(leaves):
            if not leaf.is_contiguous():
                leaf = leaf.contiguous()  # noqa: PLW2901
            if leaf.data_ptr() != self._at[index]:
                self._bind_input(index, leaf)
                self._at[index] = leaf.data_ptr()
            self._inputs[index] = leaf  # while the engine knows the address, nobody else gets the memory
        self._compute()

    def _end(self) -> Tree:
        if self._wait is not None:
            self._wait()
        return self._tree


def ports_of(module: nn.Module, example: Example) -> tuple[list[int], list[int]]:
    """For each tensor of an input and of an answer, its number in the model that an engine executes.

    A network is traced in their order; a model that was there before has an order of its own.
    """
    if not isinstance(module, EngineModel):
        return list(range(len(example.leaves))), list(range(len(example.answer)))
    args, kwargs = unflatten(example.structure, example.leaves)
    inputs = tuple(module.inputs)
    given = [inputs.index(name) for name in module.names_of(len(args), tuple(kwargs))]
    return given, [module.all_outputs.index(name) for name in module.outputs]


def check_tensors(dtypes: Mapping[torch.dtype, Any], example: Example, engine: str) -> None:
    """Raises `Refused` where a tensor has a dtype that an engine does not know, or no elements."""
    for leaf in (*example.leaves, *example.answer):
        if leaf.dtype not in dtypes:
            raise Refused(f"{engine} does not know tensors of {str(leaf.dtype).removeprefix('torch.')}")
        if not leaf.numel():
            raise Refused(f"{engine} does not take tensors without elements")
