"""Text that runs anywhere, and running it in a module of its own."""

from __future__ import annotations

import ast
import linecache
import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from esen_lab.ensemble.fingerprint import text_digest
from esen_lab.errors import StoreError

_LAST = "__esen_lab_last_value__"
SOURCE = "esen_lab_source_"
"""How the names of modules begin that source is run in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Closure:
    """Text that runs anywhere, given the modules it imports.

    Attributes:
        text: Python source; "" when nothing is needed.
        modules: The modules it imports, sorted.
    """

    text: str
    modules: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"text": self.text, "modules": list(self.modules)}

    @classmethod
    def from_dict(cls, data: Any) -> Closure:
        """The inverse of `to_dict`; raises `StoreError` when it is something else."""
        if not isinstance(data, Mapping) or not isinstance(data.get("text"), str):
            raise StoreError("Saved source is a JSON object with a text", given=type(data).__name__)
        return cls(text=data["text"], modules=tuple(str(module) for module in data.get("modules", ())))


def execute(parts: Sequence[tuple[str, str]], name: str) -> tuple[dict[str, Any], Any]:
    """Run pieces of source one after another in one fresh module.

    Args:
        parts: (file name, text) pairs. The texts are put into `linecache`, so that tracebacks show their lines.
        name: The module's name.

    Returns:
        The module's names, and the value of the last part's last statement where that is an expression, else None.
    """
    module = types.ModuleType(name)
    namespace = module.__dict__
    # Dataclasses and the like look their module up while they are defined. It does not stay: pickle would believe
    # that another process can import it.
    before = sys.modules.get(name)
    sys.modules[name] = module
    try:
        for filename, text in parts:
            remember_lines(filename, text)
            tree = ast.parse(text, filename)
            if tree.body and isinstance(tree.body[-1], ast.Expr):
                keep = ast.Name(id=_LAST, ctx=ast.Store())
                tree.body[-1] = ast.copy_location(ast.Assign(targets=[keep], value=tree.body[-1].value), tree.body[-1])
                ast.fix_missing_locations(tree)
            namespace.pop(_LAST, None)
            exec(compile(tree, filename, "exec", dont_inherit=True), namespace)  # noqa: S102  running a recipe is its purpose
    finally:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
    return namespace, namespace.pop(_LAST, None)


def run_closure(closure: Closure, filename: str) -> dict[str, Any]:
    """Run a closure in a fresh module and return its names."""
    return execute([(filename, closure.text)], module_name(closure.text))[0]


def module_name(*texts: str) -> str:
    """A module name for source, the same wherever it runs."""
    return f"{SOURCE}{text_digest(*texts)[:12]}"


def remember_lines(filename: str, text: str) -> None:
    """Let tracebacks show the lines of `text` for code compiled under `filename`."""
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
