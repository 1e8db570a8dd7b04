"""ONNX: a file, its bytes, or an `onnx.ModelProto`; computed by ONNX Runtime."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from esen_lab.common.packages import can_import, package_version
from esen_lab.common.tensors import known_to_torch
from esen_lab.ensemble.fingerprint import bytes_digest
from esen_lab.ensemble.kinds.adapted import Adapted, Hidden, SourceWatch, array_of, check_options, needs, watched_files
from esen_lab.ensemble.kinds.engine_model import EngineModel, check_inputs, chosen
from esen_lab.ensemble.recipes import FileRecipe
from esen_lab.errors import UsageError, first_line
from esen_lab.files import check_no_stand_in, read_bytes

MOST_BYTES = 2**31 - 1
"""Of a protocol buffer, and so of a graph in one piece."""
TYPES: Mapping[torch.dtype, int] = {
    torch.float32: 1,
    torch.uint8: 2,
    torch.int8: 3,
    torch.int16: 5,
    torch.int32: 6,
    torch.int64: 7,
    torch.bool: 9,
    torch.float16: 10,
    torch.float64: 11,
    torch.bfloat16: 16,
}
"""The numbers of TensorProto.DataType: https://onnx.ai/onnx/api/classes.html#tensorproto"""
# Not bfloat16: ONNX Runtime exchanges arrays of NumPy, which has none.
_NAMES: Mapping[str, torch.dtype] = {
    "tensor(float)": torch.float32,
    "tensor(double)": torch.float64,
    "tensor(float16)": torch.float16,
    "tensor(bool)": torch.bool,
    **{f"tensor(int{bits})": getattr(torch, f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"tensor(uint{bits})": getattr(torch, f"uint{bits}") for bits in (8, 16, 32, 64)},
}
_KIND = "ONNX model"
_ONNX_SUFFIX = ".onnx"


def runtime() -> Any:
    """The package `onnxruntime`, without its reports to its makers.

    Raises:
        UsageError: It is not installed.
    """
    needs("onnxruntime", "onnx", "An ONNX model")
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else it reports when it is loaded
    import onnxruntime

    return onnxruntime


def session(model: bytes, threads: int, sizes: Mapping[str, int] | None = None) -> Any:
    """A session of ONNX Runtime that computes with `threads` threads, which sleep between calls.

    Args:
        model: An ONNX graph.
        threads: How many.
        sizes: Values of sizes that the graph leaves open, by name.
    """
    onnxruntime = runtime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors
    for name, size in (sizes or {}).items():
        options.add_free_dimension_override_by_name(name, size)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class OnnxModel(EngineModel):
    """An ONNX graph as a module.

    Args:
        model: Its bytes.
        outputs: Which answers it gives; None: all.

    Raises:
        UsageError: It is no ONNX graph, or has inputs or answers that are no tensors.
    """

    kind = _KIND
    runs_in = "ONNX Runtime"

    def __init__(self, model: bytes, outputs: Any = None) -> None:
        super().__init__()
        self._model = Hidden(model)
        self._session = Hidden()  # (threads, session)
        made = self._made(1)
        check_inputs({given.name: given.type for given in made.get_inputs()}, _NAMES, _KIND)
        self.inputs = {given.name: _NAMES[given.type] for given in made.get_inputs()}
        self.sizes = {
            given.name: tuple(size if isinstance(size, int) else None for size in given.shape)
            for given in made.get_inputs()
        }
        self.all_outputs = tuple(answer.name for answer in made.get_outputs())
        unusable = {answer.name: answer.type for answer in made.get_outputs() if answer.type not in _NAMES}
        self.outputs = chosen(self.all_outputs, outputs, unusable, self.kind)

    @property
    def model(self) -> bytes:
        """The graph's bytes."""
        data: bytes = self._model.value
        return data

    def _made(self, threads: int) -> Any:
        try:
            made = session(self.model, threads)
        except UsageError:
            raise
        except Exception as problem:
            raise UsageError(f"ONNX Runtime can load the {_KIND}", given=first_line(problem)) from problem
        self._session.value = (threads, made)
        return made

    def _answers(self, given: Mapping[str, Any]) -> list[torch.Tensor]:
        threads = torch.get_num_threads()
        known, made = self._session.value
        if known != threads:
            made = self._made(threads)
        answers = made.run(list(self.outputs), {name: array_of(value) for name, value in given.items()})
        return [torch.as_tensor(known_to_torch(answer)) for answer in answers]


def adapt(source: Any, options: Mapping[str, Any]) -> Adapted | None:
    """A member made of a file, bytes or a `ModelProto`; None for anything else."""
    watch: SourceWatch | None = None
    if isinstance(source, Path) and source.suffix.lower() == _ONNX_SUFFIX:
        data, files = _whole(source)
        watch = watched_files(source, files)
    elif isinstance(source, bytes) and _is_graph(source):
        data = source
        _check_whole(data)
    elif type(source).__name__ == "ModelProto" and type(source).__module__.partition(".")[0] == "onnx":
        data = source.SerializeToString()
        _check_whole(data)
    elif type(source).__name__ == "InferenceSession" and type(source).__module__.partition(".")[0] == "onnxruntime":
        raise UsageError(
            "ONNX Runtime makes a session in each lane, for the lane's threads",
            given="an InferenceSession, which stays in this process",
            hint="Register what it was made from: the .onnx file, or its bytes.",
        )
    else:
        return None
    check_options(options, ("outputs",), f"An {_KIND}")
    module = OnnxModel(data, options.get("outputs"))
    kept = {} if module.outputs == module.all_outputs else {"outputs": list(module.outputs)}
    structure, numbers = _structure(data)
    return Adapted(
        module=module,
        recipes=[partial(FileRecipe, form="onnx", files={"onnx": data}, options=kept)],
        class_name=_KIND,
        kind=_KIND,
        structure=f"{structure} {module.outputs} onnxruntime {package_version('onnxruntime')}",
        values=bytes_digest(data),
        parameters=numbers,
        memory_bytes=len(data),
        watch=watch,
    )


def load(files: Mapping[str, bytes], options: Mapping[str, Any]) -> OnnxModel:
    """The module of a graph that was kept."""
    return OnnxModel(files["onnx"], options.get("outputs"))


def _whole(path: Path) -> tuple[bytes, Sequence[Path]]:
    """A file's graph in one piece, and the files it is in: weights may lie in others beside it."""
    data = read_bytes(path)
    if not can_import("onnx"):
        return data, [path]
    import onnx

    try:
        graph = onnx.load_model_from_string(data)
    except Exception as problem:
        raise UsageError(f"An {_KIND}'s file can be read", given=f"{str(path)!r}: {first_line(problem)}") from problem
    beside = _files_beside(graph)
    if not beside:
        return data, [path]
    files = [path, *(path.parent / name for name in sorted(beside))]
    try:
        for file in files[1:]:
            check_no_stand_in(file)
        onnx.load_external_data_for_model(graph, str(path.parent))
        if graph.ByteSize() > MOST_BYTES:
            raise UsageError("An ONNX graph in one piece has at most 2 GB", given="more, with its weights")
        return graph.SerializeToString(), files
    except UsageError:
        raise
    except Exception as problem:
        raise UsageError(
            f"The weights of an {_KIND} lie beside it", given=f"{', '.join(sorted(beside))}: {first_line(problem)}"
        ) from problem


def _files_beside(graph: Any) -> set[str]:
    """The names of the files that a graph's weights lie in, beside its own."""
    from onnx.external_data_helper import _get_all_tensors, uses_external_data

    return {
        entry.value
        for tensor in _get_all_tensors(graph)
        if uses_external_data(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }


def _check_whole(data: bytes) -> None:
    """Refuse a graph without a file whose weights lie beside one: they would be looked for wherever a lane is.

    Raises:
        UsageError: It is one; the message names the files.
    """
    if not can_import("onnx"):
        return
    import onnx

    try:
        beside = _files_beside(onnx.load_model_from_string(data))
    except Exception:  # a newer format than this package knows: ONNX Runtime may take it
        return
    if beside:
        raise UsageError(
            f"An {_KIND} that is registered without its file holds its weights",
            given=f"weights in {', '.join(sorted(beside))}",
            hint="Register its file, or load it with its weights (onnx.load with load_external_data=True).",
        )


def _is_graph(data: bytes) -> bool:
    """Whether bytes may be a graph: a protocol buffer whose first field is the version."""
    return data[:1] == b"\x08" and not data.startswith(b"PK")


def _structure(data: bytes) -> tuple[str, int]:
    """The operators of a graph and what its tensors look like, and how many numbers these hold."""
    if not can_import("onnx"):
        return bytes_digest(data), 0
    import onnx

    try:
        graph = onnx.load_model_from_string(data).graph
    except Exception:  # a newer format than this package knows: ONNX Runtime has taken it
        return bytes_digest(data), 0
    held = [(tensor.name, tensor.data_type, list(tensor.dims)) for tensor in graph.initializer]
    numbers = sum(math.prod(tensor.dims) for tensor in graph.initializer)
    del graph.initializer[:]
    rest = bytes_digest(graph.SerializeToString(deterministic=True))
    return f"{rest} {held}", numbers
