"""A sub-model executed by a backend: a module around the module, which compares the first answer of every look."""

from __future__ import annotations

import re
import time
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from esen_lab.common.answers import IN_PRECISION, Difference, difference
from esen_lab.common.tensors import same_bytes
from esen_lab.common.trees import Tree, flatten, unflatten
from esen_lab.ensemble.kinds.engine_model import EngineModel
from esen_lab.errors import DeviceError, told_first
from esen_lab.lanes.backends._agreement import Questions, agreement, unbound, until
from esen_lab.lanes.backends._findings import Finding, Findings, on_device
from esen_lab.lanes.backends._guards import IN_32_BITS, Guards, Range, guarded, is_finite
from esen_lab.lanes.backends._indices import checks_of, narrows_floats
from esen_lab.lanes.backends._protocol import CAN_EXECUTE, Call, Example, Refused, switches_now
from esen_lab.lanes.capturing import CAPTURING

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from esen_lab.lanes.backends._protocol import Backend, BackendSettings

LOOKS_KEPT = 8
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_LONGEST = 300  # characters of what an engine said
_ONE_TENSOR = flatten(([torch.empty(0)], {}))[1]


class Executed(nn.Module):
    """A module whose calls a backend executes.

    What is prepared is kept for `LOOKS_KEPT` looks of the input. Of more, each runs eagerly until it has come often,
    and the more often the more looks have been dropped already: inputs of ever new shapes cost little preparing.

    Attributes:
        writes: Whether the module was seen to write into an input.
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
        self.writes = False

    def forward(self, *args: Any, **kwargs: Any) -> Tree:
        """The module's answer.

        Raises:
            DeviceError: The backend can't take this module, or answers differently, with the first input there is.
        """
        if len(args) == 1 and not kwargs and type(args[0]) is torch.Tensor:
            leaves, structure = list(args), _ONE_TENSOR
        else:
            leaves, structure = flatten((list(args), kwargs))
        look = _look_of(leaves, structure)
        if not (self._kind.as_torch or is_finite(leaves)):
            return self.module(*args, **kwargs)
        call = self._calls.get(look)
        if call is not None:
            try:
                return call(leaves, args, kwargs)
            except Exception as problem:
                return self._without(look, problem, args, kwargs)
        if not self._is_worth_it(look):
            return self.module(*args, **kwargs)
        with CAPTURING:
            answer, self._calls[look] = self._first(leaves, structure)
        return answer

    def begin(self, *args: Any, **kwargs: Any) -> Callable[[], Tree] | None:
        """Have the backend begin on an input and return what waits for the answer; None where it has to be called."""
        leaves, structure = flatten((list(args), kwargs))
        look = _look_of(leaves, structure)
        begin = getattr(self._calls.get(look), "begin", None)
        if begin is None or not (self._kind.as_torch or is_finite(leaves)):
            return None
        try:
            wait: Callable[[], Tree] | None = begin(leaves)
        except Exception:
            return None  # it is called, and raises again where it can be met
        return None if wait is None else partial(self._waited, wait, look, args, kwargs)

    def _waited(self, wait: Callable[[], Tree], look: object, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tree:
        try:
            return wait()
        except Exception as problem:
            return self._without(look, problem, args, kwargs)

    def _without(self, look: object, problem: Exception, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tree:
        """The network's own answer to an input at which the engine raised, or what it raises itself at that.

        Where it answers, the engine is at fault, and is asked no more for inputs of this look.
        """
        if self.writes:
            raise problem  # the input may be half written over by now
        try:
            answer = self.module(*args, **kwargs)
        except Exception as own:
            raise own from None
        self._calls[look] = self._eagerly
        warnings.warn(f"{self.name} leaves an input to eager: {self._problem(problem)}", stacklevel=3)
        return answer

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
        copies = [leaf.clone() for leaf in leaves]
        args, kwargs = unflatten(structure, copies)
        answer = self.module(*args, **kwargs)
        self.writes = self.writes or not all(map(same_bytes, copies, leaves))
        return answer

    def _eagerly(self, _: Sequence[torch.Tensor], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tree:
        return self.module(*args, **kwargs)

    def _checked(self, leaves: Sequence[torch.Tensor], structure: Any, wanted: Tree) -> tuple[Tree, Call]:
        """The engine's first answer for a look and what is called from then on, where it may be used.

        Raises:
            DeviceError: It may not.
        """
        answers, answer_structure = flatten(wanted)
        example = Example(
            leaves=leaves,
            structure=structure,
            answer=answers,
            answer_structure=answer_structure,
            threads=torch.get_num_threads(),
            switches=switches_now(),
        )
        device = next((leaf.device.type for leaf in (*leaves, *answers)), "cpu")
        findings = Findings(cache=self._settings.cache, form=on_device(example.form, device))
        finding = findings.known()
        if finding is not None and finding.refused:
            raise self._problem(Refused(finding.refused))
        try:
            with findings.trying() as executing:
                return self._tried(example, wanted, findings, executing)
        except Refused as problem:
            raise self._problem(problem) from problem

    def _tried(
        self, example: Example, wanted: Tree, findings: Findings, executing: Callable[[], None]
    ) -> tuple[Tree, Call]:
        cache = self._settings.cache
        while True:
            begun = time.monotonic()
            try:
                call = self._attempt(example)
                executing()
                answer, found = self._compared(call, example, wanted)
                preparing_s = time.monotonic() - begun
            except DeviceError:
                if cache is None or not cache.forget_taken():
                    raise
                self._backend = None  # what was kept may be what cannot be used
                findings.forget()
                continue
            if found.agrees:
                if self._kind.as_torch:
                    return answer, call
                call = self._within_guards(call, example, findings, preparing_s)
                return self._called(
                    call, example.leaves, example.structure
                ), call  # probes were written over the first answer
            if cache is None or not cache.forget_taken():
                raise DeviceError(f"A sub-model that {self.name} executes answers as it does eagerly", given=str(found))
            self._backend = None  # what was kept is of another network: made anew
            findings.forget()

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

    def _within_guards(self, call: Call, example: Example, findings: Findings, preparing_s: float) -> Call:
        """A call that the engine executes where it is known to answer as the network.

        Raises:
            DeviceError: It answers otherwise, where no guard can tell.
        """
        try:
            guards = self._known_guards(example, findings.known()) or self._probed(call, example, findings, preparing_s)
        except Exception as problem:
            raise self._problem(problem) from problem
        return guarded(call, guards, self.module, example.structure)

    def _known_guards(self, example: Example, finding: Finding | None) -> Guards | None:
        """Those that an earlier process has found out; None where nobody has."""
        if finding is None:
            return None
        if finding.refused:  # of a graph that was brought along, which is known once it is in use
            raise Refused(finding.refused)
        self._tell(finding.left)
        program = self._program(example) if finding.computes else None
        checks = () if program is None else unbound(checks_of(program))
        return Guards(ranges=finding.ranges, checks=checks, answers=finding.answers)

    def _program(self, example: Example) -> ExportedProgram | None:
        assert self._backend is not None
        return self._backend.program(example)

    def _probed(self, call: Call, example: Example, findings: Findings, preparing_s: float) -> Guards:
        program = self._program(example)
        checks = () if program is None else checks_of(program)
        huge = program is not None and narrows_floats(program)
        questions = Questions(
            network=lambda leaves: self._eager(leaves, example.structure),
            engine=lambda leaves: self._called(call, leaves, example.structure),
            example=example.leaves,
            precision=self._settings.precision,
            allowed=IN_PRECISION[self._settings.precision],
            until=until(preparing_s),
        )
        try:
            guards = agreement(questions, checks, huge=huge, known=self._known(example))
        except Refused as problem:
            findings.keep(Finding(refused=str(problem)))
            raise
        self._tell(questions.left)
        computes = bool(guards.checks)
        findings.keep(Finding(ranges=guards.ranges, computes=computes, left=questions.left, answers=guards.answers))
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


def _look_of(leaves: Sequence[torch.Tensor], structure: Any) -> object:
    """What inputs have in common for which one preparing is enough, while one thing is set under which they come."""
    cast = torch.is_autocast_enabled("cpu") and switches_now()  # with GPUs torch itself computes
    return (structure, cast, *((leaf.shape, leaf.dtype, leaf.device) for leaf in leaves))


def said(problem: BaseException) -> str:
    """The kind of an engine's exception and its first line, without what colours terminals."""
    return f"{type(problem).__name__}: {told_first(_COLOURS.sub('', str(problem)))}"[:_LONGEST]
