"""Plain values as Python text that makes them again: numbers, texts, containers, small tensors and arrays, imports."""

from __future__ import annotations

import enum
import functools
import math
import types
import typing
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from esen_lab.ensemble.origin import import_path, is_importable
from esen_lab.ensemble.source.names import BUILTINS
from esen_lab.errors import UsageError

_MOST_ELEMENTS = 1000
_LITERAL_DTYPES = frozenset(
    {"bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64"}
)


class Literals:
    """Writes values.

    Args:
        imports: Import line -> module; what the texts need is added.
        define: Called with a class or function of the notebook and who uses it, gives its name in the text.
    """

    def __init__(self, imports: dict[str, str], define: Callable[[Any, str], str]) -> None:
        self._imports = imports
        self._define = define
        self._aliases: dict[str, str] = {}

    def text_of(self, value: Any, name: str, user: str, needs: list[str]) -> str:  # noqa: C901, PLR0912  one line per kind of value
        """Python text that makes `value` again.

        Args:
            value: What `name` holds.
            name: What messages call it.
            user: Who uses it, for messages.
            needs: Names that the text refers to are added here.

        Raises:
            UsageError: It is none of the kinds that can be written.
        """

        def inner(part: Any) -> str:
            return self.text_of(part, name, user, needs)

        kind = type(value)
        if value is None or kind in (bool, int, str, bytes, range, slice, type(...)):
            return repr(value)
        if kind is float:
            return repr(value) if math.isfinite(value) else f"float({str(value)!r})"
        if kind is complex:
            return f"complex({inner(value.real)}, {inner(value.imag)})"
        if kind in (tuple, list, set, frozenset):
            items = [inner(item) for item in value]
            if kind is tuple:
                return f"({', '.join(items)}{',' if len(items) == 1 else ''})"
            if kind is list:
                return f"[{', '.join(items)}]"
            return f"{kind.__name__}([{', '.join(sorted(items))}])"
        if kind in (dict, OrderedDict):
            pairs = ", ".join(f"{inner(key)}: {inner(item)}" for key, item in value.items())
            return f"{{{pairs}}}" if kind is dict else f"{self._alias('collections', 'OrderedDict')}({{{pairs}}})"
        if isinstance(value, enum.Enum):
            return f"{inner(kind)}[{value.name!r}]"
        if kind is functools.partial:
            parts = [inner(value.func), *map(inner, value.args)]
            parts += [f"{key}={inner(item)}" for key, item in value.keywords.items()]
            return f"{self._alias('functools', 'partial')}({', '.join(parts)})"
        if isinstance(value, types.ModuleType):
            if not is_importable(value):
                raise UsageError(f"A module that {user} uses can be imported elsewhere", given=value.__name__)
            return self._alias(value.__name__, "")
        foreign = self._foreign(value, inner)
        if foreign:
            return foreign
        path = import_path(value)
        if path:
            module, _, attribute = path.partition(":")
            first, *rest = attribute.split(".")
            return ".".join([self._alias(module, first), *rest])
        if is_definition(value):
            own = self._define(value, user)
            needs.append(own)
            return own
        raise UsageError(
            f"What {user} uses can be written as source: plain values, imports, classes and functions of the notebook",
            given=f"{name}, of type {kind.__module__}.{kind.__qualname__}",
            hint="Pass it as an argument and keep it inside the module (a tensor as a buffer), or make it in a module.",
        )

    def _foreign(self, value: Any, inner: Any) -> str:
        """Small values of torch and numpy, without importing either here."""
        kind = type(value)
        root = kind.__module__.partition(".")[0]
        if root == "torch":
            if kind.__name__ in ("dtype", "layout", "memory_format"):
                return self._alias("torch", str(value).removeprefix("torch."))
            if kind.__name__ == "device":
                return f"{self._alias('torch', 'device')}({str(value)!r})"
            if kind.__name__ == "Size":
                return f"{self._alias('torch', 'Size')}({list(value)!r})"
            if kind.__name__ == "Tensor" and value.device.type == "cpu" and value.numel() <= _MOST_ELEMENTS:
                dtype = str(value.dtype).removeprefix("torch.")
                if dtype in _LITERAL_DTYPES:
                    called = self._alias("torch", "tensor")
                    return f"{called}({inner(value.tolist())}, dtype={self._alias('torch', dtype)})"
        array = root == "numpy" and hasattr(value, "dtype") and value.dtype.kind in "biuf"
        if array and value.size <= _MOST_ELEMENTS and value.dtype.itemsize <= 8:
            made = f"{self._alias('numpy', 'array')}({inner(value.tolist())}, dtype={value.dtype.str!r})"
            return made if kind.__name__ == "ndarray" else f"{made}[()]"
        return ""

    def _alias(self, module: str, attribute: str) -> str:
        """A name of our own for something imported, that no name of the notebook can hide."""
        alias = self._aliases.setdefault(
            f"{module}:{attribute}", f"_kept_{len(self._aliases)}_{attribute or module.rpartition('.')[2]}"
        )
        line = f"from {module} import {attribute} as {alias}" if attribute else f"import {module} as {alias}"
        if module == "builtins" and attribute not in BUILTINS:
            return attribute
        self._imports[line] = module
        return alias


def is_definition(thing: Any) -> bool:
    """Whether `thing` is what class, def, lambda or a typing statement makes."""
    return (
        isinstance(thing, (type, types.FunctionType, typing.TypeVar, types.GenericAlias, types.UnionType))
        or hasattr(thing, "__wrapped__")
        or type(thing).__module__ == "typing"
    )
