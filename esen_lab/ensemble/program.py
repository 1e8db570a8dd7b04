"""A `torch.export` program: the saved form of a module that has no skeleton.

Such a file is code, and is loaded only from a folder that is trusted (see `export/bundle.py`). torch says so of its own
format ("never load data from an untrusted source"), and its reader bears it out: expressions of shapes go to sympy's
`sympify`, which evaluates them as Python; operators are found by attribute under `torch` and `math`; a payload may be
marked as a pickle under any name; structures name classes that are imported; views of weights are not held to their
storage. No list of what may be there would stay complete: the format grows with torch.

What is checked is a smaller thing: that a program holds no pickles, so that an export is text, JSON and raw weights.
"""

from __future__ import annotations

import inspect
import io
import json
import zipfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from esen_lab.common.trees import Tree, flatten, map_tensors
from esen_lab.errors import StoreError, UsageError, first_line

if TYPE_CHECKING:
    from torch import nn

_PICKLED = ("custom_obj_", "opaque_obj_")
_REFUSALS = {
    "AssertionError: Guard failed: ": "An exported program takes the sizes that it was exported for: export it with "
    "dynamic_shapes for others.",
    "ValueError: Ran into a kwarg keyword mismatch": "An exported program takes by keyword what was given so when it "
    "was exported: export it with all arguments in kwargs for an example that is a dict.",
    "AttributeError: '_OpNamespace' ": "Lanes have the operators that files make which they import: make this one "
    "(torch.library) in a file on sys.path, and import that in the file of the network's class.",
}


def save_program(module: nn.Module, example: Tree) -> bytes:
    """`module` as the bytes of a .pt2 file; the first dimension stays free where `torch.export` can leave it so.

    Args:
        module: In eval mode.
        example: An input, as for `trees.call_with`.

    Raises:
        UsageError: `torch.export` cannot take it; the message has its reason.
    """
    import torch

    buffer = io.BytesIO()
    try:
        with torch.inference_mode(False), torch.no_grad():
            try:
                args, kwargs = _arguments(_own(example))
                free = _free_batch(module, args, kwargs)
                program = torch.export.export(module, args, kwargs, dynamic_shapes=free)
            except Exception:  # whatever its reason: then with the very shapes of the example
                program = torch.export.export(module, *_arguments(_own(example)))
        torch.export.save(program, buffer)
        check_program(buffer.getvalue())
    except Exception as problem:
        raise UsageError(
            "torch.export can take the module", given=f"{type(problem).__name__}: {first_line(problem)}"
        ) from problem
    return buffer.getvalue()


def load_program(data: bytes) -> nn.Module:
    """The module of a program; in eval mode, and it stays so. Runs what the file says: only for trusted files.

    Raises:
        StoreError: It is no program, or holds pickles.
    """
    import torch

    check_program(data)
    try:
        program = torch.export.load(io.BytesIO(data))
    except Exception as problem:  # cut off behind an archive that it holds, it still passes for a zip
        raise _not_whole(first_line(problem)) from problem
    module: nn.Module = program.module()
    return module


def _not_whole(given: str) -> StoreError:
    return StoreError(
        "What torch.export.save or torch.jit.save wrote is a whole zip archive that torch can load",
        given=given,
        hint="Write or copy the file again.",
    )


def way_on(told: str) -> str:
    """What to do about an error of torch that does not say it; "" for any other.

    Args:
        told: The error's kind and message.
    """
    return next((hint for start, hint in _REFUSALS.items() if told.startswith(start)), "")


def check_program(data: bytes) -> None:
    """Refuse a .pt2 file that holds pickles: they are no saved form here. It says nothing about who may be trusted.

    Raises:
        StoreError: It holds pickles, or is no such file.
    """
    import torch

    if not zipfile.is_zipfile(io.BytesIO(data)):
        raise _not_whole("bytes that end before it does, or are something else")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for entry in archive.namelist():
                name = entry.rpartition("/")[2]
                if name.startswith(_PICKLED):
                    raise StoreError("An exported program holds weights and JSON only", given=f"a pickle, {entry}")
                if name.endswith("_config.json") and _pickled_payloads(json.loads(archive.read(entry))):
                    raise StoreError("An exported program holds weights and JSON only", given=f"pickles, by {entry}")
                if name.endswith(".pt"):
                    torch.load(io.BytesIO(archive.read(entry)), weights_only=True)
    except StoreError:
        raise
    except Exception as problem:  # a bad zip, or torch's refusal of a pickle
        raise StoreError("An exported program holds weights and JSON only", given=first_line(problem)) from problem


def _pickled_payloads(config: Any) -> bool:
    """Whether a list of payloads marks one as a pickle, which torch would load as such under any name."""
    return any(payload.get("use_pickle") for payload in config["config"].values())


def _own(example: Tree) -> Tree:
    """A copy for one export: torch marks the tensors whose sizes it is to leave open."""
    return map_tensors(lambda tensor: tensor.clone(), example)


def _arguments(example: Tree) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example, Mapping):
        return (), dict(example)
    return tuple(example) if isinstance(example, (tuple, list)) else (example,), {}


def _free_batch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Dimension 0 of every tensor left to `torch.export`, by the name of the argument it is in."""
    import torch

    def free(tree: Tree) -> Any:
        if isinstance(tree, torch.Tensor):
            return {0: torch.export.Dim.AUTO} if tree.dim() else None
        if isinstance(tree, Mapping):
            return {key: free(value) for key, value in tree.items()}
        if isinstance(tree, (tuple, list)):
            parts = [free(value) for value in tree]
            return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
        return None

    if any(leaf.dim() and leaf.shape[0] == 1 for leaf in flatten([*args, *kwargs.values()])[0]):
        # torch.export takes a size of 1 for fixed.
        raise UsageError("A free first dimension has an example of at least 2", given="1")
    bound = inspect.signature(module.forward).bind(*args, **kwargs)
    return {name: free(value) for name, value in bound.arguments.items()}
