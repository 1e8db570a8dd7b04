"""What all kinds of members have in common: the module around them, and what a registration must know."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from esen_lab.common.packages import can_import
from esen_lab.common.tensors import taken_in
from esen_lab.common.trees import Tree, flatten, map_tensors, unflatten
from esen_lab.common.words import as_arguments, unknown
from esen_lab.ensemble.recipes import Recipe
from esen_lab.errors import UsageError, first_line


class Adapter(nn.Module):
    """A module around something that is none.

    Attributes:
        kind: What it is, for people: "ONNX model".
        runs_in: What computes it.
    """

    kind = ""
    runs_in = ""

    @property
    def convertible(self) -> bool:
        """Whether torch may trace it for another backend: whether all that it does is done with torch."""
        return False

    def enter_lane(self) -> None:
        """Called when a lane has built it, in whose process nothing else has to be left as it is."""

    def extra_repr(self) -> str:
        """What computes it."""
        return self.runs_in


class Hidden:
    """Holds what belongs to this process alone, such as a session of an engine.

    Whoever looks at a module's attributes (a watch, a digest, a pickle) sees nothing of it.
    """

    __slots__ = ("value",)

    def __init__(self, value: Any = None) -> None:
        self.value = value

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refuse.

        Raises:
            TypeError: Always.
        """
        raise TypeError("what an engine holds stays in its process")


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapted:
    """A member of another kind, ready to be proven.

    Attributes:
        module: Answers as the thing itself does in this process.
        recipes: How it is built elsewhere, the preferred way first; the first that answers alike is taken.
        class_name: For tables.
        kind: See `Adapter`.
        structure: What stays while its values alone change, as text: measurements hold for it.
        values: A digest of all that it computes with.
        parameters: Numbers that it computes with, as far as they can be counted.
        memory_bytes: Their memory; an estimate.
        watch: Tells when the thing has changed; None where it cannot.
        notes: What the user should know.
        state: A digest of what calls may change in it; None where they change nothing, or tensors alone.
    """

    module: nn.Module
    recipes: Sequence[Callable[[], Recipe]]
    class_name: str
    kind: str
    structure: str
    values: str
    parameters: int = 0
    memory_bytes: int = 0
    watch: SourceWatch | None = None
    notes: tuple[str, ...] = field(default=())
    state: Callable[[], str] | None = None


def marks_of(tensors: Iterable[torch.Tensor]) -> list[Any]:
    """What tells that tensors have been changed, some of their bytes included: changes by `.data` count nowhere."""
    found: list[Any] = []
    for tensor in tensors:
        flat = tensor.detach()
        found += [tensor.data_ptr(), -1 if tensor.is_inference() else tensor._version, flat.numel()]
        if flat.numel() and flat.device.type == "cpu":
            few = flat.reshape(-1)[:: max(1, flat.numel() // 8)][:8] if flat.is_contiguous() else flat.flatten()[:8]
            found.append(str(few.tolist()))
    return found


class SourceWatch:
    """Something registered, as it was: looked at before every run, by a mark that takes microseconds.

    It holds the thing: what was registered is there until it is unregistered.

    Args:
        source: What was registered.
        mark: Gives what tells: compared item by item, by identity, texts and numbers by value. None: not there now,
            which is no change.
        what: What has changed then, for people.
    """

    def __init__(self, source: Any, mark: Callable[[], Sequence[Any] | None], what: str) -> None:
        self.registered = source
        self._mark = mark
        self._what = what
        self.renew()

    def renew(self) -> None:
        """Take what is there now as what should be."""
        self._was = self._mark()

    def changed(self, *, whole: bool = False, piece: bool = True) -> bool:  # noqa: ARG002  as `Watch.changed`
        """Whether anything may differ."""
        now, was = self._mark(), self._was
        if now is None or was is None:
            return now is not None
        return len(now) != len(was) or not all(map(_same, now, was))

    def what(self, most: int = 4) -> tuple[str, ...]:  # noqa: ARG002  as `Watch.what`
        """What differs, for people."""
        return (self._what,) if self.changed() else ()


_BY_VALUE = (int, float, str, bytes, tuple)


def _same(now: Any, was: Any) -> bool:
    if now is was:
        return True
    if type(now) is not type(was) or not isinstance(now, _BY_VALUE):
        return False
    if isinstance(now, tuple):
        return len(now) == len(was) and (all(map(operator.is_, now, was)) or all(map(_same, now, was)))
    return bool(operator.eq(now, was))


def watched_files(source: Any, paths: Sequence[Path]) -> SourceWatch:
    """A watch over files that are replaced or written anew."""

    def mark() -> Sequence[Any] | None:
        try:
            found = [path.stat() for path in paths]
        except OSError:
            return None
        return [part for one in found for part in (one.st_mtime_ns, one.st_size, one.st_ino)]

    return SourceWatch(source, mark, f"the file {paths[0].name}")


def needs(package: str, group: str, what: str) -> None:
    """Refuse where a package is missing.

    Raises:
        UsageError: It is; the message names the group that brings it.
    """
    if not can_import(package):
        raise UsageError(
            f"{what} needs the package {package}",
            given="not installed here",
            hint=f"pip install 'esen_lab[{group}]'",
        )


@contextlib.contextmanager
def loading(package: str) -> Iterator[None]:
    """Around the import of a package that is there: it may lack a library of the system that it needs.

    Raises:
        UsageError: It cannot be loaded; the message says why.
    """
    try:
        yield
    except Exception as problem:  # each has its own kind
        raise UsageError(
            f"The package {package} can be loaded",
            given=f"{type(problem).__name__}: {first_line(problem)}",
            hint="Install it again, with what it needs of the system.",
        ) from problem


def check_options(options: Mapping[str, Any], known: Sequence[str], what: str) -> None:
    """Refuse what a kind does not know.

    Raises:
        UsageError: An option is none of `known`.
    """
    strange = [name for name in options if name not in known]
    if strange:
        allowed = f"the option {', '.join(known)} alone" if known else "nothing"
        rule = f"{what} takes {allowed} besides its input"
        raise unknown(rule, strange[0], known, given=as_arguments({name: options[name] for name in strange}))


# --- tensors and arrays -----------------------------------------------------------------------------------------------


def array_of(tensor: torch.Tensor) -> Any:
    """A tensor as a NumPy array, in its memory where it is on the CPU.

    Raises:
        UsageError: NumPy has no such dtype.
    """
    try:
        return tensor.detach().cpu().numpy()
    except (TypeError, RuntimeError) as problem:
        raise UsageError(
            "A member that takes arrays takes dtypes that NumPy has",
            given=str(tensor.dtype).removeprefix("torch."),
            hint="Give it float32.",
        ) from problem


def arrays_of(tree: Tree) -> Tree:
    """The same tree with arrays in the place of tensors; raises as `array_of` does."""
    return map_tensors(array_of, tree)


def tensors_of(answer: Any, device: torch.device | None) -> Tree:
    """What a member answered as a tree of tensors.

    Args:
        answer: Tensors, arrays and numbers of NumPy, in tuples, lists and dicts.
        device: Where its input was, and its answer is to be; None: where it is.

    Raises:
        UsageError: A part is something else, such as text; the message names the path to it.
    """
    if isinstance(answer, torch.Tensor) and device is None:
        return answer
    leaves, structure = flatten(answer, "the answer", take=_taken)
    if not leaves and (number := _number(answer)) is not None:
        leaves, structure = [number], ("tensor",)
    if not leaves:
        raise UsageError(
            "A member answers with tensors or arrays of numbers", given=f"a {type(answer).__name__} without any"
        )
    if device is not None:
        leaves = [leaf.to(device) for leaf in leaves]
    return unflatten(structure, leaves)


def _number(answer: Any) -> torch.Tensor | None:
    """A number of Python, or a list of them, as a tensor."""
    import numpy

    if not isinstance(answer, (bool, int, float, list, tuple)):
        return None
    array = numpy.asarray(answer)
    return torch.from_numpy(array.copy()) if array.size and array.dtype.kind in "bif" else None


def _taken(leaf: Any, path: str) -> torch.Tensor | None:
    if type(leaf).__module__.startswith("scipy.sparse"):
        raise UsageError(
            "A member answers with dense arrays",
            given=f"{path} is a {type(leaf).__name__}",
            hint="Have it answer so, as OneHotEncoder(sparse_output=False) does, or register a function around it.",
        )
    if type(leaf).__module__ == "numpy" and hasattr(leaf, "dtype"):
        import numpy

        if leaf.dtype.kind in "OUSMmV":
            raise UsageError(
                "A member answers with numbers",
                given=f"{path} is an array of dtype {leaf.dtype}",
                hint="Have it answer with scores or probabilities, or encode its labels as numbers.",
            )
        if isinstance(leaf, numpy.generic):
            leaf = numpy.asarray(leaf)
    return taken_in(leaf, path)


def device_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.device | None:
    """Where the first tensor of an input is; None: on the CPU."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.Tensor):
            return None if value.device.type == "cpu" else value.device
    return None
