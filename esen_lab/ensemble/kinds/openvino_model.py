"""OpenVINO: IR (.xml with its .bin), or an `openvino.Model`; computed by OpenVINO on the CPU."""

from __future__ import annotations

import math
import os
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from esen_lab.common.packages import package_version
from esen_lab.ensemble.fingerprint import bytes_digest
from esen_lab.ensemble.kinds.adapted import Adapted, Hidden, SourceWatch, array_of, check_options, needs, watched_files
from esen_lab.ensemble.kinds.engine_model import EngineModel, check_inputs, chosen
from esen_lab.ensemble.recipes import FileRecipe
from esen_lab.errors import UsageError, first_line
from esen_lab.files import check_no_stand_in, read_bytes

TYPES: Mapping[torch.dtype, str] = {
    torch.float32: "f32",
    torch.float64: "f64",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int16: "i16",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.bool: "boolean",
}
_DTYPES = {name: dtype for dtype, name in TYPES.items()}
_ARRAYS = frozenset({*_DTYPES, "u16", "u32", "u64", "dynamic", "undefined"})
"""What arrays of NumPy come of, or what is known at a call only; text, parts of bytes and floats of 8 bits are none."""
_KIND = "OpenVINO model"
_LOOKS_KEPT = 8


def imported() -> Any:
    """OpenVINO, loaded without the part that reports each import and each conversion to its makers."""
    silenced = "openvino_telemetry" not in sys.modules
    if silenced:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # as if it were not installed
    try:
        import openvino
    finally:
        if silenced:
            del sys.modules["openvino_telemetry"]
    return openvino


def properties(threads: int, *, precision: str = "", own_threads: bool = False) -> dict[str, Any]:
    """How it compiles for a lane.

    Args:
        threads: How many the lane computes with.
        precision: "bf16" where products may be computed in it.
        own_threads: Whether it computes in threads of its own, so that the calling one may have others begin meanwhile.
    """
    # Without a stream it computes in the calling thread and its team, whose size is that of the affinity; with one,
    # in threads of its own, which look for work for a millisecond after each call.
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",  # by itself it takes bf16 on AMX
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 0 if affinity == threads and not own_threads else 1,
        "ENABLE_CPU_PINNING": False,  # the lane pins
    }


class OpenVinoModel(EngineModel):
    """OpenVINO IR as a module. Sizes that it leaves open are put in for each look of the input, which is faster.

    Raises:
        UsageError: OpenVINO is missing, or cannot read it.
    """

    kind = _KIND
    runs_in = "OpenVINO"

    def __init__(self, xml: bytes, weights: bytes, outputs: Any = None) -> None:
        super().__init__()
        needs("openvino", "openvino", f"An {_KIND}")
        try:
            core = imported().Core()
            model = core.read_model(model=xml, weights=weights)
        except Exception as problem:
            raise UsageError(f"OpenVINO can read the {_KIND}", given=first_line(problem)) from problem
        self._core = Hidden(core)
        self._model = Hidden(model)
        self._requests = Hidden(OrderedDict())
        self.inputs = {_name(port, "input", i): _DTYPES.get(_type(port)) for i, port in enumerate(model.inputs)}
        self.sizes = {name: _sizes(port) for name, port in zip(self.inputs, model.inputs, strict=True)}
        check_inputs(dict(zip(self.inputs, map(_type, model.inputs), strict=True)), _ARRAYS, self.kind)
        self.all_outputs = tuple(_name(port, "output", index) for index, port in enumerate(model.outputs))
        types = dict(zip(self.all_outputs, map(_type, model.outputs), strict=True))
        unusable = {name: said for name, said in types.items() if said not in _ARRAYS}
        self._in_bfloat16 = frozenset(name for name, said in types.items() if said == "bf16")
        self.outputs = chosen(self.all_outputs, outputs, unusable, self.kind)

    @property
    def model(self) -> Any:
        """The `openvino.Model`."""
        return self._model.value

    def _answers(self, given: Mapping[str, Any]) -> list[torch.Tensor]:
        arrays = []
        for name, kind in self.inputs.items():
            if kind is torch.bfloat16:  # NumPy knows none: OpenVINO takes and gives its bits as those of float16
                self._check({name: given[name]})
                arrays.append(array_of(given[name].view(torch.float16)))
            else:
                arrays.append(array_of(given[name]))
        threads = torch.get_num_threads()
        look = (threads, *(array.shape for array in arrays))
        known = self._requests.value
        request = known.get(look)
        if request is None:
            request = self._compiled(threads, [array.shape for array in arrays]).create_infer_request()
            known[look] = request
            if len(known) > _LOOKS_KEPT:
                known.popitem(last=False)
        found = request.infer(arrays, share_inputs=True)
        answers = [torch.as_tensor(found[self.all_outputs.index(name)]) for name in self.outputs]
        return [
            answer.view(torch.bfloat16) if name in self._in_bfloat16 else answer
            for name, answer in zip(self.outputs, answers, strict=True)
        ]

    def _compiled(self, threads: int, shapes: list[tuple[int, ...]]) -> Any:
        model = self.model
        if model.is_dynamic():
            model = model.clone()
            model.reshape({index: list(shape) for index, shape in enumerate(shapes)})
        return self._core.value.compile_model(model, "CPU", properties(threads))


def adapt(source: Any, options: Mapping[str, Any]) -> Adapted | None:
    """A member made of an .xml file, or of a `Model`; None for anything else."""
    watch: SourceWatch | None = None
    if isinstance(source, Path) and source.suffix.lower() == ".xml":
        beside = source.with_suffix(".bin")
        if not beside.is_file():
            raise UsageError("OpenVINO IR is two files, .xml and .bin beside it", given=f"no {beside.name}")
        check_no_stand_in(beside)
        xml, weights = read_bytes(source), read_bytes(beside)
        watch = watched_files(source, [source, beside])
    elif type(source).__name__ == "Model" and type(source).__module__.partition(".")[0] == "openvino":
        xml, weights = _written(source)
    elif type(source).__name__ == "CompiledModel" and type(source).__module__.partition(".")[0] == "openvino":
        raise UsageError(
            "OpenVINO compiles a model in each lane, for the lane's threads",
            given="a CompiledModel, which stays in this process",
            hint="Register what it was compiled from: the openvino.Model, or its .xml.",
        )
    else:
        return None
    check_options(options, ("outputs",), f"An {_KIND}")
    module = OpenVinoModel(xml, weights, options.get("outputs"))
    kept = {} if module.outputs == module.all_outputs else {"outputs": list(module.outputs)}
    digests = [bytes_digest(part) for part in (xml, weights)]
    constants = [op for op in module.model.get_ops() if op.get_type_name() == "Constant"]
    return Adapted(
        module=module,
        recipes=[partial(FileRecipe, form="openvino", files={"xml": xml, "bin": weights}, options=kept)],
        class_name=_KIND,
        kind=_KIND,
        structure=f"{digests[0]} {module.outputs} openvino {package_version('openvino')}",
        values=" ".join(digests),
        parameters=sum(math.prod(op.get_output_shape(0)) for op in constants),
        memory_bytes=len(weights),
        watch=watch,
    )


def load(files: Mapping[str, bytes], options: Mapping[str, Any]) -> OpenVinoModel:
    """The module of IR that was kept."""
    return OpenVinoModel(files["xml"], files["bin"], options.get("outputs"))


def _written(model: Any) -> tuple[bytes, bytes]:
    """A model as IR, its weights as precise as they are."""
    with tempfile.TemporaryDirectory(prefix="esen_lab_") as folder:
        path = Path(folder) / "model.xml"
        imported().save_model(model, str(path), compress_to_fp16=False)
        return read_bytes(path), read_bytes(path.with_suffix(".bin"))


def _name(port: Any, what: str, index: int) -> str:
    """A port's name; some have none."""
    names = sorted(port.get_names())
    return names[0] if names else f"{what}_{index}"


def _type(port: Any) -> str:
    name: str = port.get_element_type().get_type_name()
    return name


def _sizes(port: Any) -> tuple[int | None, ...] | None:
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        return None
    return tuple(size.get_length() if size.is_static else None for size in shape)
