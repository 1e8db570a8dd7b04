"""The way of a sub-model to an ONNX graph: exported by torch, and quantised where int8 is asked for."""

from __future__ import annotations

import re

import torch

from esen_lab.common.packages import can_import
from esen_lab.lanes.backends._conversion import Trace, Traces, quiet
from esen_lab.lanes.backends._protocol import BackendSettings, Example, Refused

NEEDS = ("onnxruntime", "onnx", "onnxscript")
"""The packages that export, quantise and execute."""
_NO_FUNCTION = re.compile(r"No ONNX function found for <OpOverload\(op='([^']+)', overload='([^']+)'")
_MOST_BYTES = 2**31 - 1  # of a protocol buffer


def missing_for_onnx() -> str:
    """Which packages are missing, as a sentence without its end; "" where all are there."""
    missing = [name for name in NEEDS if not can_import(name)]
    if not missing:
        return ""
    are = "are" if len(missing) > 1 else "is"
    return f"{', '.join(missing)} {are} not installed (pip install 'esen_lab[onnx]')"


class OnnxGraphs:
    """The ONNX graphs of a sub-model: one serves every look that its trace serves.

    The first size of input `index`, where it was left open, is called `size_name(index)`.
    """

    def __init__(self, traces: Traces, settings: BackendSettings) -> None:
        self._traces = traces
        self._settings = settings
        self._made: list[tuple[Trace, bytes]] = []

    def of(self, example: Example) -> bytes:
        """A graph for an example's look, of what an earlier process has made where there is that.

        Raises:
            Refused: It cannot be exported, or not be quantised.
        """
        for trace, graph in self._made:
            if trace.serves(example):
                return graph
        kept = self._kept(example)
        if kept is not None:
            return kept
        cache = self._settings.cache
        trace = self._traces.of(example)
        graph = exported(trace)
        if self._settings.precision == "int8":
            graph = self._quantised(graph, example)
            if cache is not None:
                cache.keep(self._keys(example)[0 if all(trace.free) else 1], graph)
        elif cache is not None:
            cache.keep_graph(example.form, graph)
        self._made.append((trace, graph))
        return graph

    def _kept(self, example: Example) -> bytes | None:
        cache = self._settings.cache
        if cache is None:
            return None
        if self._settings.precision != "int8":
            return cache.take_graph(example.form)
        return next((kept for key in self._keys(example) if (kept := cache.take(key)) is not None), None)

    def _keys(self, example: Example) -> list[str]:
        # To quantise takes long: one graph for every batch, and for every number of threads.
        tensors = [(str(leaf.dtype), tuple(leaf.shape)) for leaf in (*example.leaves, *example.answer)]
        open_sizes = [(dtype, shape[1:]) for dtype, shape in tensors]
        known = (example.structure, example.answer_structure)
        return [f"int8, any batch: {(*known, open_sizes)!r}", f"int8: {(*known, tensors)!r}"]

    def _quantised(self, graph: bytes, example: Example) -> bytes:
        if self._settings.calibration is None:
            raise Refused("int8 takes calibration data, which is given where the precision is chosen (on)")
        from esen_lab.lanes.backends._int8 import quantised

        cache = self._settings.cache
        folder = None if cache is None else cache.working_folder
        return quantised(graph, self._settings.calibration.like(example), folder)


def exported(trace: Trace) -> bytes:
    """The ONNX graph of a trace.

    Raises:
        Refused: ONNX lacks an operator, or the graph is too large.
    """
    try:
        with quiet():
            program = torch.onnx.export(trace.program, (), dynamo=True, verbose=False)
    except Exception as problem:
        operators = _NO_FUNCTION.search(_all_said(problem))
        if operators is None:
            raise
        raise Refused(f"ONNX has no function for {'.'.join(operators.groups())}") from problem
    assert program is not None
    model = program.model_proto
    if model.ByteSize() > _MOST_BYTES:
        raise Refused("an ONNX graph in one piece has at most 2 GB")
    for index, tensor in enumerate(model.graph.input):
        dimensions = tensor.type.tensor_type.shape.dim
        if dimensions and dimensions[0].dim_param:
            dimensions[0].dim_param = size_name(index)
    data: bytes = model.SerializeToString()
    return data


def size_name(index: int) -> str:
    """What the first size of an input is called, where it was left open."""
    return f"first_of_{index}"


def _all_said(problem: BaseException | None) -> str:
    """The texts of an exception and of those that it comes from."""
    said = []
    while problem is not None:
        said.append(str(problem))
        problem = problem.__cause__ or problem.__context__
    return "\n".join(said)
