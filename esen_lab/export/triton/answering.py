"""Inside a model of Triton's Python backend: named tensors of a request become trees, and answers become tensors.

Tensors cross by DLPack and never as NumPy arrays: the backend's own way to arrays gives empty outputs where it was
built for another NumPy than the one at hand, without an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from esen_lab.common.inputs import as_input
from esen_lab.common.trees import Tree, flatten
from esen_lab.errors import EsenError, UsageError, first_line
from esen_lab.export.triton.ports import Port, Ports, read

if TYPE_CHECKING:
    import torch


class ModelAnswers:
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
        self._triton = triton
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

    def _refusal(self, why: str) -> Any:
        return self._triton.InferenceResponse([], self._triton.TritonError(why))

    def _tree(self, request: Any, ports: Ports) -> Tree:
        return ports.tree([self._taken(request, port) for port in ports.ports])

    def _taken(self, request: Any, port: Port) -> torch.Tensor:
        import torch
        from torch.utils.dlpack import from_dlpack

        found = self._triton.get_input_tensor_by_name(request, port.name)
        if found is None:
            raise UsageError("A request brings every input of the model", given=f"none called {port.name}")
        tensor: torch.Tensor = from_dlpack(found.to_dlpack())
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
