"""What an export needs elsewhere besides its own files, said when it is written."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from esen_lab.common.units import format_switch
from esen_lab.common.words import some_of
from esen_lab.ensemble.origin import installed_folders, version_of
from esen_lab.export.bundle_layout import MANIFEST

_MOST_NAMED = 6


def notes_on_switches(switches: Mapping[str, Any], *, set_there: bool = True) -> tuple[str, ...]:
    """That the session has set these, and whether they are set wherever the export runs."""
    if not switches:
        return ()
    listed = ", ".join(f"{name} {format_switch(value)}" for name, value in switches.items())
    if set_there:
        return (f"It runs under what this session has set now: {listed}.",)
    return (f"This session has set what the server does not: {listed}. Its answers may differ from those here.",)


def notes_on_own_modules(files: Mapping[str, bytes], beside: Path | None = None) -> tuple[str, ...]:
    """Which modules of the user's own are imported where the export runs; they are not carried.

    Args:
        files: The content of the bundle's files, by name.
        beside: A folder whose modules are found there, such as the script's own.
    """
    found = {root: place for root in sorted(roots_of(files)) if (place := _own_place(root)) is not None}
    found = {root: place for root, place in found.items() if place.parent != beside}
    if not found:
        return ()
    listed = some_of([f"{root} ({place})" for root, place in found.items()], _MOST_NAMED)
    return (
        f"It imports what is no installed package: {listed}. Put it beside what runs the export, or its folder "
        "on PYTHONPATH there.",
    )


def roots_of(files: Mapping[str, bytes]) -> set[str]:
    """The top-level modules that the sources, saved trees and pickles of a bundle name."""
    names: set[str] = set()
    pickles = [data for name, data in files.items() if name.endswith(".pkl")]
    for path, data in files.items():
        name = path.rpartition("/")[2]
        if name.endswith(".py"):
            names.update(_imported_by(data))
        elif name.endswith(".json") and name != "plan.json":
            names.update(_named_in(json.loads(data), whole=name == MANIFEST))
    roots = {name.partition(".")[0] for name in names}
    if pickles:
        roots |= {root for root in {name.partition(".")[0] for name in sys.modules} if _in_pickles(root, pickles)}
    return roots


def _imported_by(source: bytes) -> Iterator[str]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # a cell may hold what only IPython reads
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def _named_in(data: Any, *, whole: bool) -> Iterator[str]:
    """Modules in a manifest (`whole`: its "path" and "modules", and rules by path) or in a saved tree of a module."""
    todo = [data]
    while todo:
        here = todo.pop()
        if isinstance(here, list):
            if len(here) == 2 and here[0] == "import" and isinstance(here[1], str):
                yield here[1].partition(":")[0]
            todo += here
        elif isinstance(here, dict):
            if whole:
                yield from (str(here[key]).partition(":")[0] for key in ("path", "rule") if ":" in str(here.get(key)))
            modules = here.get("modules")
            yield from map(str, modules if isinstance(modules, list) else ())
            todo += here.values()


def _in_pickles(root: str, pickles: list[bytes]) -> bool:
    """Whether a pickle names a module, as its opcodes for names and texts do."""
    name = root.encode()
    sized = bytes([0x8C, len(name)]) if len(name) < 256 else b"\x8c"
    return any(sized + name in data or b"c" + name + b"\n" in data or sized[:1] + name in data for data in pickles)


def _own_place(root: str) -> Path | None:
    """Where a module of the user's own lies, its file or its folder; None where it is installed or not known here."""
    module = sys.modules.get(root)
    try:
        spec = getattr(module, "__spec__", None) or find_spec(root)
    except (ImportError, ValueError):
        return None
    if spec is None or root == "__main__" or spec.origin in ("built-in", "frozen"):
        return None
    places = [*(spec.submodule_search_locations or ()), spec.origin]
    place = places[0]
    if not place or f"{place}/".startswith(installed_folders()) or version_of(root):
        return None
    return Path(place)
