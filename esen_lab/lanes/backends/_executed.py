"""A sub-model executed by a backend: a module around the module, which compares the first answer of every look."""

from __future__ import annotations

import re
import time
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from esen_lab.common.answers import IN_PRECISION, Difference, difference
from esen_lab.common.trees import Tree, flatten, unflatten
from esen_lab.ensemble.kinds.engine_model import EngineModel
from esen_lab.errors import DeviceError
from esen_lab.lanes.backends._agreement import Finding, Questions, agreement, unbound, until
from esen_lab.lanes.backends._guards import IN_32_BITS, Check, Guards, Range, guarded
from esen_lab.lanes.backends._indices import casts_to_integers, checks_of
from esen_lab.lanes.backends._probes import is_whole
from esen_lab.lanes.backends._protocol import CAN_EXECUTE, Call, Example, Refused
from esen_lab.lanes.capturing import CAPTURING

if TYPE_CHECKING:
    from esen_lab.lanes.backends._protocol import Backend, BackendSettings

LOOKS_KEPT = 8
PROBED = "probed 1: "  # what a finding is kept under; another number where other probes are asked
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_LONGEST = 300  # characters of what an engine said
_ONE_TENSOR = flatten(([torch.empty(0)], {}))[1]


class Executed(nn.Module):
    """A module whose calls a backend executes.

    What is prepared is kept for `LOOKS_KEPT` looks of the input. Of more, each runs eagerly until it has come often,
    and the more often the more looks have been dropped already: inputs of ever new shapes cost little preparing.

    Args:
        module: The network.
        name: The backend's, for messages.
        kind: The backend.
        settings: How it is to execute.
    """

    def __init__(self, module: nn.Module, name: str, kind: type[Backend], settings: BackendSettings) -> None:
        super().__init__()
        self.module = module
        self.name = name
        self._kind = kind
        self._settings = settings
        self._backend: Backend | None = None
        self._calls: OrderedDict[object, Call] = OrderedDict()
        self._met: Counter[object] = Counter()
        self._patience = 2

    def forward(self, *args: Any, **kwargs: Any) -> Tree:
        """The module's answer.

        Raises:
            DeviceError: The backend can't take this module, or answers differently, with the first input there is.
        """
        if len(args) == 1 and not kwargs and type(args[0]) is torch.Tensor:
            leaves, structure = list(args), _ONE_TENSOR
        else:
            leaves, structure = flatten((list(args), kwargs))
        look = (structure, *((leaf.shape, leaf.dtype, leaf.device) for leaf in leaves))
        if not (self._kind.as_torch or _is_finite(leaves)):
            return self.module(*args, **kwargs)
        call = self._calls.get(look)
        if call is not None:
            return call(leaves, args, kwargs)
        if not self._is_worth_it(look):
            return self.module(*args, **kwargs)
        with CAPTURING:
            answer, self._calls[look] = self._first(leaves, structure)
        return answer

    def begin(self, *args: Any, **kwargs: Any) -> Callable[[], Tree] | None:
        """Have the backend begin on an input and return what waits for the answer; None where it has to be called."""
        leaves, structure = flatten((list(args), kwargs))
        call = self._calls.get((structure, *((leaf.shape, leaf.dtype, leaf.device) for leaf in leaves)))
        begin = getattr(call, "begin", None)
        if begin is None or not (self._kind.as_torch or _is_finite(leaves)):
            return None
        return begin(leaves)  # type: ignore[no-any-return]

    def _is_worth_it(self, look: object) -> bool:
        if len(self._calls) < LOOKS_KEPT:
            return True
        self._met[look] += 1
        if self._met[look] < self._patience:
            if len(self._met) > 100 * LOOKS_KEPT:
                self._met.clear()
            return False
        self._met.clear()
        self._patience *= 2
        self._calls.popitem(last=False)
        return True

    def _first(self, leaves: Sequence[torch.Tensor], structure: Any) -> tuple[Tree, Call]:
        """The first answer for a look, and what is called from then on."""
        before = self._tensors()
        wanted = self._eager(leaves, structure)
        changed = sorted(name for name, state in self._tensors().items() if before.get(name) != state)
        if changed:
            raise DeviceError(
                f"A sub-model that {self.name} executes answers each call as the last one",
                given=f"a call changes its {', '.join(changed)}",
            )
        with torch.inference_mode(mode=False), torch.no_grad():  # engines trace and compile in no mode but this
            try:
                return self._checked(leaves, structure, wanted)
            except DeviceError as problem:
                if not self._calls:
                    raise
                # It took other inputs of this sub-model: the run goes on, and is slower.
                warnings.warn(f"{self.name} leaves an input to eager: {problem}", stacklevel=2)
                return wanted, self._eagerly

    def _tensors(self) -> dict[str, tuple[int, int]]:
        """Which tensors the module has, and how often each was written to."""
        named = (*self.module.named_parameters(), *self.module.named_buffers())
        return {name: (id(tensor), -1 if tensor.is_inference() else tensor._version) for name, tensor in named}

    def _eager(self, leaves: Sequence[torch.Tensor], structure: Any) -> Tree:
        # Copies: a module that overwrites its input must not be compared on what it made of it.
        args, kwargs = unflatten(structure, [leaf.clone() for leaf in leaves])
        return self.module(*args, **kwargs)

    def _eagerly(self, _: Sequence[torch.Tensor], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tree:
        return self.module(*args, **kwargs)

    def _checked(self, leaves: Sequence[torch.Tensor], structure: Any, wanted: Tree) -> tuple[Tree, Call]:
        answers, answer_structure = flatten(wanted)
        example = Example(
            leaves=leaves,
            structure=structure,
            answer=answers,
            answer_structure=answer_structure,
            threads=torch.get_num_threads(),
        )
        cache = self._settings.cache
        while True:
            begun = time.monotonic()
            finding = self._finding(example)
            try:
                call = self._attempt(example)
                answer, found = self._compared(call, example, wanted)
                preparing_s = time.monotonic() - begun
            except DeviceError:
                if cache is None or not cache.forget_taken():
                    raise
                self._backend = None  # what was kept may be what cannot be used
                continue
            if found.agrees:
                if self._kind.as_torch:
                    return answer, call
                call = self._within_guards(call, example, finding, preparing_s)
                return self._called(call, leaves, structure), call  # probes were written over the first answer
            if cache is None or not cache.forget_taken():
                raise DeviceError(f"A sub-model that {self.name} executes answers as it does eagerly", given=str(found))
            self._backend = None  # what was kept is of another network: made anew

    def _attempt(self, example: Example) -> Call:
        try:
            if self._settings.precision and torch.float64 in self._dtypes(example):
                raise Refused("it computes in float64, which it keeps")
            if self._backend is None:
                self._backend = self._kind(self.module, self._settings)
            return self._backend.prepare(example)
        except Exception as problem:
            raise self._problem(problem) from problem

    def _dtypes(self, example: Example) -> set[torch.dtype]:
        return {tensor.dtype for tensor in (*example.leaves, *example.answer, *self.module.parameters())}

    def _compared(self, call: Call, example: Example, wanted: Tree) -> tuple[Tree, Difference]:
        """The first answer, and how it compares with the eager one."""
        calibration, allowed = self._settings.calibration, IN_PRECISION[self._settings.precision]
        if calibration is None:
            answer = self._called(call, example.leaves, example.structure)
            return answer, difference(answer, wanted, allowed)
        # int8 is right for data like its calibration's, and for no other: an example may be noise.
        leaves = calibration.like(example)[0]
        found = difference(
            self._called(call, leaves, example.structure), self._eager(leaves, example.structure), allowed
        )
        return self._called(call, example.leaves, example.structure), found

    def _finding(self, example: Example) -> Finding | None:
        """What an earlier process has found out on probes."""
        cache = self._settings.cache
        kept = None if cache is None or self._kind.as_torch else cache.take(PROBED + example.form)
        return None if kept is None else Finding.from_bytes(kept)

    def _within_guards(self, call: Call, example: Example, finding: Finding | None, preparing_s: float) -> Call:
        """A call that the engine executes where it is known to answer as the network.

        Raises:
            DeviceError: It answers otherwise, where no guard can tell.
        """
        try:
            guards = self._guards(call, example, finding, preparing_s)
        except Exception as problem:
            raise self._problem(problem) from problem
        return guarded(call, guards, self.module)

    def _guards(self, call: Call, example: Example, finding: Finding | None, preparing_s: float) -> Guards:
        assert self._backend is not None
        checks: Sequence[Check] = ()
        huge = False
        if finding is None or finding.computes:
            whole = any(map(is_whole, example.leaves))
            program = self._backend.program(example, anew=whole or finding is not None)
            if program is not None:
                checks, huge = checks_of(program), casts_to_integers(program)
        if finding is not None:
            return Guards(ranges=finding.ranges, checks=unbound(checks))
        questions = Questions(
            network=lambda leaves: self._eager(leaves, example.structure),
            engine=lambda leaves: self._called(call, leaves, example.structure),
            example=example.leaves,
            precision=self._settings.precision,
            allowed=IN_PRECISION[self._settings.precision],
            until=until(preparing_s),
        )
        guards = agreement(questions, checks, huge=huge, known=self._known(example))
        self._tell(questions.left)
        if self._settings.cache is not None:
            found = Finding(ranges=guards.ranges, computes=bool(guards.checks))
            self._settings.cache.keep(PROBED + example.form, found.to_bytes())
        return guards

    def _known(self, example: Example) -> dict[int, Range] | None:
        """The ranges of whole numbers that are not probed; None where they are.

        One may be how much memory a model of an engine takes, and what a lower precision rounds is no range's fault.
        """
        if not (isinstance(self.module, EngineModel) or self._settings.precision):
            return None
        wide = (torch.int64, torch.uint32, torch.uint64)
        return {i: IN_32_BITS for i, leaf in enumerate(example.leaves) if leaf.dtype in wide}

    def _tell(self, left: Sequence[str]) -> None:
        if left:
            warnings.warn(
                f"{self.name} was not compared with PyTorch for {'; '.join(left)}: that would have taken too long",
                stacklevel=2,
            )

    def _called(self, call: Call, leaves: Sequence[torch.Tensor], structure: Any) -> Tree:
        args, kwargs = unflatten(structure, leaves)
        try:
            return call(leaves, args, kwargs)
        except Exception as problem:
            raise self._problem(problem) from problem

    def _problem(self, problem: Exception) -> DeviceError:
        given = str(problem) if isinstance(problem, Refused) else said(problem)
        return DeviceError(f"{self.name} {CAN_EXECUTE}", given=given)


def _is_finite(leaves: Sequence[torch.Tensor]) -> bool:
    """Whether floating-point tensors hold neither NaN nor infinities, nor sums that are none any more."""
    return all(
        bool((leaf.sum() if leaf.dtype in (torch.float32, torch.float64) else leaf.float().sum()).isfinite())
        for leaf in leaves
        if leaf.is_floating_point()
    )


def said(problem: BaseException) -> str:
    """The kind of an engine's exception and its first line, without what colours terminals."""
    lines = [line.strip() for line in _COLOURS.sub("", str(problem)).splitlines()]
    first = next(filter(None, lines), "")
    return f"{type(problem).__name__}: {first}"[:_LONGEST]
