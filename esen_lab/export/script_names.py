"""Whether a script may be called so: Python looks for modules in a script's folder first, and would find the script."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from esen_lab.ensemble.origin import installed_folders
from esen_lab.errors import UsageError
from esen_lab.export.elsewhere import roots_of

_IMPORTED_BY_NOBODY = frozenset({"antigravity", "idlelib", "test", "this", "turtle", "turtledemo"})


def check_name(script: Path, files: Mapping[str, bytes]) -> None:
    """Refuse a script that would be taken for a module which it needs.

    Args:
        script: The script.
        files: The content of its bundle's files, by name.

    Raises:
        UsageError: It is called like one.
    """
    name = script.stem
    if _is_standard(name) or _is_installed(name) or name in roots_of(files):
        raise UsageError(
            "A script is not called like a module that it may import: Python would find the script in its place",
            given=f"{script.name!r}, like the module {name}",
            hint=f"Choose another name, such as 'run_{name}.py'.",
        )


def _is_standard(name: str) -> bool:
    return name in sys.stdlib_module_names and name not in _IMPORTED_BY_NOBODY


def _is_installed(name: str) -> bool:
    if not name.isidentifier():
        return False
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):  # somebody's finder forbids it, or a stand-in has no spec
        return False
    places = () if spec is None else (spec.origin or "", *(spec.submodule_search_locations or ()))
    return any(f"{place}/".startswith(installed_folders()) for place in places)
