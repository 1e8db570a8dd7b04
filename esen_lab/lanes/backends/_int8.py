"""An ONNX graph in int8: quantised by ONNX Runtime's own tool from data like what will come.

Products then take whole numbers of 8 bits; weights have a scale for each channel, values between layers one for each
tensor, from the smallest and the largest of what the calibration data makes of them. The graph says so in pairs of
QuantizeLinear and DequantizeLinear (QDQ), which OpenVINO reads as well.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from esen_lab.devices.cpu.precision import slower_in
from esen_lab.files.leftovers import sweep, temporary_folder
from esen_lab.lanes.backends._protocol import Refused


def quantised(graph: bytes, inputs: Sequence[Sequence[torch.Tensor]], folder: Path | None) -> bytes:
    """The graph with its products in int8.

    Args:
        graph: An ONNX graph in float32.
        inputs: What it is calibrated with, each the tensors of one call.
        folder: Where the tool may write files while it works; None for the system's temporary folder.

    Raises:
        Refused: Nothing in it can be quantised.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else it reports to its makers when it is loaded
    import onnx
    from onnxruntime import quantization

    model = onnx.load_from_string(graph)
    names = [given.name for given in model.graph.input]
    feeds = iter([{name: leaf.numpy() for name, leaf in zip(names, leaves, strict=True)} for leaves in inputs])

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> Any:
            return next(feeds, None)

    with _working_folder(folder) as made, _silent():
        quantization.quantize_static(
            model,
            str(made / "int8.onnx"),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            # Without VNNI, two products of 8 bits are added in 16, which may overflow: weights of 7 bits do not.
            reduce_range=bool(slower_in("int8")),
        )
        data = (made / "int8.onnx").read_bytes()
    if not any(node.op_type == "QuantizeLinear" for node in onnx.load_from_string(data).graph.node):
        raise Refused("nothing in it can be quantised")
    return data


@contextlib.contextmanager
def _working_folder(folder: Path | None) -> Iterator[Path]:
    """A folder for the tool's own temporary files too; what a killed process leaves there, the next one sweeps up."""
    beside = (folder or Path(tempfile.gettempdir())) / "int8"
    sweep(beside.parent)
    with temporary_folder(beside) as made:
        before = tempfile.tempdir
        tempfile.tempdir = str(made)
        try:
            yield made
        finally:
            tempfile.tempdir = before


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without the tool's advice to run another tool first, which changed nothing where it was tried."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
