"""Inputs and outputs in NumPy's files: one tensor as .npy, a tree as .npz.

    names in .npz      "0", "1", ... for a tuple or list; the keys of a dict; deeper ones joined by "/"

NumPy has no bfloat16 and the like: such tensors are written as float32 (complex32 as complex64), which holds each of
their values exactly, and an array of float32 is read as such a tensor where it holds nothing else. No number is ever
rounded: what is read is of the example's dtype, or of whole numbers that fit into it.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esen_lab.common.inputs import as_input
from esen_lab.common.trees import Tree, flatten, unflatten
from esen_lab.common.words import unknown
from esen_lab.ensemble.fingerprint import same_bits
from esen_lab.errors import StoreError, UsageError, first_line
from esen_lab.files import Kind, write_file

if TYPE_CHECKING:
    import numpy
    import torch

ARRAYS_FILE = Kind(
    what="an array",
    is_one=lambda head: head.startswith((b"\x93NUMPY", b"PK\x03\x04", b"PK\x05\x06")),
    example="y.npy",
)

_ARRAYS = "Inputs are read from .npy and .npz files"
_SAVE = "Write one: numpy.save('x.npy', x)."


def save_tree(path: Path, tree: Tree) -> None:
    """Write a tree, whole or not at all, in the place of other arrays or of nothing.

    Raises:
        UsageError: Several tensors for a name that does not end with .npz, or the name is taken by something else.
        StoreError: The file cannot be written.
    """
    check_suffix(path, tree)
    data = None if path.suffix == ".npz" else npy_bytes(tree)
    write_file(path, npz_bytes(tree) if data is None else data, ARRAYS_FILE)


def check_suffix(path: Path, tree: Tree) -> None:
    """Whether a tree can be written under such a name.

    Raises:
        UsageError: There are several tensors, for a name that does not end with .npz.
    """
    import torch

    if path.suffix != ".npz" and not isinstance(tree, torch.Tensor):
        raise UsageError(
            "Several tensors are written as .npz",
            given=f"{str(path)!r} for {', '.join(names_of(tree))}",
            hint="Give a name that ends with .npz.",
        )


def load_tree(path: Path, example: Tree) -> Tree:
    """Read an input of the structure and dtypes that `example` has; shapes may differ.

    Raises:
        StoreError: The file cannot be read.
        UsageError: It lacks an array that the example has or has others, or one is not of the example's dtype; the
            message names it. Whole numbers may be of any whole dtype that holds them.
    """
    import numpy

    leaves, structure = flatten(example, "the example")
    names = names_of(example)
    try:
        if not path.is_file():  # a pipe that nobody writes to would never open
            raise StoreError(_ARRAYS, given=f"{str(path)!r}, which is no file or not there")
        with open(path, "rb") as file:
            read: Any = numpy.load(file, allow_pickle=False)
            arrays = {"": read} if isinstance(read, numpy.ndarray) else {name: read[name] for name in read.files}
    except StoreError:
        raise
    except Exception as problem:  # NumPy and zipfile raise many kinds for a file that is none of theirs
        told = first_line(problem) if "pickle" not in str(problem) else "it is none, or holds Python objects"
        raise StoreError(_ARRAYS, given=f"{str(path)!r}: {told}", hint=_SAVE) from problem
    if len(leaves) == 1 and len(arrays) == 1:
        arrays = dict(zip(names, arrays.values(), strict=True))
    missing = [name for name in names if name not in arrays]
    if missing:
        raise UsageError(
            f"The input has the arrays that the example has: {', '.join(name or 'one array' for name in names)}",
            given=f"{str(path)!r} with {', '.join(name or 'one array' for name in arrays)}",
        )
    strange = [name for name in arrays if name not in names]
    if strange:
        raise unknown(
            f"The input has the arrays that the example has, and no others: {', '.join(names)}",
            strange[0],
            names,
            given=f"{str(path)!r} with {', '.join(strange)}",
            hint="Leave them out.",
        )
    tensors = [_to_tensor(arrays[name], leaf, name or "the input") for name, leaf in zip(names, leaves, strict=True)]
    return unflatten(structure, tensors)


def npy_bytes(tree: Tree) -> bytes | None:
    """A lone tensor as the content of an .npy file; None for anything else."""
    import numpy
    import torch

    if not isinstance(tree, torch.Tensor):
        return None
    buffer = io.BytesIO()
    numpy.save(buffer, _to_numpy(tree))
    return buffer.getvalue()


def npz_bytes(tree: Tree) -> bytes:
    """A tree as the content of an .npz file."""
    import numpy

    buffer = io.BytesIO()
    # Not numpy.savez: it cannot take names such as "file".
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, tensor in zip(names_of(tree), flatten(tree, "the output")[0], strict=True):
            with archive.open(f"{name or '0'}.npy", "w", force_zip64=True) as entry:
                numpy.lib.format.write_array(entry, _to_numpy(tensor), allow_pickle=False)
    return buffer.getvalue()


def names_of(tree: Tree) -> list[str]:
    """A name for each tensor, in the order of flattening, unlike all others; "" for a lone tensor."""
    found: list[str] = []
    for name in leaf_names(tree):
        while name in found:  # {"a/b": x, "a": {"b": y}}
            name += "'"  # noqa: PLW2901
        found.append(name)
    return found


def leaf_names(tree: Tree, prefix: str = "") -> Iterator[str]:
    """A name for each tensor, in the order of flattening; "" for a lone tensor."""
    import torch

    if isinstance(tree, torch.Tensor):
        yield prefix
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from leaf_names(value, f"{prefix}/{key}" if prefix else str(key))
    elif isinstance(tree, (tuple, list)):
        for i, value in enumerate(tree):
            yield from leaf_names(value, f"{prefix}/{i}" if prefix else str(i))


def _to_numpy(tensor: torch.Tensor) -> numpy.ndarray[Any, Any]:
    value = tensor.detach().cpu().resolve_conj().resolve_neg()
    try:
        return value.numpy()
    except TypeError:  # a dtype that NumPy lacks
        return _in_numpys_dtype(value).numpy()


def _in_numpys_dtype(tensor: torch.Tensor) -> torch.Tensor:
    import torch

    return tensor.to(torch.complex64 if tensor.is_complex() else torch.float32)


def _to_tensor(array: numpy.ndarray[Any, Any], like: torch.Tensor, name: str) -> torch.Tensor:
    tensor: torch.Tensor = as_input(array, name)
    if tensor.dtype == like.dtype:
        return tensor
    dtype = str(like.dtype).removeprefix("torch.")
    written = str(_to_numpy(like).dtype)
    if str(array.dtype) == written or (_is_whole(tensor) and _is_whole(like)):
        converted: torch.Tensor = tensor.to(like.dtype)
        if same_bits([converted.to(tensor.dtype)], [tensor]):
            return converted
        given = f"{name} with numbers that {dtype} does not have"
        hint = f"Round them first: torch.from_numpy(x).to(torch.{dtype})." if dtype != written else ""
    else:
        given = f"{name}: {array.dtype}"
        hint = f"Convert it with astype({written!r})."
    raise UsageError(f"The input is of the example's kind of numbers, {dtype}", given=given, hint=hint)


def _is_whole(tensor: torch.Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex())
