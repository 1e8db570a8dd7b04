"""TorchScript: a ScriptModule, a scripted function, what `torch.jit.save` wrote, a file or bytes; computed by torch."""

from __future__ import annotations

import hashlib
import io
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from esen_lab.common.trees import Tree, tensor_spec
from esen_lab.ensemble.kinds import is_script
from esen_lab.ensemble.kinds.adapted import (
    Adapted,
    Adapter,
    Hidden,
    SourceWatch,
    check_options,
    marks_of,
    watched_files,
)
from esen_lab.ensemble.recipes import FileRecipe
from esen_lab.ensemble.weights import memory_of, state_of
from esen_lab.errors import UsageError, first_line
from esen_lab.files import read_bytes

_KIND = "ScriptModule"
_SUFFIXES = (".pt", ".pth", ".ts", ".torchscript")
_MANGLED = re.compile(rb"\.___torch_mangle_\d+|___torch_mangle_\d+\.")  # counted through a session
_MODES = ("training", "_is_full_backward_hook")
_CLASS = re.compile(rb"^class ", re.MULTILINE)


class Script(Adapter):
    """A ScriptModule as a module in Python, with its very parameters and buffers.

    Args:
        data: What `torch.jit.save` wrote.
        defaults: Of arguments that an input need not have: a function's own are not in what torch writes.

    Raises:
        UsageError: It is no such file.
    """

    kind = _KIND
    runs_in = "TorchScript"

    def __init__(self, data: bytes, defaults: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self._defaults = dict(defaults or {})
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                script = torch.jit.load(io.BytesIO(data), map_location="cpu")  # type: ignore[no-untyped-call]
        except Exception as problem:
            raise UsageError(f"torch can load the {_KIND}", given=first_line(problem)) from problem
        if getattr(script, "training", False):  # a frozen one has no mode
            script.eval()
        for parameter in script.parameters():
            parameter.requires_grad_(False)
        self._script = Hidden(script)
        self._take()

    def _take(self) -> None:
        self._parameters = dict(self._script.value.named_parameters())
        self._buffers = dict(self._script.value.named_buffers())

    def _apply(self, fn: Callable[[Any], Any], recurse: bool = True) -> Script:  # noqa: FBT001, FBT002, RUF100  torch's
        self._script.value._apply(fn, recurse)
        self._take()
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Tree:
        """What the script answers."""
        if self._defaults:
            names = [argument.name for argument in self._script.value.forward.schema.arguments[1:]]
            kwargs = {k: v for k, v in self._defaults.items() if k not in names[: len(args)]} | kwargs
        return self._script.value(*args, **kwargs)

    @property
    def script(self) -> Any:
        """The ScriptModule."""
        return self._script.value


def adapt(source: Any, options: Mapping[str, Any]) -> Adapted | None:
    """A member made of a ScriptModule, a file or bytes; None for anything else."""
    watch: SourceWatch | None = None
    notes: tuple[str, ...] = ()
    defaults: dict[str, Any] = {}
    if isinstance(source, Path):
        if source.suffix.lower() not in _SUFFIXES:
            return None
        data = read_bytes(source)
        if not _is_script(data):
            raise UsageError(
                "A .pt file that is registered is what torch.jit.save wrote",
                given=f"{source.name}, which is something else, such as weights alone",
                hint="Build the network, load its weights into it, and register the network.",
            )
        watch = watched_files(source, [source])
    elif isinstance(source, bytes) and _is_script(source):
        data = source
    elif is_script(source):
        data, defaults = _saved(source), _defaults(source)
        watch = SourceWatch(source, partial(_mark, source), "its parameters, buffers or attributes")
        if getattr(source, "training", False):
            notes = ("was in training mode; workers run it in eval mode",)
    else:
        return None
    check_options(options, (), f"A {_KIND}")
    module = Script(data, defaults)
    code, values = _digests(data)
    looks = [(name, str(tensor_spec(tensor))) for name, tensor in state_of(module).items()]
    return Adapted(
        module=module,
        recipes=[partial(FileRecipe, form="torchscript", files={"ts": data}, options=defaults)],
        class_name=str(getattr(source, "__name__", "") or getattr(module.script, "original_name", "") or _KIND),
        kind=_KIND,
        structure=f"{code} {looks}{f' {defaults}' if defaults else ''}",
        values=values,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        memory_bytes=memory_of(module),
        watch=watch,
        notes=notes,
    )


def load(files: Mapping[str, bytes], options: Mapping[str, Any]) -> Script:
    """The module of a script that was kept."""
    return Script(files["ts"], options)


def _defaults(script: Any) -> dict[str, Any]:
    """The plain defaults of a scripted function; a module's are in what torch writes."""
    if not isinstance(script, torch.jit.ScriptFunction):
        return {}
    schema: Any = script.schema  # a property, which its types say is a method
    found = {arg.name: arg.default_value for arg in schema.arguments if arg.has_default_value()}
    return {name: value for name, value in found.items() if isinstance(value, bool | int | float | str | None)}


def _saved(script: Any) -> bytes:
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(script, buffer)
    except Exception as problem:
        raise UsageError(f"torch.jit.save can write the {_KIND}", given=first_line(problem)) from problem
    return buffer.getvalue()


def _mark(script: Any) -> list[Any]:
    """What tells that its tensors or other attributes have been changed; its mode counts for nothing in a lane."""
    if not isinstance(script, torch.jit.ScriptModule):
        return []
    tensors, found = [], []
    part: Any  # in C++, which torch's types do not say
    for part in script.modules():
        waiting = [part._c.getattr(name) for name in part._concrete_type.get_attributes() if name not in _MODES]
        while waiting:
            value = waiting.pop()
            if isinstance(value, torch.Tensor):
                tensors.append(value)
            elif isinstance(value, (list, tuple)):
                waiting += value
            elif isinstance(value, dict):
                waiting += [*value, *value.values()]
            else:
                found.append(str(value))
    return [*found, *marks_of(tensors)]


def _is_script(data: bytes) -> bool:
    """Whether bytes are a zip with TorchScript's code in it."""
    if not data.startswith(b"PK"):
        return False
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return any(name.partition("/")[2] == "constants.pkl" for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def _digests(data: bytes) -> tuple[str, str]:
    """Of the code alone, and of all that is computed with.

    Neither of line numbers, nor of the numbers that classes get in a session: which file of an archive a class is in
    depends on those, too, so that the texts of classes count and not the files.
    """
    classes: list[bytes] = []
    parts: list[tuple[bytes, bytes]] = []
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for name in archive.namelist():
            inside = name.partition("/")[2]
            if inside.endswith(".debug_pkl") or inside.startswith(".data/"):
                continue
            content = archive.read(name)
            if inside.startswith("code/"):
                classes += _CLASS.split(_MANGLED.sub(b"", content))
            else:
                numbers = inside.startswith(("data/", "constants/"))
                parts.append((inside.encode(), content if numbers else _MANGLED.sub(b"", content)))
    code = hashlib.blake2b(b"\0".join(sorted(classes)), digest_size=16)
    whole = code.copy()
    for inside_name, content in sorted(parts):
        whole.update(inside_name + b"\0" + len(content).to_bytes(8, "little") + content)
    return code.hexdigest(), whole.hexdigest()
