"""Inputs and outputs in NumPy's files: one tensor as .npy, a tree as .npz.

    names in .npz      "0", "1", ... for a tuple or list; the keys of a dict; deeper ones joined by "/"

NumPy has no bfloat16 and the like: such tensors are written as float32, which holds each of their values exactly.
"""

from __future__ import annotations

import io
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esen_lab.errors import StoreError, UsageError
from esen_lab.trees import Tree, flatten, unflatten

if TYPE_CHECKING:
    import numpy
    import torch


def save_tree(path: Path, tree: Tree) -> None:
    """Write a tree, whole or not at all.

    Raises:
        UsageError: Several tensors for a name that does not end with .npz.
        StoreError: The file cannot be written.
    """
    data = npz_bytes(tree) if path.suffix == ".npz" else npy_bytes(tree)
    if data is None:
        raise UsageError(
            "Several tensors are written as .npz",
            given=f"{str(path)!r} for {', '.join(_names(tree))}",
            hint="Give a name that ends with .npz.",
        )
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as problem:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)
        raise StoreError(f"{str(path)!r} can be written", given=problem.strerror or str(problem)) from problem


def load_tree(path: Path, example: Tree) -> Tree:
    """Read an input of the structure that `example` has, in its dtypes.

    Floating-point numbers become the example's floating-point dtype; shapes may differ.

    Raises:
        StoreError: The file cannot be read.
        UsageError: It lacks an array that the example has, or one is of another kind of number.
    """
    import numpy

    leaves, structure = flatten(example, "the example")
    names = list(_names(example))
    try:
        with open(path, "rb") as file:
            read: Any = numpy.load(file, allow_pickle=False)
            arrays = {"": read} if isinstance(read, numpy.ndarray) else {name: read[name] for name in read.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as problem:
        raise StoreError(f"{str(path)!r} is an .npy or .npz file", given=str(problem)) from problem
    if len(leaves) == 1 and len(arrays) == 1:
        arrays = dict(zip(names, arrays.values(), strict=True))
    missing = [name for name in names if name not in arrays]
    if missing:
        raise UsageError(
            f"The input has the arrays that the example has: {', '.join(name or 'one array' for name in names)}",
            given=f"{str(path)!r} with {', '.join(name or 'one array' for name in arrays)}",
        )
    tensors = [_to_tensor(arrays[name], leaf, name) for name, leaf in zip(names, leaves, strict=True)]
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
        for name, tensor in zip(_names(tree), flatten(tree, "the output")[0], strict=True):
            with archive.open(f"{name or '0'}.npy", "w", force_zip64=True) as entry:
                numpy.lib.format.write_array(entry, _to_numpy(tensor), allow_pickle=False)
    return buffer.getvalue()


def _names(tree: Tree, prefix: str = "") -> Iterator[str]:
    """A name for each tensor, in the order of flattening; "" for a lone tensor."""
    import torch

    if isinstance(tree, torch.Tensor):
        yield prefix
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _names(value, f"{prefix}/{key}" if prefix else str(key))
    elif isinstance(tree, (tuple, list)):
        for i, value in enumerate(tree):
            yield from _names(value, f"{prefix}/{i}" if prefix else str(i))


def _to_numpy(tensor: torch.Tensor) -> numpy.ndarray[Any, Any]:
    value = tensor.detach().cpu()
    try:
        return value.numpy()
    except TypeError:  # a dtype that NumPy lacks
        return value.float().numpy()


def _to_tensor(array: numpy.ndarray[Any, Any], like: torch.Tensor, name: str) -> torch.Tensor:
    import numpy
    import torch

    try:
        tensor = torch.from_numpy(numpy.array(array))
    except TypeError as problem:
        raise UsageError("An input holds numbers that torch knows", given=f"{name or 'it'}: {array.dtype}") from problem
    if tensor.dtype == like.dtype:
        return tensor
    if tensor.is_floating_point() and like.is_floating_point():
        return tensor.to(like.dtype)
    if not (tensor.is_floating_point() or tensor.is_complex() or like.is_floating_point() or like.is_complex()):
        converted = tensor.to(like.dtype)
        if bool((converted.to(tensor.dtype) == tensor).all()):
            return converted
    raise UsageError(
        f"The input is of the example's kind of numbers, {str(like.dtype).removeprefix('torch.')}",
        given=f"{name or 'it'}: {array.dtype}",
        hint="Convert it with astype.",
    )
