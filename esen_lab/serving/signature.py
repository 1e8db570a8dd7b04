"""What a served model looks like from outside: names, datatypes and shapes of its inputs and outputs.

    a lone tensor            "input", "output"
    a tuple or list          "input_0", "input_1", ...
    a dict                   its keys
    deeper                   joined by "/", such as "boxes/0"

A size of -1 may be any: that of the batch; with `any_size`, all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from esen_lab.common.trees import Structure, Tree, flatten
from esen_lab.errors import EsenError, UsageError
from esen_lab.export.arrays import leaf_names

if TYPE_CHECKING:
    import torch

VERSION = "1"
PLATFORM = "esen_lab"
DATATYPES: Mapping[str, str] = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
    "BF16": "bfloat16",
}
"""The protocol's datatypes -> the names within torch."""
_OF_TORCH = {name: datatype for datatype, name in DATATYPES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """One input or output.

    Attributes:
        name: Within its model.
        datatype: One of `DATATYPES`.
        shape: Sizes; -1 where any is taken.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        """The same within torch."""
        import torch

        found: torch.dtype = getattr(torch, DATATYPES[self.datatype])
        return found

    def to_dict(self) -> dict[str, Any]:
        """As the protocol has it."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """A model as it is served.

    Attributes:
        name: In addresses.
        inputs: In the order of the example's tensors.
        outputs: In the order of the answer's tensors.
        structure: Of an input; puts tensors together as the members take them.
        joins: Whether rows of several requests may be run as one batch.
        why_alone: Where they may not: why, one sentence.
        batched: Whether every input has its rows along dimension 0.
        members: The names of the sub-models.
    """

    name: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    structure: Structure
    joins: bool
    why_alone: str
    batched: bool
    members: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The protocol's metadata of a model. `parameters` says what a client may want to know besides."""
        return {
            "name": self.name,
            "versions": [VERSION],
            "platform": PLATFORM,
            "inputs": [tensor.to_dict() for tensor in self.inputs],
            "outputs": [tensor.to_dict() for tensor in self.outputs],
            "parameters": {
                "members": list(self.members),
                "joins_requests": self.joins,
                **({"why_alone": self.why_alone} if self.why_alone else {}),
            },
        }

    def alone(self, why: str) -> ModelInfo:
        """The same, of which requests must not be joined any more."""
        return replace(self, joins=False, why_alone=why)

    def takes_those_of(self, other: ModelInfo) -> bool:
        """Whether a request that was checked against another one can be run by this one, and its answer told."""
        if other is self:
            return True
        mine, those = ((model.inputs, model.structure, model.batched) for model in (self, other))
        return mine == those and [one.name for one in self.outputs] == [one.name for one in other.outputs]

    def config(self, max_rows: int) -> dict[str, Any]:
        """The least that clients read of Triton's model configuration.

        Args:
            max_rows: The largest batch that requests are joined to.
        """

        def tensors(infos: tuple[TensorInfo, ...]) -> list[dict[str, Any]]:
            return [
                {"name": info.name, "data_type": f"TYPE_{info.datatype}", "dims": list(info.shape)} for info in infos
            ]

        # 0: shapes are said with the batch in them, as they are here.
        return {
            "name": self.name,
            "platform": PLATFORM,
            "backend": PLATFORM,
            "max_batch_size": 0,
            "input": tensors(self.inputs),
            "output": tensors(self.outputs),
            "parameters": {"max_joined_rows": {"string_value": str(max_rows if self.joins else 0)}},
        }


def datatype_of(tensor: torch.Tensor) -> str | None:
    """The protocol's name for the numbers of a tensor; None where it has none."""
    return _named(tensor.dtype)


@lru_cache(maxsize=64)
def _named(dtype: torch.dtype) -> str | None:
    return _OF_TORCH.get(str(dtype).removeprefix("torch."))


def check_answer(leaves: Sequence[torch.Tensor], model: ModelInfo) -> None:
    """Nothing, where the tensors of an answer can be told as the outputs of a model.

    Raises:
        EsenError: There are more or fewer, or the protocol has no name for the numbers of one.
    """
    if len(leaves) != len(model.outputs):
        raise EsenError("An answer has the tensors that the model's metadata names", given=f"{len(leaves)} tensors")
    for leaf, info in zip(leaves, model.outputs, strict=True):
        if datatype_of(leaf) is None:
            raise EsenError("The protocol has a name for the numbers of an answer", given=f"{info.name}: {leaf.dtype}")


def describe(
    name: str,
    example: Tree,
    answer: Tree,
    *,
    members: tuple[str, ...],
    why_alone: str = "",
    any_size: bool = False,
) -> ModelInfo:
    """What a model looks like, from one input and its answer.

    Args:
        name: In addresses.
        example: An input.
        answer: What the ensemble answered to it.
        members: The names of the sub-models.
        why_alone: Why requests must not be joined; "" where they may.
        any_size: Whether an input may be of any sizes, as far as the members take it.

    Raises:
        UsageError: An input or output is of a dtype that the protocol has no name for, or two have one name.
    """
    taken, structure = flatten(example, "the example")
    given, _ = flatten(answer, "the answer")
    rows = {leaf.shape[0] if leaf.dim() else -1 for leaf in taken}
    batched = len(rows) == 1 and rows != {-1}
    inputs = [
        _info(path, leaf, any_size=any_size, batched=batched)
        for path, leaf in zip(_names(example, "input"), taken, strict=True)
    ]
    # What an answer's sizes are follows from the input: only those that the batch gives are known to vary.
    follows = batched and all(leaf.dim() and {leaf.shape[0]} == rows for leaf in given)
    outputs = [
        _info(path, leaf, any_size=any_size, batched=follows)
        for path, leaf in zip(_names(answer, "output"), given, strict=True)
    ]
    for what, infos in (("inputs", inputs), ("outputs", outputs)):
        twice = {info.name for info in infos if sum(other.name == info.name for other in infos) > 1}
        if twice:
            raise UsageError(f"The {what} of a served model have names of their own", given=", ".join(sorted(twice)))
    return ModelInfo(
        name=name,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        structure=structure,
        joins=not why_alone,
        why_alone=why_alone,
        batched=batched,
        members=members,
    )


def _info(name: str, leaf: torch.Tensor, *, any_size: bool, batched: bool) -> TensorInfo:
    datatype = datatype_of(leaf)
    if datatype is None:
        raise UsageError(
            f"The protocol has names for the dtypes {', '.join(_OF_TORCH)}",
            given=f"{name} is {str(leaf.dtype).removeprefix('torch.')}",
            hint="Serve members that take and give one of these; a combine function can convert the answer.",
        )
    sizes = [-1 if any_size or (batched and index == 0) else size for index, size in enumerate(leaf.shape)]
    return TensorInfo(name=name, datatype=datatype, shape=tuple(sizes))


def _names(tree: Tree, lone: str) -> list[str]:
    """A name for each tensor, in the order of flattening: by its keys, else by `lone` and its place."""
    named = isinstance(tree, Mapping)
    return [name if named else f"{lone}_{name}" if name else lone for name in leaf_names(tree)]
