"""By ONNX Runtime, from an ONNX graph that torch exports; in int8, quantised."""

from __future__ import annotations

import re
from typing import Any, ClassVar

import torch
from torch import nn
from torch.export import ExportedProgram

from esen_lab.common.packages import package_version
from esen_lab.ensemble.kinds.onnx_model import TYPES, OnnxModel, session
from esen_lab.lanes.backends._conversion import Bound, check_tensors, ports_of, traces_of
from esen_lab.lanes.backends._onnx import NEEDS, OnnxGraphs, missing_for_onnx, size_name
from esen_lab.lanes.backends._protocol import BackendSettings, Call, Example, Refused

_NO_KERNEL = re.compile(r"Could not find an implementation for (\S+)")


class OnnxRuntime:
    """A session per look, with its sizes put in for those that were left open."""

    reads: ClassVar[tuple[str, ...]] = (OnnxModel.kind,)
    as_torch: ClassVar[bool] = False

    def __init__(self, module: nn.Module, settings: BackendSettings) -> None:
        if why := self.why_not("cpu", precision=settings.precision):
            raise Refused(why)
        if settings.precision == "int8" and isinstance(module, OnnxModel):
            raise Refused("int8 is made of networks in PyTorch")
        self._module = module
        self._traces = traces_of(module, settings)
        self._graphs = OnnxGraphs(self._traces, settings)

    @staticmethod
    def why_not(torch_device: str, *, precision: str) -> str:
        """A GPU, a precision, or a package that is missing."""
        if torch_device != "cpu":
            return "ONNX Runtime computes on the CPU here"
        if precision == "bf16":
            return "ONNX Runtime does not compute in bfloat16 on CPUs"
        if precision == "fp16":
            return "float16 is for GPUs, and ONNX Runtime computes on the CPU here"
        return missing_for_onnx()

    @staticmethod
    def version() -> str:
        """Of the packages that export and execute."""
        return " ".join(package_version(name) for name in NEEDS)

    def program(self, example: Example) -> ExportedProgram | None:
        """As it was traced."""
        return self._traces.program(example)

    def prepare(self, example: Example) -> Call:
        """Make a session, of what an earlier process has exported where there is that."""
        check_tensors(TYPES, example, "ONNX Runtime")
        module = self._module
        whole = isinstance(module, OnnxModel)  # which may have more answers than it gives
        graph = module.model if isinstance(module, OnnxModel) else self._graphs.of(example)
        prepared = self._session(graph, example)
        given, made = prepared.get_inputs(), prepared.get_outputs()
        inputs, outputs = ports_of(self._module, example)
        if not whole and (len(given), len(made)) != (len(example.leaves), len(example.answer)):
            raise Refused(
                f"the ONNX graph has {len(given)} inputs and {len(made)} answers instead of "
                f"{len(example.leaves)} and {len(example.answer)}"
            )
        binding = prepared.io_binding()

        def bind(how: Any, name: str, leaf: torch.Tensor) -> None:
            how(name, "cpu", 0, TYPES[leaf.dtype], list(leaf.shape), leaf.data_ptr())

        return Bound(
            example,
            lambda index, leaf: bind(binding.bind_input, given[inputs[index]].name, leaf),
            lambda index, leaf: bind(binding.bind_output, made[outputs[index]].name, leaf),
            lambda: prepared.run_with_iobinding(binding),
        )

    def _session(self, model: bytes, example: Example) -> Any:
        sizes = {size_name(index): leaf.shape[0] for index, leaf in enumerate(example.leaves) if leaf.dim()}
        try:
            return session(model, example.threads, sizes)
        except Exception as problem:
            kernel = _NO_KERNEL.search(str(problem))
            if kernel is None:
                raise
            raise Refused(f"ONNX Runtime has no kernel for {kernel[1]} with these dtypes") from problem


BACKEND = OnnxRuntime
