"""The one writer of `config.pbtxt`: what Triton is told of a model, as protocol buffer text.

The fields and their meaning: https://docs.nvidia.com/deeplearning/triton-inference-server/, "Model Configuration".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from esen_lab.export.script import MARK
from esen_lab.export.triton.ports import Port


@dataclass(frozen=True, slots=True)
class Word:
    """A name of an enumeration, which stands without quotes."""

    text: str


Value = str | int | Word | Sequence["Value"] | Mapping[str, "Value"]
"""Text, a number, a name, a message (a mapping), or several of one field."""


def python_model(name: str, inputs: Sequence[Port], outputs: Sequence[Port], *, host_policy: str = "") -> bytes:
    """The configuration of a model of the Python backend, in one process on the CPU.

    Args:
        name: Of the model; its folder has the same.
        inputs: What it takes, batches included.
        outputs: What it answers.
        host_policy: Whose cores the process gets; "": whatever is free.
    """
    group: dict[str, Value] = {"count": 1, "kind": Word("KIND_CPU")}
    if host_policy:
        group["host_policy"] = host_policy
    return _text({"name": name, "backend": "python", **_io(inputs, outputs), "instance_group": group})


def ensemble_model(
    name: str,
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    steps: Sequence[tuple[str, Sequence[str], Sequence[str]]],
) -> bytes:
    """The configuration of a model that has others answer, each as soon as its inputs are there.

    Args:
        name: Of the model.
        inputs: What it takes.
        outputs: What it answers.
        steps: For each of the others its name, its inputs and its outputs: a tensor has one name in all of them.
    """
    scheduled: list[Value] = [
        {
            "model_name": model,
            "model_version": -1,
            "input_map": [{"key": key, "value": key} for key in taken],
            "output_map": [{"key": key, "value": key} for key in given],
        }
        for model, taken, given in steps
    ]
    return _text(
        {"name": name, "platform": "ensemble", **_io(inputs, outputs), "ensemble_scheduling": {"step": scheduled}}
    )


def _io(inputs: Sequence[Port], outputs: Sequence[Port]) -> dict[str, Value]:
    return {
        "max_batch_size": 0,
        "input": [_tensor(port) for port in inputs],
        "output": [_tensor(port) for port in outputs],
    }


def _tensor(port: Port) -> Value:
    return {"name": port.name, "data_type": Word(port.data_type), "dims": list(port.dims)}


def _text(message: Mapping[str, Value]) -> bytes:
    return (f"{MARK}\n" + "".join(f"{line}\n" for line in _lines(message))).encode("ascii")


def _lines(message: Mapping[str, Value], indent: str = "") -> list[str]:
    lines: list[str] = []
    for key, value in message.items():
        several = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        for one in several:
            if isinstance(one, Mapping):
                lines += [f"{indent}{key} {{", *_lines(one, f"{indent}  "), f"{indent}}}"]
            else:
                lines.append(f"{indent}{key}: {_scalar(one)}")
    return lines


def _scalar(value: Value) -> str:
    if isinstance(value, Word):
        return value.text
    return _quoted(value) if isinstance(value, str) else str(value)


def _quoted(text: str) -> str:
    """A string of the format: bytes beyond plain ASCII, quotes and backslashes as octal escapes."""
    plain = (chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03o}" for byte in text.encode())
    return f'"{"".join(plain)}"'
