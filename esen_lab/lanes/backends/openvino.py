"""By OpenVINO, which packs weights and fuses operators for the CPU that it finds."""

from __future__ import annotations

import contextlib
import functools
import io
import re
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from torch.export import ExportedProgram

from esen_lab.common.packages import can_import, package_version
from esen_lab.ensemble.kinds.engine_model import EngineModel
from esen_lab.ensemble.kinds.onnx_model import OnnxModel
from esen_lab.ensemble.kinds.openvino_model import TYPES, OpenVinoModel, imported, properties
from esen_lab.files.leftovers import temporary_folder
from esen_lab.lanes.backends._conversion import Bound, Trace, check_tensors, ports_of, quiet, traces_of
from esen_lab.lanes.backends._onnx import OnnxGraphs, missing_for_onnx
from esen_lab.lanes.backends._protocol import BackendSettings, Call, Example, Refused

_LEAST = 2026
_LENGTH_BYTES = 8
_NO_RULE = re.compile(r"No conversion rule found for operations: (.+)")


class OpenVino:
    """Converted once, and compiled once per look for its sizes, which is faster than with sizes left open."""

    reads: ClassVar[tuple[str, ...]] = (OpenVinoModel.kind, OnnxModel.kind)
    as_torch: ClassVar[bool] = False

    def __init__(self, module: nn.Module, settings: BackendSettings) -> None:
        if why := self.why_not("cpu", precision=settings.precision):
            raise Refused(why)
        if settings.precision == "int8" and isinstance(module, EngineModel):
            raise Refused("int8 is made of networks in PyTorch")
        self._openvino = imported()
        self._core = _core()
        self._module = module
        self._traces = traces_of(module, settings)
        self._settings = settings
        self._converted: list[tuple[Trace, Any]] = []
        self._graphs = OnnxGraphs(self._traces, settings)

    @staticmethod
    def why_not(torch_device: str, *, precision: str) -> str:
        """A GPU, no OpenVINO of 2026, or for int8 none of the packages that quantise."""
        if torch_device != "cpu":
            return "OpenVINO computes on the CPU here"
        if not can_import("openvino"):
            return "OpenVINO is not installed (pip install 'esen_lab[openvino]')"
        found = OpenVino.version()
        year = re.match(r"\d+", found)  # versions that somebody has built are called otherwise
        if year is not None and int(year[0]) < _LEAST:
            return f"OpenVINO {_LEAST} or newer is needed, and {found} is installed"
        if precision == "fp16":
            return "float16 is for GPUs, and CPUs compute in bfloat16"
        return missing_for_onnx() if precision == "int8" else ""

    @staticmethod
    def version() -> str:
        """Of the package."""
        return package_version("openvino")

    def program(self, example: Example) -> ExportedProgram | None:
        """As it was traced."""
        return self._traces.program(example)

    def prepare(self, example: Example) -> Call:
        """Compile for the example's sizes, or take what an earlier process has compiled."""
        check_tensors(TYPES, example, "OpenVINO")
        settings = properties(
            example.threads, precision=self._settings.precision, own_threads=self._settings.own_threads
        )
        cache = self._settings.cache
        kept = None if cache is None else cache.take(example.look + repr(settings))
        if kept is not None:
            compiled = self._core.import_model(io.BytesIO(kept), "CPU", settings)
        else:
            compiled = self._core.compile_model(self._model(example), "CPU", settings)
            if cache is not None:
                cache.keep(example.look + repr(settings), compiled.export_model().getvalue())
        for port in compiled.outputs:
            if port.partial_shape.is_dynamic:
                raise Refused("the shape of its answer depends on the values of its input")
        request = compiled.create_infer_request()
        given, made = ports_of(self._module, example)

        return Bound(
            example,
            lambda index, leaf: request.set_input_tensor(given[index], self._over(leaf)),
            lambda index, leaf: request.set_output_tensor(made[index], self._over(leaf)),
            request.start_async,  # with `wait` half the overhead of `infer`, which copies what it gives
            request.wait,
        )

    def _model(self, example: Example) -> Any:
        """A model with the sizes of the example."""
        if isinstance(self._module, EngineModel):
            return self._sized(self._whole(self._module), example)
        for trace, model in self._converted:
            if trace.serves(example):
                return self._sized(model, example)
        if self._settings.precision == "int8":
            return self._sized(self._core.read_model(model=self._graphs.of(example)), example)
        cache = self._settings.cache
        graph = None if cache is None else cache.take_graph(example.form)
        if graph is not None:
            return self._sized(self._read(graph), example)
        trace = self._traces.of(example)
        try:
            with quiet():
                model = self._openvino.convert_model(trace.program)
        except Exception as problem:
            operators = _NO_RULE.search(str(problem))
            if operators is None:
                raise
            raise Refused(f"OpenVINO has no rule for {operators[1].strip()}") from problem
        if (len(model.inputs), len(model.outputs)) != (len(example.leaves), len(example.answer)):
            raise Refused(
                f"OpenVINO made {len(model.inputs)} inputs and {len(model.outputs)} answers of "
                f"{len(example.leaves)} and {len(example.answer)}"
            )
        self._converted.append((trace, model))
        if cache is not None and cache.working_folder is not None:
            with contextlib.suppress(OSError, RuntimeError):  # a full disk, in words of Python or of the engine
                cache.keep_graph(example.form, self._written(model, cache.working_folder))
        return self._sized(model, example)

    def _written(self, model: Any, beside: Path) -> bytes:
        """A model's two files as one: how many bytes the first has, then both. Only files can be written."""
        with temporary_folder(beside / "graph") as folder:
            self._openvino.serialize(model, folder / "graph.xml", folder / "graph.bin")
            words, weights = ((folder / name).read_bytes() for name in ("graph.xml", "graph.bin"))
        return len(words).to_bytes(_LENGTH_BYTES, "big") + words + weights

    def _read(self, graph: bytes) -> Any:
        end = _LENGTH_BYTES + int.from_bytes(graph[:_LENGTH_BYTES], "big")
        weights = torch.frombuffer(bytearray(graph[end:] or b"\0"), dtype=torch.uint8).numpy()
        return self._core.read_model(graph[_LENGTH_BYTES:end], self._openvino.Tensor(weights))

    def _whole(self, module: EngineModel) -> Any:
        """A model that is no network."""
        if isinstance(module, OpenVinoModel):
            return module.model
        assert isinstance(module, OnnxModel)
        model = self._core.read_model(module.model)
        ports, names = [*model.inputs, *model.outputs], [*module.inputs, *module.all_outputs]
        if len(ports) != len(names) or any(
            name not in port.get_names() for port, name in zip(ports, names, strict=True)
        ):
            raise Refused("OpenVINO reads the ONNX model with other inputs or answers")
        return model

    def _sized(self, model: Any, example: Example) -> Any:
        model = model.clone()
        given, _ = ports_of(self._module, example)
        model.reshape({given[index]: list(leaf.shape) for index, leaf in enumerate(example.leaves)})
        return model

    def _over(self, leaf: torch.Tensor) -> Any:
        """A tensor of OpenVINO's in the memory of torch's."""
        kind = getattr(self._openvino.Type, TYPES[leaf.dtype])
        memory = leaf.reshape(-1).view(torch.uint8).numpy()
        return self._openvino.Tensor(memory, self._openvino.Shape(list(leaf.shape)), kind)


@functools.cache
def _core() -> Any:
    """The one of this process: networks that compute side by side belong to it."""
    return imported().Core()


BACKEND = OpenVino
