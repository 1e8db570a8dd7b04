"""Trees of tensors as the named inputs and outputs of Triton's models, the same at export and in the server.

the ensemble's input      a tensor: INPUT; a dict: its keys; a tuple: INPUT_0, INPUT_1, ...
the answer of a step      STEP_<number of the step in the plan>_<number of the tensor>
the ensemble's answer     a tensor: OUTPUT; a dict: its keys; a tuple: OUTPUT_0, OUTPUT_1, ...
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from esen_lab.common.trees import Structure, TensorSpec, Tree, TreeSpec, paths, select, tree_spec, unflatten
from esen_lab.ensemble import Ensemble
from esen_lab.errors import UsageError
from esen_lab.planner.plan import Plan

_DATA_TYPES = {
    "bool": "TYPE_BOOL",
    "uint8": "TYPE_UINT8",
    "uint16": "TYPE_UINT16",
    "uint32": "TYPE_UINT32",
    "uint64": "TYPE_UINT64",
    "int8": "TYPE_INT8",
    "int16": "TYPE_INT16",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    "bfloat16": "TYPE_BF16",
}
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """One named tensor of a model.

    Attributes:
        name: Its name.
        data_type: As Triton writes it ("TYPE_FP32").
        dims: Sizes; -1 where any size goes. A tensor without dimensions travels as one of a single number.
        scalar: Whether it is such a one.
    """

    name: str
    data_type: str
    dims: tuple[int, ...]
    scalar: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """A tree as named tensors.

    Attributes:
        structure: The tree's structure.
        ports: One for each of its tensors, in the order of flattening.
    """

    structure: Structure
    ports: tuple[Port, ...]

    def tree(self, leaves: Sequence[Tree]) -> Tree:
        """Its tensors as the tree."""
        return unflatten(self.structure, leaves)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanPorts:
    """The inputs and outputs of every model of one plan.

    Attributes:
        input: Of the ensemble.
        lane_inputs: What each lane takes of it.
        steps: The answer of each step of the plan, in order.
        output: The ensemble's answer.
    """

    input: Ports
    lane_inputs: tuple[Ports, ...]
    steps: tuple[Ports, ...]
    output: Ports

    def of_lane(self, plan: Plan, number: int) -> tuple[Ports, ...]:
        """The answers of one lane's steps."""
        begin = sum(len(lane.members) for lane in plan.lanes[:number])
        return self.steps[begin : begin + len(plan.lanes[number].members)]


def written(inputs: Sequence[Ports], outputs: Sequence[Ports]) -> str:
    """What a model takes and gives, as the text that it carries along: JSON."""
    return json.dumps([[asdict(ports) for ports in side] for side in (inputs, outputs)])


def read(text: str) -> tuple[tuple[Ports, ...], tuple[Ports, ...]]:
    """The inverse of `written`, for what this version wrote into a model's own program."""
    taken, given = json.loads(text)
    return tuple(map(_of_plain, taken)), tuple(map(_of_plain, given))


def _of_plain(data: Mapping[str, Any]) -> Ports:
    ports = tuple(Port(**{**port, "dims": tuple(port["dims"])}) for port in data["ports"])
    return Ports(structure=_tuples(data["structure"]), ports=ports)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def plan_ports(plan: Plan, ensemble: Ensemble, steps: Ensemble, output: TreeSpec) -> PlanPorts:
    """The named inputs and outputs of every model of a plan.

    Args:
        plan: The plan.
        ensemble: Its sub-models.
        steps: What its lanes load, by the names of the plan's steps.
        output: What the ensemble's answer to its example looks like.

    Raises:
        UsageError: A tensor is of a type that Triton does not have, or an answer holds none.
    """
    example = ensemble.example
    spec = tree_spec(example)
    batch = _batch_of(spec)
    names = _names(spec, "INPUT")
    by_name = dict(zip(_paths(spec), names, strict=True))
    lane_inputs = []
    for lane in plan.lanes:
        part = _part(example, [steps.get(name).input_keys for name in lane.members])
        own = tree_spec(part)
        lane_inputs.append(_ports(own, [by_name[path] for path in _paths(own)], batch, an_input=True))
    # One model over all has each tensor once by its name, whoever gives or takes it.
    outputs = _names(output, "OUTPUT", names)
    step = "STEP"
    while any(name.startswith(f"{step}_") for name in (*names, *outputs)):
        step += "_"
    numbered = [
        _ports(answer, [f"{step}_{number}_{leaf}" for leaf in range(len(answer.tensors))], batch)
        for number, answer in enumerate(steps.get(name).output_spec for name in plan.steps)
    ]
    return PlanPorts(
        input=_ports(spec, names, batch, an_input=True),
        lane_inputs=tuple(lane_inputs),
        steps=tuple(numbered),
        output=_ports(output, outputs, batch),
    )


def _part(example: Tree, keys: Sequence[tuple[str, ...] | None]) -> Tree:
    """What a lane takes: the keys of its sub-models, in the order of the example."""
    if not isinstance(example, Mapping) or any(own is None for own in keys):
        return example
    wanted = {key for own in keys for key in own or ()}
    return select(example, [key for key in example if key in wanted])


def _ports(spec: TreeSpec, names: Sequence[str], batch: int | None, *, an_input: bool = False) -> Ports:
    if not spec.tensors:
        raise UsageError("Inputs and answers hold at least one tensor", given=str(spec))
    ports = [_port(name, tensor, batch, an_input=an_input) for name, tensor in zip(names, spec.tensors, strict=True)]
    return Ports(structure=spec.structure, ports=tuple(ports))


def _port(name: str, tensor: TensorSpec, batch: int | None, *, an_input: bool) -> Port:
    data_type = _DATA_TYPES.get(tensor.dtype)
    if data_type is None:
        raise UsageError(
            "Triton's models take and give tensors of the types that it has",
            given=f"{name}, which is {tensor}",
            hint="Convert it inside a sub-model, or in the combine rule: a complex number is two real ones.",
        )
    # The first dimension is the batch. An answer may have it elsewhere ("stack"), or not at all: Triton compares.
    dims = tuple(-1 if at == 0 or (not an_input and size == batch) else size for at, size in enumerate(tensor.shape))
    return Port(name=name, data_type=data_type, dims=dims or (1,), scalar=not dims)


def _batch_of(spec: TreeSpec) -> int | None:
    sizes = {tensor.shape[0] for tensor in spec.tensors if tensor.shape}
    return sizes.pop() if len(sizes) == 1 else None


def _paths(spec: TreeSpec) -> list[str]:
    return list(paths(spec.structure, ""))


def _names(spec: TreeSpec, alone: str, taken: Sequence[str] = ()) -> list[str]:
    """A name for each tensor, unlike all others and those that are taken: by its keys where it has any."""
    found: list[str] = []
    for path in _paths(spec):
        words = _NOT_IN_NAMES.sub("_", path).strip("_")
        name = words if words and not words[0].isdigit() else f"{alone}_{words}" if words else alone
        same, number = name, 1
        while same in found or same in taken:
            number += 1
            same = f"{name}_{number}"
        found.append(same)
    return found
