"""By TensorRT, through `torch_tensorrt`. Written from its documentation: nobody has run it.

https://docs.pytorch.org/TensorRT/py_api/dynamo.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from torch.export import ExportedProgram

from esen_lab.common.packages import can_import, package_version
from esen_lab.common.trees import Tree, unflatten
from esen_lab.lanes.backends._conversion import Traces, quiet
from esen_lab.lanes.backends._protocol import BackendSettings, Call, Example, Refused


class TensorRt:
    """Converted and compiled once per look."""

    reads: ClassVar[tuple[str, ...]] = ()
    as_torch: ClassVar[bool] = False

    def __init__(self, module: nn.Module, settings: BackendSettings) -> None:
        if why := self.why_not("cuda", precision=settings.precision):
            raise Refused(why)
        import torch_tensorrt

        self._compiler: Any = torch_tensorrt
        self._module = module
        self._traces = Traces(module)
        self._settings = settings

    @staticmethod
    def why_not(torch_device: str, *, precision: str) -> str:
        """No NVIDIA GPU, no torch_tensorrt, or int8."""
        if not torch_device.startswith("cuda"):
            return "TensorRT computes on NVIDIA GPUs only"
        if not can_import("torch_tensorrt"):
            return "torch_tensorrt is not installed"
        if precision == "int8":
            return "TensorRT does not quantise here"
        return ""

    @staticmethod
    def version() -> str:
        """Of the package."""
        return package_version("torch_tensorrt")

    def program(self, example: Example) -> ExportedProgram | None:
        """As it was traced."""
        return self._traces.program(example)

    def prepare(self, example: Example) -> Call:
        """Compile for the example's sizes."""
        lower = {"bf16": {torch.bfloat16}, "fp16": {torch.float16}}
        precisions = {torch.float32} | lower.get(self._settings.precision, set())
        with quiet():
            engine = self._compiler.dynamo.compile(
                self._traces.of(example).program,
                inputs=[leaf.clone() for leaf in example.leaves],
                enabled_precisions=precisions,
                disable_tf32=True,
            )
        structure = example.answer_structure

        def call(leaves: Sequence[torch.Tensor], _: Sequence[Any], __: Mapping[str, Any]) -> Tree:
            return unflatten(structure, engine(*leaves))

        return call


BACKEND = TensorRt
