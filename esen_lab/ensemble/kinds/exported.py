"""What `torch.export` gives: an `ExportedProgram`, or the .pt2 file it was saved as; computed by torch.

Loading such a file may run code (see `ensemble/program.py`). Registering one is asking for that, by name.
"""

from __future__ import annotations

import hashlib
import io
import sys
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from esen_lab.common.trees import tensor_spec
from esen_lab.ensemble.fingerprint import tensor_digests, text_digest
from esen_lab.ensemble.kinds.adapted import Adapted, SourceWatch, check_options, marks_of, watched_files
from esen_lab.ensemble.origin import is_tensor
from esen_lab.ensemble.program import check_program, load_program
from esen_lab.ensemble.recipes import ProgramRecipe
from esen_lab.ensemble.weights import memory_of, state_of
from esen_lab.errors import UsageError, first_line
from esen_lab.files import read_bytes

_KIND = "ExportedProgram"


def adapt(source: Any, options: Mapping[str, Any]) -> Adapted | None:
    """A member made of a program, or of its file or bytes; None for anything else."""
    watch: SourceWatch | None = None
    if isinstance(source, Path):
        if source.suffix.lower() != ".pt2":
            return None
        data = read_bytes(source)
        watch = watched_files(source, [source])
    elif isinstance(source, bytes) and source.startswith(b"PK"):
        data = source
    elif _is_program(source):
        data = _saved(source)
        watch = SourceWatch(source, partial(_mark, source), "its parameters, buffers or constants")
    else:
        return None
    check_options(options, (), f"An {_KIND}")
    module = load_program(data)
    state = state_of(module)
    looks = [(name, str(tensor_spec(tensor))) for name, tensor in state.items()]
    graph = str(getattr(module, "code", ""))
    return Adapted(
        module=module,
        recipes=[partial(ProgramRecipe, program=data)],
        class_name=_KIND,
        kind=_KIND,
        structure=f"{graph} {looks}",
        values=text_digest(graph, str(sorted(tensor_digests(state).items())), _constants(data)),
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        memory_bytes=memory_of(module),
        watch=watch,
    )


def _is_program(source: Any) -> bool:
    export = sys.modules.get("torch.export")
    return export is not None and isinstance(source, export.ExportedProgram)


def _mark(program: Any) -> list[Any]:
    """What tells that its tensors have been changed, or that it has other ones, or another graph."""
    tables = (program.state_dict, program.constants)
    tensors = [value for table in tables for value in table.values() if is_tensor(value)]
    return [program.graph_module, *(name for table in tables for name in table), *marks_of(tensors)]


def _saved(program: Any) -> bytes:
    import torch

    buffer = io.BytesIO()
    try:
        torch.export.save(program, buffer)
        check_program(buffer.getvalue())
    except Exception as problem:
        raise UsageError(
            f"torch.export.save can write the {_KIND} without pickles", given=first_line(problem)
        ) from problem
    return buffer.getvalue()


def _constants(data: bytes) -> str:
    """A digest of the tensors that a program holds beside its parameters and buffers."""
    digest = hashlib.blake2b(digest_size=16)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for name in sorted(archive.namelist()):
            if "/data/constants/" in name:
                digest.update(archive.read(name))
    return digest.hexdigest()
