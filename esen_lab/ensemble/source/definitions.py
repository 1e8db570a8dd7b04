"""Where the text of a class or function of the notebook is.

The notebook keeps each cell's text in `linecache`, under the file name that the code made from it carries. A class has
no code of its own, so its methods tell; what carries no code at all is looked for by name, latest cell first.
"""

from __future__ import annotations

import ast
import functools
import linecache
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from esen_lab.ensemble.origin import asked, is_a
from esen_lab.ensemble.source.names import bound_by

FUTURE = "from __future__ import annotations"
_FUTURE_FLAG = 0x1000000  # __future__.annotations.compiler_flag
_MOST_AROUND = 100  # decorators around a function; some objects answer to every name, without end
_Node = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Definition:
    """The text of one definition.

    Attributes:
        segment: The text, without indentation.
        home: The names that it refers to.
        postponed: Whether it was compiled under `from __future__ import annotations`.
    """

    segment: str
    home: Mapping[str, Any]
    postponed: bool = False


def functions_in(value: Any) -> Iterator[types.FunctionType]:
    """The functions that a class attribute or decorated function was written as."""
    if is_a(value, (staticmethod, classmethod)):
        value = value.__func__
    if is_a(value, property):
        for part in (value.fget, value.fset, value.fdel):
            yield from functions_in(part)
        return
    if is_a(value, functools.cached_property):
        value = value.func
    for _ in range(_MOST_AROUND):
        if is_a(value, type) or (wrapped := asked(value, "__wrapped__")) is None:
            break
        value = wrapped
    if is_a(value, types.FunctionType):
        yield value


def find_class(cls: type) -> Definition | None:
    """The text of a class, by the file of its methods."""
    for function in functions_of(cls):
        found = _find_around(function, cls.__name__, ast.ClassDef)
        if found is not None:
            return found
    return None


def find_function(function: types.FunctionType) -> Definition | None:
    """The text of a function or lambda, by the file of its code."""
    if function.__code__.co_name == "<lambda>":
        return _find_lambda(function)
    return _find_around(function, function.__code__.co_name, (ast.FunctionDef, ast.AsyncFunctionDef))


def _find_around(function: types.FunctionType, name: str, kind: type | tuple[type, ...]) -> Definition | None:
    """The definition of `name` that holds the first line of `function`."""
    code = function.__code__
    text = "".join(linecache.getlines(code.co_filename))
    for node in _definitions(text, name):
        if isinstance(node, kind) and _first_line(node) <= code.co_firstlineno <= (node.end_lineno or 0):
            return Definition(_segment(text, node), function.__globals__, bool(code.co_flags & _FUTURE_FLAG))
    return None


def _find_lambda(function: types.FunctionType) -> Definition | None:
    code = function.__code__
    text = "".join(linecache.getlines(code.co_filename))
    tree = _parse(text)
    nodes = [n for n in ast.walk(tree) if isinstance(n, ast.Lambda) and n.lineno == code.co_firstlineno] if tree else []
    segments = [segment for segment in (ast.get_source_segment(text, node) for node in nodes) if segment]
    if len(segments) > 1:
        segments = [s for s in segments if eval(compile(f"({s})", "", "eval")).__code__.co_code == code.co_code]  # noqa: S307  makes a lambda, does not call it
    return Definition(f"({segments[0]})", function.__globals__) if len(set(segments)) == 1 else None


def find_statement(name: str, namespace: Mapping[str, Any], thing: Any) -> Definition | None:
    """The latest class, function or assignment of `name` in the notebook's history: for what carries no code.

    A class must have what its text binds, so that the text of another class of that name does not pass for it.
    """
    history = namespace.get("In")  # the notebook's own list of cells that ran
    texts = [text for text in reversed(history) if isinstance(text, str)] if isinstance(history, list) else []
    script = namespace.get("__file__")
    if isinstance(script, str):
        texts.append("".join(linecache.getlines(script)))
    for text in texts:
        if name not in text:
            continue
        for node in (*reversed(_definitions(text, name)), *reversed(_assignments(text, name))):
            if not isinstance(node, ast.ClassDef) or _may_define(node, thing):
                return Definition(_segment(text, node), namespace, FUTURE in text)
    return None


def _may_define(node: ast.ClassDef, cls: Any) -> bool:
    inside = ast.Module(body=node.body, type_ignores=[])
    annotations = vars(cls).get("__annotations__", {}) if isinstance(cls, type) else {}
    names = [name for name in bound_by(inside) if not name.startswith("__")]  # private ones are called otherwise
    return all(hasattr(cls, name) or name in annotations for name in names)


def _parse(text: str) -> ast.Module | None:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError):
        return None


def _top_level(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run in the module's own scope, those inside if, try and with included."""
    for statement in body:
        yield statement
        for part in ("body", "orelse", "finalbody"):
            if not isinstance(statement, _Node):
                yield from _top_level(getattr(statement, part, []))


def _definitions(text: str, name: str) -> list[_Node]:
    tree = _parse(text)
    return [n for n in _top_level(tree.body) if isinstance(n, _Node) and n.name == name] if tree else []


def _assignments(text: str, name: str) -> list[ast.Assign]:
    tree = _parse(text)
    return [
        n
        for n in (_top_level(tree.body) if tree else ())
        if isinstance(n, ast.Assign) and len(n.targets) == 1 and getattr(n.targets[0], "id", None) == name
    ]


def _first_line(node: _Node) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def _segment(text: str, node: ast.stmt) -> str:
    """The lines of a statement, decorators included, at no indentation."""
    start = _first_line(node) if isinstance(node, _Node) else node.lineno
    if node.col_offset:
        return ast.unparse(node)
    lines = text.encode().splitlines(keepends=True)[start - 1 : node.end_lineno]
    lines[-1] = lines[-1][: node.end_col_offset]  # a second statement may follow on the line
    return b"".join(lines).decode()


def functions_of(thing: Any) -> Iterator[types.FunctionType]:
    """The functions written in the definition of a class or function, not generated and not inherited."""
    if isinstance(thing, type):
        for value in vars(thing).values():
            for function in functions_in(value):
                if function.__qualname__.startswith(f"{thing.__qualname__}."):
                    yield function
    else:
        yield from functions_in(thing)


def source_texts(things: Iterable[Any]) -> dict[str, str]:
    """File name -> text of the notebook cells that define the classes `things`, for tracebacks elsewhere."""
    found = {}
    for thing in things:
        for function in functions_of(thing):
            filename = function.__code__.co_filename
            entry = linecache.cache.get(filename)
            if entry is not None and len(entry) == 4 and entry[1] is None:
                found[filename] = "".join(entry[2])
    return found
