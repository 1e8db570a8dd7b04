"""Source that stands alone: what a class, function or cell of a notebook needs, as text that runs anywhere.

A class of the notebook lives in `__main__`, which no other process can import. Its text is found through the file name
that its methods' code carries (the notebook keeps each cell's text in `linecache` under that name; `inspect.getsource`
does not look there for classes). From the text, every global name is followed:

    module                              import line
    importable class or function        from-import line
    class or function of the notebook   its own text, followed in turn
    plain value                         assignment of a literal
    anything else                       an error that names it and who uses it

Text is ordered so that what a definition needs while it is being defined (bases, decorators, defaults, class bodies)
comes before it.
"""

from __future__ import annotations

import ast
import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from esen_lab.common.surroundings import model_cell
from esen_lab.ensemble.origin import deepest, import_path, is_importable, reaches
from esen_lab.ensemble.source.closure import Closure
from esen_lab.ensemble.source.definitions import (
    FUTURE,
    Definition,
    find_class,
    find_function,
    find_statement,
    functions_in,
    functions_of,
)
from esen_lab.ensemble.source.literals import Literals, is_definition
from esen_lab.ensemble.source.names import ONLY_IN_NOTEBOOKS, bound_by, chains_in, free_in_cell, uses_of
from esen_lab.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """Objects of the notebook as text.

    Attributes:
        closure: The text that defines them.
        names: For each object that was asked for, in order, its name in that text.
    """

    closure: Closure
    names: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of the first object."""
        return self.names[0]


def capture_object(thing: Any) -> Captured:
    """The text of one class or function of the notebook; raises as `capture_objects` does."""
    return capture_objects([thing])


def capture_objects(things: Sequence[Any]) -> Captured:
    """The text of classes and functions of the notebook and of all they use.

    Raises:
        UsageError: Something has no text or cannot be written as text; the message names it and who uses it.
    """
    capture = _Capture()
    names = tuple(capture.define(thing, "the sub-model") for thing in things)
    return Captured(closure=capture.closure(), names=names)


def capture_cell(text: str, namespace: Mapping[str, Any], what: str) -> Closure:
    """The text of everything in `namespace` that the cell `text` uses and does not define itself.

    Args:
        text: Python source.
        namespace: The notebook's names.
        what: Who uses the names, for messages ("the cell of 'wide'").

    Raises:
        UsageError: The text is not Python, or a name cannot be written as text.
    """
    capture = _Capture()
    for name in free_in_cell(text, what):
        if name in namespace:
            capture.bind(name, namespace[name], namespace, what)
        elif name in ONLY_IN_NOTEBOOKS:
            raise _only_in_notebooks(name, what)
    return capture.closure(chains_in(ast.parse(text)), namespace)


@dataclass(slots=True)
class _Chunk:
    """One definition on its way into the text.

    Attributes:
        text: Its source.
        empty: For a container: the same without its content, for where the content needs the container first.
        refill: What then fills it.
        hard: Names that its source needs while it runs.
        soft: Names that its functions need later.
    """

    text: str
    empty: str = ""
    refill: str = ""
    hard: list[str] = field(default_factory=list)
    soft: list[str] = field(default_factory=list)


class _Capture:
    """Collects definitions under the names they have in one flat namespace."""

    def __init__(self) -> None:
        self._things: dict[str, Any] = {}
        self._chunks: dict[str, _Chunk] = {}
        self._imports: dict[str, str] = {}  # import line -> module
        self._postponed = False
        self._literals = Literals(self._imports, self.define)
        self._lambdas = 0

    def closure(
        self, chains: set[tuple[str, ...]] | None = None, namespace: Mapping[str, Any] | None = None
    ) -> Closure:
        """Everything collected so far, in an order that runs."""
        self._import_submodules(chains or set(), namespace or {})
        ordered = self._ordered()
        head = ([FUTURE] if self._postponed else []) + sorted(self._imports)
        blocks = [*(["\n".join(head)] if head else []), *ordered]
        return Closure(
            text="\n\n\n".join(blocks) + "\n" if blocks else "", modules=tuple(sorted(set(self._imports.values())))
        )

    def _ordered(self) -> list[str]:
        """The chunks' texts, each after what it needs while it runs."""
        ordered: list[str] = []
        refills: list[str] = []
        open_chunks: set[str] = set()
        done: set[str] = set()

        def emit(name: str) -> None:
            if name in done or name in open_chunks or name not in self._chunks:
                return
            chunk = self._chunks[name]
            open_chunks.add(name)
            for needed in chunk.hard:
                emit(needed)
            open_chunks.discard(name)
            if name in done:
                return
            done.add(name)
            circular = [needed for needed in chunk.hard if needed in self._chunks and needed not in done]
            if circular and chunk.empty:  # a registry: the classes in it put themselves there
                ordered.append(chunk.empty)
                refills.append(chunk.refill)
            elif circular:
                raise UsageError(
                    "What is kept as source can be defined in some order",
                    given=f"{name} and {', '.join(circular)}, which need each other",
                    hint="Put them into a module.",
                )
            else:
                ordered.append(chunk.text)
            for later in chunk.soft:
                emit(later)

        for name in self._chunks:
            emit(name)
        return ordered + refills

    def define(self, thing: Any, user: str) -> str:
        """Collect a class or function under its own name, which is returned."""
        if isinstance(thing, types.FunctionType) and thing.__name__ == "<lambda>":
            for name, known in self._things.items():
                if known is thing:
                    return name
            self._lambdas += 1
            name = f"lambda_{self._lambdas}"
        else:
            name = getattr(thing, "__name__", None) or type(thing).__name__
        self.bind(name, thing, _home(thing), user)
        return name

    def bind(self, name: str, thing: Any, namespace: Mapping[str, Any], user: str) -> None:
        """Make `name` mean `thing` in the text."""
        if name in self._things:
            if self._things[name] is thing or (name in self._chunks and self._same_value(name, thing)):
                return
            raise UsageError(
                "One name means one thing in what is kept as source",
                given=f"two different {name!r}, one of them used by {user}",
                hint="Give one of them another name (or run the cells again, so that nothing old is left).",
            )
        self._things[name] = thing
        if isinstance(thing, types.ModuleType):
            self._import(name, thing, user)
            return
        path = import_path(thing)
        if not path and reaches(str(getattr(thing, "__module__", "")), name, thing):
            path = f"{thing.__module__}:{name}"
        if path and "." not in path.partition(":")[2]:
            module, _, attribute = path.partition(":")
            if module != "builtins" or attribute != name:
                self._imports[f"from {module} import {attribute}" + ("" if attribute == name else f" as {name}")] = (
                    module
                )
            return
        if path or not is_definition(thing):
            chunk = _Chunk("")
            self._chunks[name] = chunk
            value = self._literals.text_of(thing, name, user, chunk.hard)
            chunk.text = f"{name} = {value}"
            if type(thing) is dict:
                chunk.empty, chunk.refill = f"{name} = {{}}", f"{name}.clear()\n{name}.update({value})"
            elif type(thing) is list:
                chunk.empty, chunk.refill = f"{name} = []", f"{name}[:] = {value}"
            return
        self._define(name, thing, namespace, user)

    def _same_value(self, name: str, thing: Any) -> bool:
        known = self._things[name]
        return type(known) is type(thing) and not is_definition(thing) and repr(known) == repr(thing)

    def _define(self, name: str, thing: Any, namespace: Mapping[str, Any], user: str) -> None:
        own = getattr(thing, "__name__", name)
        qualname = getattr(thing, "__qualname__", own)
        by_statement = None
        if "<locals>" in qualname and namespace.get(name) is thing and not hasattr(thing, "__wrapped__"):
            by_statement = find_statement(
                name, namespace, thing
            )  # `act = make_act(3)`, or a decorator's inner function
        is_lambda = isinstance(thing, types.FunctionType) and thing.__name__ == "<lambda>"
        alone = hasattr(thing, "__wrapped__") or (is_lambda and not thing.__closure__)
        if "<locals>" in qualname and by_statement is None and not alone:
            raise UsageError(
                f"What {user} uses is defined at the top of a cell or in a module, so that its source can be kept",
                given=f"{qualname}, which is defined inside a function",
                hint=f"Move it to the top level, or build the sub-model {model_cell()}.",
            )
        if isinstance(thing, type) and own != name and by_statement is None:
            chunk = self._chunks[name] = _Chunk(f"{name} = {own}", hard=[own])
            self.bind(own, thing, namespace, user)
            return
        found = by_statement or self._find(own, name, thing, namespace)
        if found is None:
            raise UsageError(
                f"The source of what {user} uses can be found",
                given=f"{name} ({type(thing).__name__} {qualname}), for which there is no text",
                hint="Define it with class or def in a cell, or in a module.",
            )
        is_lambda = is_lambda and by_statement is None
        chunk = self._chunks[name] = _Chunk(f"{name} = {found.segment}" if is_lambda else found.segment)
        if not is_lambda and own != name and name not in bound_by(ast.parse(found.segment)):
            chunk.text += f"\n\n\n{name} = {own}"
        self._postponed |= found.postponed
        uses = uses_of(found.segment)
        who = f"{'class' if isinstance(thing, type) else 'function'} {name}"
        for needed, into in ((uses.hard, chunk.hard), (uses.soft, chunk.soft), (uses.optional, chunk.hard)):
            for other in sorted(needed):
                self._follow(other, name, found.home, who, into, optional=needed is uses.optional)
        self._import_submodules(chains_in(ast.parse(found.segment)), found.home)

    def _follow(
        self, other: str, name: str, namespace: Mapping[str, Any], who: str, into: list[str], *, optional: bool
    ) -> None:
        if other == name or other.startswith("__"):
            return
        if other not in namespace or (other in ONLY_IN_NOTEBOOKS and other not in self._things):
            if other in ONLY_IN_NOTEBOOKS:
                raise _only_in_notebooks(other, who)
            return  # a builtin, or a name that is as unknown in the notebook
        try:
            self.bind(other, namespace[other], namespace, who)
        except UsageError:
            if not optional:
                raise
            self._things.pop(other, None)
            self._chunks.pop(other, None)
        into.append(other)

    def _find(self, own: str, name: str, thing: Any, namespace: Mapping[str, Any]) -> Definition | None:
        if isinstance(thing, type):
            return find_class(thing) or find_statement(own, namespace, thing)
        for function in functions_in(thing):
            if "<locals>" not in function.__qualname__ or function.__name__ == "<lambda>":
                return find_function(function)
        return find_statement(name, namespace, thing)

    def _import(self, name: str, module: types.ModuleType, user: str) -> None:
        if not is_importable(module):
            raise UsageError(
                f"A module that {user} uses can be imported elsewhere",
                given=f"{name} = {module.__name__}",
                hint="Put it in a file on sys.path.",
            )
        line = f"import {module.__name__}" + ("" if module.__name__ == name else f" as {name}")
        self._imports[line] = module.__name__

    def _import_submodules(self, chains: set[tuple[str, ...]], namespace: Mapping[str, Any]) -> None:
        """`xml.etree.ElementTree` in the text needs that import, though the notebook's name is `xml`."""
        for chain in sorted(chains):
            first: Any = namespace.get(chain[0])
            if first is not self._things.get(chain[0]):
                continue
            if not isinstance(first, types.ModuleType):
                continue
            path = deepest(first, chain[1:])
            if path != first.__name__ and chain[0] == path.partition(".")[0]:
                self._imports[f"import {path}"] = path


def _home(thing: Any) -> Mapping[str, Any]:
    """The namespace that the names in a definition's text belong to."""
    for code_holder in functions_of(thing):
        return code_holder.__globals__
    module = sys.modules.get(str(getattr(thing, "__module__", "")))
    return vars(module) if module is not None else {}


def _only_in_notebooks(name: str, who: str) -> UsageError:
    return UsageError(
        f"What {who} uses exists outside Jupyter too",
        given=f"{name}, which only a notebook has",
        hint="Leave it out of the sub-model's code.",
    )
