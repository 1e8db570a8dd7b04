"""What a bundle's manifest may hold. Checked as a whole before anything in it is used."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from esen_lab.errors import StoreError
from esen_lab.files import MOST_SUBMODELS, Name, Text, converted
from esen_lab.files.schemas import Count

MANIFEST_DEPTH = 100
TREE_DEPTH = 600
"""Of a saved module: about six levels for each module within a module."""
MOST_JSON_BYTES = 64_000_000
_MOST_ELEMENTS = 2**40
_FileName = Annotated[str, Meta(min_length=1, max_length=100)]
_Digest = Annotated[str, Meta(max_length=128)]
_Files = Annotated[dict[_FileName, _Digest], Meta(max_length=8 * MOST_SUBMODELS)]
_Tensors = Annotated[dict[_FileName, dict[Text, _Digest]], Meta(max_length=8 * MOST_SUBMODELS)]
_Shape = Annotated[list[Annotated[int, Meta(ge=0, le=_MOST_ELEMENTS)]], Meta(max_length=64)]


class _Example(msgspec.Struct):
    file: _FileName
    structure: list[Any]


class _Output(msgspec.Struct):
    structure: list[Any]
    tensors: Annotated[list[tuple[Annotated[str, Meta(max_length=40)], _Shape, bool]], Meta(max_length=10_000)]


class _Recipe(msgspec.Struct):
    kind: Text
    path: Text = ""
    args: list[Any] = []
    kwargs: dict[Text, Any] = {}
    name: Text = ""
    modules: list[Text] = []
    weights: _FileName = "-"
    text: _FileName = "-"
    uses: _FileName = "-"
    tree: _FileName = "-"
    program: _FileName = "-"
    form: Text = ""
    content: dict[Text, _FileName] = {}
    options: dict[Text, Any] = {}


class _Called(msgspec.Struct):
    grad: Literal["inference", "off", "on"] = "inference"
    state: Annotated[list[Text], Meta(max_length=100)] = []
    random: bool = False
    steady: bool = True


class _SubModel(msgspec.Struct):
    name: Name
    recipe: _Recipe
    example: _Example
    output: _Output
    parameters: Count
    memory_bytes: Count
    class_name: Text
    fingerprint: Text
    notes: Annotated[list[Text], Meta(max_length=1000)]
    protect_input: bool
    calibration: _Example | None = None
    answer: _Example | None = None
    kind: Text = "network"
    called: _Called = msgspec.field(default_factory=_Called)


class _Closure(msgspec.Struct):
    modules: list[Text]


class _Combine(msgspec.Struct):
    rule: Text
    name: Text = ""
    path: Text = ""
    weights: Annotated[list[tuple[Text, Annotated[float, Meta(ge=0, le=1)]]], Meta(max_length=MOST_SUBMODELS)] = []
    closure: _Closure | None = None
    answer: _Example | None = None


class _Graph(msgspec.Struct):
    member: Name
    backend: Text
    file: _FileName
    name: _Digest
    digest: _Digest


class _Manifest(msgspec.Struct):
    submodels: Annotated[list[_SubModel], Meta(min_length=1, max_length=MOST_SUBMODELS)]
    combine: _Combine
    files: _Files
    tensors: _Tensors = {}
    graphs: Annotated[list[_Graph], Meta(max_length=MOST_SUBMODELS)] = []
    switches: Annotated[dict[Text, bool | Text | list[bool]], Meta(max_length=100)] = {}


def check_manifest(data: Any, what: str) -> None:
    """Whether `data` is a manifest through and through.

    Raises:
        StoreError: It is not; the message names the place.
    """
    manifest = converted(data, _Manifest, what)
    if manifest.combine.answer is not None:
        count_tensors(manifest.combine.answer.structure)
    for submodel in manifest.submodels:
        for tree in (submodel.example, submodel.calibration, submodel.answer):
            if tree is not None:
                count_tensors(tree.structure)
        found = count_tensors(submodel.output.structure)
        if found != len(submodel.output.tensors):
            raise StoreError(
                "An output has a shape for each of its tensors", given=f"{len(submodel.output.tensors)} for {found}"
            )
        for _, shape, _ in submodel.output.tensors:
            if math.prod(shape) > _MOST_ELEMENTS:
                raise StoreError("An output fits into memory", given=f"a tensor of shape {shape}")


def count_tensors(structure: Any) -> int:
    """How many tensors a saved structure has.

    Raises:
        StoreError: It is no structure.
    """
    match structure:
        case ["tensor"]:
            return 1
        case ["const", value] | ["const", value, str()] if _is_scalar(value):
            return 0
        case ["tuple" | "list", list(children)]:
            return sum(map(count_tensors, children))
        case ["named", list(children), str(), list(fields)] if len(fields) == len(children):
            if not all(isinstance(name, str) for name in fields):
                raise StoreError("The parts of a named tuple have names", given=repr(fields)[:200])
            return sum(map(count_tensors, children))
        case ["dict", list(keys), list(children)] if len(keys) == len(children) and all(map(_is_key, keys)):
            return sum(map(count_tensors, children))
    raise StoreError(
        "The structure of an example is made of tensors, constants, tuples, lists and dicts",
        given=repr(structure)[:200],
    )


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def _is_key(value: object) -> bool:
    return bool(value) and all(map(_is_key, value)) if isinstance(value, list) else _is_scalar(value)
