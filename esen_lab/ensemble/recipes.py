"""Recipes: how a sub-model is built again in another process.

    ImportRecipe     "package.module:factory" and plain arguments
    SourceRecipe     the cell that builds it, with what it uses of the notebook as text
    LiveRecipe       a picture of the module, for this session's workers; may know a saved form too
    SkeletonRecipe   a module tree as JSON, and the text of its classes    (the saved form of a live module)
    ProgramRecipe    a `torch.export` program                               (where there is no skeleton)
    GroupRecipe      several equal sub-models as one module                 (for lanes; see `derived.py`)
    PartRecipe       a sub-model that takes a part of its batch             (for lanes)
    FileRecipe       files in the format of a library: ONNX, TorchScript, IR, boosters, pickled estimators (`kinds/`)

All but the picture and what is for lanes can be saved, and but for pickled estimators what is saved is plain text and
weights. Building gives the values that the weights had when the sub-model was registered, whatever chance or training
did while building. A recipe holds only plain data, so it crosses to a worker as it is; what is the user's is unpacked
inside `build`.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from esen_lab.common.words import unknown
from esen_lab.ensemble.origin import InContext, is_module
from esen_lab.ensemble.source.closure import Closure, execute, module_name, remember_lines
from esen_lab.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

_FILE_FORMATS = {
    "onnx": "onnx_model",
    "openvino": "openvino_model",
    "torchscript": "script",
    "xgboost": "xgboost_model",
    "lightgbm": "lightgbm_model",
    "pickle": "estimator",
}
"""What a `FileRecipe` may be in, and which file of `kinds/` reads it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellSource:
    """The text of a cell that builds a module, as given at registration.

    Attributes:
        text: Plain Python.
        filename: What tracebacks call it; "" for a name made from the sub-model's.
    """

    text: str
    filename: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRecipe:
    """A factory that every process can import.

    Attributes:
        path: "package.module:factory".
        args: Positional arguments, plain data.
        kwargs: Keyword arguments, plain data.
        weights: What `weights.to_bytes` gave at registration.
    """

    kind: ClassVar[str] = "import"
    path: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    weights: bytes = field(default=b"", repr=False)

    def describe(self) -> str:
        """Short text for tables."""
        return self.path

    def build(self) -> nn.Module:
        """The module, with its weights."""
        return _with_weights(
            checked_module(find_factory(self.path)(*self.args, **self.kwargs), self.path), self.weights
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRecipe:
    """A cell that builds a module.

    Attributes:
        name: The sub-model's name: the variable that is looked for when the cell ends without an expression.
        context: What the cell uses of the notebook.
        text: The cell.
        filename: What tracebacks call it.
        weights: What `weights.to_bytes` gave at registration.
    """

    kind: ClassVar[str] = "source"
    name: str
    context: Closure
    text: str
    filename: str = ""
    weights: bytes = field(default=b"", repr=False)

    def describe(self) -> str:
        """Short text for tables."""
        lines = len(self.text.strip().splitlines())
        return f"cell, {lines} line{'' if lines == 1 else 's'}"

    def build(self) -> nn.Module:
        """The module, with its weights."""
        return _with_weights(run_cell(self), self.weights)


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveRecipe:
    """A picture of a module of the notebook.

    Attributes:
        class_name: The module's class, for tables.
        snapshot: What `take_snapshot` gave; never saved.
        lines: Texts of the cells that define its classes, for tracebacks in workers.
        skeleton: Its saved form without weights (see `skeleton.py`), or None.
        problem: Why it has no skeleton, or "".
    """

    kind: ClassVar[str] = "live"
    class_name: str
    snapshot: bytes = field(repr=False)
    lines: Mapping[str, str] = field(default_factory=dict, repr=False)
    skeleton: Mapping[str, Any] | None = field(default=None, repr=False)
    problem: str = ""

    def describe(self) -> str:
        """Short text for tables."""
        return f"live {self.class_name}"

    def build(self) -> nn.Module:
        """A copy of the module as it was when it was registered."""
        from esen_lab.ensemble.snapshot import load_snapshot

        for filename, text in self.lines.items():
            remember_lines(filename, text)
        module: nn.Module = load_snapshot(self.snapshot)
        return module


@dataclass(frozen=True, slots=True, kw_only=True)
class SkeletonRecipe:
    """A module tree as JSON; see `skeleton.py`.

    Attributes:
        skeleton: What `encode` gave.
        weights: Its tensors, as `weights.to_bytes` gives them.
    """

    kind: ClassVar[str] = "skeleton"
    skeleton: Mapping[str, Any] = field(repr=False)
    weights: bytes = field(repr=False)

    def describe(self) -> str:
        """Short text for tables."""
        return "saved module"

    def build(self) -> nn.Module:
        """The module, with its weights."""
        from esen_lab.ensemble.skeleton import decode
        from esen_lab.ensemble.weights import from_bytes

        return decode(self.skeleton, from_bytes(self.weights))


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramRecipe:
    """A `torch.export` program with its weights, as the bytes of a .pt2 file."""

    kind: ClassVar[str] = "program"
    program: bytes = field(repr=False)

    def describe(self) -> str:
        """Short text for tables."""
        return "exported program"

    def build(self) -> nn.Module:
        """The program as a module."""
        from esen_lab.ensemble.program import load_program

        return load_program(self.program)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRecipe:
    """Sub-models of one architecture, run as one call; see `batched.py`."""

    kind: ClassVar[str] = "group"
    members: tuple[Rebuild, ...] = field(repr=False)

    def describe(self) -> str:
        """Short text for tables."""
        return f"group of {len(self.members)}"

    def build(self) -> nn.Module:
        """A module that answers with a tuple: what each of them answers."""
        from esen_lab.ensemble.batched import Batched

        return Batched([build() for build in self.members])


@dataclass(frozen=True, slots=True, kw_only=True)
class PartRecipe:
    """A sub-model that runs the rows of one part of its batch; see `batch_part.py`.

    Attributes:
        whole: Builds the sub-model.
        part: Which part, from 1.
        parts: Of how many.
    """

    kind: ClassVar[str] = "part"
    whole: Rebuild = field(repr=False)
    part: int
    parts: int

    def describe(self) -> str:
        """Short text for tables."""
        return f"part {self.part} of {self.parts}"

    def build(self) -> nn.Module:
        """A module that takes the whole batch and answers for its part of the rows."""
        from esen_lab.ensemble.batch_part import BatchPart

        return BatchPart(self.whole(), self.part, self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecipe:
    """A member that is no network in Python, in the format of the library that computes it; see `kinds`.

    Attributes:
        form: One of `_FILE_FORMATS`; "pickle" is code.
        files: Their content, by suffix.
        options: How it is called, plain data.
    """

    kind: ClassVar[str] = "file"
    form: str
    files: Mapping[str, bytes] = field(repr=False)
    options: Mapping[str, Any] = field(default_factory=dict)

    def describe(self) -> str:
        """Short text for tables."""
        return self.form

    def build(self) -> nn.Module:
        """The member as a module; a `UsageError` where there is no such format, or a package is missing."""
        if self.form not in _FILE_FORMATS:
            raise UsageError("A member's files are in a known format", given=self.form)
        library: Any = import_module(f"esen_lab.ensemble.kinds.{_FILE_FORMATS[self.form]}")
        module: nn.Module = library.load(self.files, self.options)
        return module


Recipe: TypeAlias = (
    ImportRecipe | SourceRecipe | LiveRecipe | SkeletonRecipe | ProgramRecipe | GroupRecipe | PartRecipe | FileRecipe
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuild:
    """What a worker is sent: called without arguments it gives the module, in eval mode.

    Attributes:
        recipe: How to build it.
        search_path: `sys.path` of the session, so that its own modules are found.
        protect_input: Whether the module changes its input in place, which it must not do to shared memory.
        carried: What imported modules hold in the session; see `Reach.carried`.
        home: The session's process, where they hold it anyway.
    """

    recipe: Recipe
    search_path: tuple[str, ...] = ()
    protect_input: bool = False
    carried: tuple[tuple[str, str, str, bytes], ...] = ()
    home: int = 0

    def __call__(self) -> nn.Module:
        """Build it."""
        import torch

        sys.path.extend(entry for entry in self.search_path if entry not in sys.path)
        for entry in self.carried if os.getpid() != self.home else ():
            _set_in_module(*entry)
        with torch.inference_mode(False):  # parameters made inside it take other ways through torch's attention
            module = self.recipe.build()
        if not isinstance(self.recipe, ProgramRecipe):  # a program is in the mode it was exported in
            in_lane_mode(module)
        if self.protect_input:
            _keep_hook_numbers(module)
            module.register_forward_pre_hook(_copy_input, prepend=True, with_kwargs=True)
        return module

    def to_bytes(self) -> bytes:
        """Itself, pickled; unpickling needs this package only."""
        return pickle.dumps(self, protocol=5)


def in_lane_mode(module: nn.Module) -> nn.Module:
    """The network, in eval mode: all of it, unless it is so itself; parts that are trained on stay in their mode then.

    As somebody has it who draws with dropout, or goes on learning a batch norm, after `eval()`.
    """
    return module.eval() if module.training else module


def _set_in_module(module: str, path: str, name: str, value: bytes) -> None:
    """Set what a module, or a class in it, holds in the session, where this process holds something else."""
    with contextlib.suppress(Exception):  # then it is another module here, or of another class: answers tell
        owner: Any = import_module(module)
        for part in filter(None, path.split(".")):
            owner = getattr(owner, part)
        if name in vars(owner) and _is_pickled_as(vars(owner)[name], value):
            return
        held = pickle.loads(value)  # noqa: S301  from the session, with the network itself
        if isinstance(held, InContext):
            vars(owner)[name].set(held.value)
        else:
            setattr(owner, name, held)


def _is_pickled_as(held: Any, value: bytes) -> bool:
    try:
        return pickle.dumps(held) == value
    except Exception:  # such as a function of the notebook, which was set before
        return False


def session_path() -> tuple[str, ...]:
    """`sys.path` in absolute form."""
    return tuple(dict.fromkeys(os.path.abspath(entry) for entry in sys.path))


def find_factory(path: str) -> Any:
    """What the import path `path` names.

    Raises:
        UsageError: It is not of the form "package.module:factory", or cannot be imported.
    """
    module, _, attribute = path.partition(":")
    if not module or not all(part.isidentifier() for part in (*module.split("."), *attribute.split("."))):
        raise UsageError("An import path has the form 'package.module:factory'", given=repr(path))
    try:
        found: Any = import_module(module)
    except ImportError as problem:
        raise UsageError(
            f"The module of {path!r} can be imported",
            given=f"{type(problem).__name__}: {problem}",
            hint="Check the spelling, and that it is installed or lies on sys.path.",
        ) from problem
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise unknown(f"The module {module} has what {path!r} names", part, dir(found), given=f"no {part}")
        found = getattr(found, part)
    if not callable(found) or is_module(found):
        raise UsageError("A factory can be called", given=f"{path} is of type {type(found).__name__}")
    return found


def checked_module(made: Any, what: str) -> nn.Module:
    """`made`, when it is an `nn.Module`; else `UsageError` naming `what`."""
    from torch import nn

    if not isinstance(made, nn.Module):
        raise UsageError(
            "A factory returns a torch.nn.Module",
            given=f"{what} returned {type(made).__module__}.{type(made).__qualname__}",
            hint="Return the module itself.",
        )
    return made


def run_cell(recipe: SourceRecipe) -> nn.Module:
    """Run a recipe's cell in a fresh module and pick the module that it builds.

    That is the value of its last expression; else the variable with the sub-model's name; else the only module assigned
    that is not part of another.

    Raises:
        UsageError: There is none, or there are several.
    """
    from torch import nn

    label = recipe.filename or f"<cell of sub-model {recipe.name}>"
    parts = [(f"<what sub-model {recipe.name} uses>", recipe.context.text)] if recipe.context.text else []
    names, last = execute([*parts, (label, recipe.text)], module_name(recipe.context.text, recipe.text))
    if isinstance(last, nn.Module):
        return last
    if isinstance(names.get(recipe.name), nn.Module):
        return names[recipe.name]  # type: ignore[no-any-return]
    modules = {id(value): value for value in names.values() if isinstance(value, nn.Module)}
    inner = {id(part) for module in modules.values() for part in module.modules() if part is not module}
    roots = [module for key, module in modules.items() if key not in inner]
    if len(roots) == 1:
        return roots[0]
    given = "none" if not roots else ", ".join(sorted(n for n, v in names.items() if any(v is root for root in roots)))
    raise UsageError(
        f"The cell of {recipe.name!r} ends with its module, or assigns it to {recipe.name!r} or as the only one",
        given=f"{given} assigned, and a last value of type {type(last).__name__}" if last is not None else given,
        hint="End the cell with the variable that holds the module.",
    )


def _with_weights(module: nn.Module, weights: bytes) -> nn.Module:
    from esen_lab.ensemble.weights import from_bytes, restore

    if weights:
        restore(module, from_bytes(weights))
    return module


def _keep_hook_numbers(module: nn.Module) -> None:
    """Keep new hooks from taking the numbers of hooks that came with the module from another process."""
    from torch.utils.hooks import RemovableHandle

    tables = [value for name, value in vars(module).items() if "_hooks" in name and isinstance(value, dict)]
    taken = [key for table in tables for key in table if isinstance(key, int)]
    RemovableHandle.next_id = max([RemovableHandle.next_id, *(number + 1 for number in taken)])


def _copy_input(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:  # noqa: ARG001  torch's hook signature
    from esen_lab.common.trees import map_tensors

    return map_tensors(lambda t: t.clone(), tuple(args)), map_tensors(lambda t: t.clone(), dict(kwargs))
