"""What a callable is: a factory of networks, or something that answers to an input itself. Loads no torch."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any


def name_of(function: Any) -> str:
    """What a callable is called."""
    return str(getattr(function, "__name__", "") or type(function).__name__)


def is_function(source: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a callable answers to an input, and is no factory: whether it has to be given something.

    A class is a factory, and so is what is given arguments.
    """
    if isinstance(source, type) or args or kwargs or not callable(source):
        return False
    try:
        inspect.signature(source).bind()
    except TypeError:
        return True
    except ValueError:  # written in C, and does not say
        return True
    return False


def takes_anything(source: Any) -> bool:
    """Whether a callable leaves open what it is given, so that its signature does not tell what it is."""
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    try:
        parameters = inspect.signature(source).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(parameter.kind in kinds for parameter in parameters)


def has_arrays(example: Any) -> bool:
    """Whether an example is given as arrays of NumPy."""
    if isinstance(example, Mapping):
        return any(map(has_arrays, example.values()))
    if isinstance(example, (tuple, list)):
        return any(map(has_arrays, example))
    return type(example).__module__ == "numpy"
