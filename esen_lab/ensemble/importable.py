"""What another process can import, and from where."""

from __future__ import annotations

import sys
import types
from collections.abc import Sequence
from typing import Any

_SEARCHED = ("torch", "torch.nn.functional", "torch.special", "torch.linalg", "math", "operator", "numpy")


def import_path(thing: Any) -> str:
    """Where another process can import the class or function `thing` from, as "package.module:name", or ""."""
    name = getattr(thing, "__qualname__", None) or getattr(thing, "__name__", None)
    if not isinstance(name, str) or isinstance(thing, types.MethodType):
        return ""
    home = getattr(thing, "__module__", None)
    for module in (home,) if isinstance(home, str) else ():
        if reaches(module, name, thing):
            return f"{module}:{name}"
    # Functions written in C name a private home, or none.
    short = name.rpartition(".")[2]
    if isinstance(thing, types.BuiltinFunctionType):
        for module in _SEARCHED:
            if module in sys.modules and reaches(module, short, thing):
                return f"{module}:{short}"
    return ""


def reaches(module: str, name: str, thing: Any) -> bool:
    """Whether importing `name` from `module` gives `thing`, in another process too."""
    found: Any = sys.modules.get(module)
    if not is_importable(found):
        return False
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is thing


def is_importable(module: Any) -> bool:
    """Whether `module` is one that another process can import."""
    return (
        isinstance(module, types.ModuleType)
        and module.__name__ != "__main__"
        and getattr(module, "__spec__", None) is not None
        and sys.modules.get(module.__name__) is module
    )


def deepest(module: types.ModuleType, parts: Sequence[str]) -> str:
    """The name of the innermost module on the way from `module` along `parts`."""
    here: Any = module
    for part in parts:
        deeper: Any = sys.modules.get(f"{here.__name__}.{part}")
        if deeper is None or getattr(here, part, None) is not deeper or not is_importable(deeper):
            break
        here = deeper
    return str(here.__name__)
