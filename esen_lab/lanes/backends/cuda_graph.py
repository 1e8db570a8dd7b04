"""As a CUDA graph, captured on the lane's own stream and replayed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from esen_lab.common.trees import Tree, unflatten
from esen_lab.lanes.backends._protocol import Call, Example
from esen_lab.lanes.backends.eager import Eager, no_autocast
from esen_lab.lanes.capturing import captured as capturing

_WARM_UPS = 3


class CudaGraph(Eager):
    """One graph per look.

    A graph keeps the context it was captured in: on the stream of a green context it runs on that context's SMs. The
    answer lies where the graph writes it; the next run overwrites it.
    """

    cuda: Any = torch.cuda  # tests give a double

    @staticmethod
    def why_not(torch_device: str, *, precision: str) -> str:
        """No NVIDIA GPU. A precision that autocast does not have there."""
        if not torch_device.startswith("cuda"):
            return "CUDA graphs exist on NVIDIA GPUs only"
        return no_autocast(torch_device, precision)

    def prepare(self, example: Example) -> Call:
        """Capture."""
        inputs = [leaf.clone() for leaf in example.leaves]
        args, kwargs = unflatten(example.structure, inputs)
        captured = super().prepare(example)
        for _ in range(_WARM_UPS):  # libraries choose kernels and take workspaces, which a capture forbids
            captured(inputs, args, kwargs)
        stream = self.cuda.current_stream()
        stream.synchronize()
        graph = self.cuda.CUDAGraph()
        with capturing(self.cuda, graph, stream):
            answer = captured(inputs, args, kwargs)

        def call(leaves: Sequence[torch.Tensor], _: Sequence[Any], __: Mapping[str, Any]) -> Tree:
            for there, here in zip(inputs, leaves, strict=True):
                there.copy_(here, non_blocking=True)
            graph.replay()
            return answer

        return call


BACKEND = CudaGraph
