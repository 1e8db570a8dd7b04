"""Inside a model of Triton's Python backend: named tensors of a request become trees, and answers become tensors.

Tensors cross by DLPack and never as NumPy arrays: the backend's own way to arrays gives empty outputs where it was
built for another NumPy than the one at hand, without an error.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from esen_lab.common.inputs import as_input
from esen_lab.common.tensors import aligned
from esen_lab.common.trees import Tree, flatten
from esen_lab.common.units import check_count
from esen_lab.errors import EsenError, UsageError, first_line
from esen_lab.export.triton.ports import Port, Ports, read

if TYPE_CHECKING:
    import torch

DEADLINE = "deadline_us"
"""The parameter of a request that is to be answered by a deadline."""


class _Exchange:
    """Tensors of Triton, and ours."""

    def __init__(self, triton: Any) -> None:
        self._triton = triton

    def _refusal(self, why: str) -> Any:
        return self._triton.InferenceResponse([], self._triton.TritonError(why))

    def _tree(self, request: Any, ports: Ports) -> Tree:
        return ports.tree([self._taken(request, port) for port in ports.ports])

    def _taken(self, request: Any, port: Port) -> torch.Tensor:
        found = self._triton.get_input_tensor_by_name(request, port.name)
        if found is None:
            raise UsageError("A request brings every input of the model", given=f"none called {port.name}")
        return self._ours(found, port)

    @staticmethod
    def _ours(found: Any, port: Port) -> torch.Tensor:
        import torch
        from torch.utils.dlpack import from_dlpack

        # Triton puts tensors at any address, so the same numbers would give other last bits than in the notebook.
        tensor = aligned(from_dlpack(found.to_dlpack()))
        if port.data_type == "TYPE_BOOL":
            tensor = tensor.view(torch.bool) if tensor.element_size() == 1 else tensor
        return tensor.reshape(()) if port.scalar else tensor

    def _tensors(self, ports: Ports, tree: Tree) -> list[Any]:
        import torch

        leaves, structure = flatten(tree, "the answer")
        if structure != ports.structure:
            raise UsageError(
                "An answer has the tensors that it had when the plan was exported",
                given=f"{len(leaves)} tensors in another structure",
                hint="Export again with an example that shows it.",
            )
        made = []
        for port, leaf in zip(ports.ports, leaves, strict=True):
            # Lanes write each answer where the last one was: Triton gets a copy, in the usual layout.
            own = (
                leaf.detach()
                .clone(memory_format=torch.contiguous_format)
                .reshape(port.dims if port.scalar else leaf.shape)
            )
            made.append(self._triton.Tensor.from_dlpack(port.name, own.__dlpack__()))
        return made


class ModelAnswers(_Exchange):
    """Answers the requests of one model.

    Args:
        triton: Triton's own module, `triton_python_backend_utils`, which is there in its processes alone.
        ports: Which trees a request brings and an answer has: what `written` gave.
        function: Called with the trees of a request, gives those of the answer.
    """

    def __init__(
        self,
        triton: Any,
        ports: str,
        function: Callable[[list[Tree]], Sequence[Tree]],
    ) -> None:
        super().__init__(triton)
        self._inputs, self._outputs = read(ports)
        self._function = function

    def answer(self, request: Any) -> Any:
        """The response to one request; what goes wrong is said in it, and the model stays usable."""
        try:
            trees = [as_input(self._tree(request, ports)) for ports in self._inputs]
            tensors = []
            for ports, tree in zip(self._outputs, self._function(trees), strict=True):
                tensors += self._tensors(ports, tree)
        except EsenError as problem:
            return self._refusal(str(problem))
        except Exception as problem:  # whatever a combine rule of the user's raises
            return self._refusal(f"{type(problem).__name__}: {first_line(problem)}")
        return self._triton.InferenceResponse(tensors)


class Stages(Protocol):
    """Whom a plan in stages asks when: `esen_lab.run.StagesInPlace`."""

    def steps_of(self, lane: int) -> tuple[str, ...]:
        """What a lane runs, in order."""

    async def answer(
        self,
        rows: int,
        ask: Callable[[tuple[int, ...], torch.Tensor | None], Awaitable[Mapping[str, Tree]]],
        left_s: Callable[[], float],
    ) -> Tree:
        """The ensemble's answer to so many rows, by what `ask` gives of lanes and rows."""


class StagedAnswers(_Exchange):
    """Answers the requests of a plan in stages: asks the models of its lanes, by business logic scripting.

    A request may bring the parameter "deadline_us": a stage that is not expected to be done so many microseconds after
    the model began on the request is not begun.

    Args:
        triton: See `ModelAnswers`.
        ports: The trees of a request and of an answer: what `written` gave.
        lanes: For each lane the name of its model, and what that takes and gives: what `written` gave.
        stages: Whom to ask when.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        triton: Any,
        ports: str,
        lanes: Sequence[tuple[str, str]],
        stages: Stages,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(triton)
        (self._input,), (self._output,) = read(ports)
        self._lanes = [(model, *read(own)) for model, own in lanes]
        self._stages = stages
        self._clock = clock

    async def answer(self, request: Any) -> Any:
        """The response to one request; what goes wrong is said in it, and the model stays usable."""
        began_s = self._clock()
        try:
            deadline_s = _deadline_s(request)
            tensors = {port.name: self._taken(request, port) for port in self._input.ports}
            rows = _rows_of(tensors)
            as_input(self._input.tree(list(tensors.values())))
            output = await self._stages.answer(
                rows, partial(self._ask, tensors), lambda: began_s + deadline_s - self._clock()
            )
            return self._triton.InferenceResponse(self._tensors(self._output, output))
        except EsenError as problem:
            return self._refusal(str(problem))
        except Exception as problem:  # whatever a combine rule of the user's raises
            return self._refusal(f"{type(problem).__name__}: {first_line(problem)}")

    async def _ask(
        self, tensors: Mapping[str, torch.Tensor], lanes: tuple[int, ...], rows: torch.Tensor | None
    ) -> dict[str, Tree]:
        """The answers of some lanes to some rows, by their steps; the lanes work side by side."""
        picked = tensors if rows is None else {name: one.index_select(0, rows) for name, one in tensors.items()}
        responses = await asyncio.gather(*(self._request(number, picked).async_exec() for number in lanes))
        found: dict[str, Tree] = {}
        for number, response in zip(lanes, responses, strict=True):
            model, _, answers = self._lanes[number]
            if response.has_error():
                raise EsenError(f"The model {model} answers", given=str(response.error().message()))
            for name, ports in zip(self._stages.steps_of(number), answers, strict=True):
                found[name] = ports.tree([self._answered(response, port) for port in ports.ports])
        return found

    def _request(self, number: int, tensors: Mapping[str, torch.Tensor]) -> Any:
        model, (taken,), answers = self._lanes[number]
        return self._triton.InferenceRequest(
            model_name=model,
            inputs=[
                self._triton.Tensor.from_dlpack(port.name, tensors[port.name].contiguous().__dlpack__())
                for port in taken.ports
            ],
            requested_output_names=[port.name for ports in answers for port in ports.ports],
        )

    def _answered(self, response: Any, port: Port) -> torch.Tensor:
        return self._ours(self._triton.get_output_tensor_by_name(response, port.name), port)


def _deadline_s(request: Any) -> float:
    """What a request's parameters say; infinite where they say nothing."""
    told = json.loads(request.parameters() or "{}").get(DEADLINE)
    if told is None:
        return math.inf
    return check_count(told, f"The parameter {DEADLINE!r} is a whole number of microseconds above 0") / 1e6


def _rows_of(tensors: Mapping[str, torch.Tensor]) -> int:
    sizes = {len(tensor) if tensor.dim() else -1 for tensor in tensors.values()}
    if len(sizes) != 1 or min(sizes) < 1:
        raise UsageError(
            "A plan in stages takes an input with its rows along dimension 0 of every tensor, at least one",
            given=", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items()),
        )
    return sizes.pop()
