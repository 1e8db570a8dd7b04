"""What a Python that this process starts is given: it must find this very package, and run code as this one does."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PACKAGE_FOLDER = str(Path(__file__).parents[2])
# Where modules are looked for is said by the environment and by `-P`; the others would fill the child's log.
_NOT_HANDED_DOWN = frozenset(("-I", "-E", "-S", "-s", "-P", "-i", "-q", "-d"))


def child_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """A copy of `environment` (None: this process's) in which the package's folder is on PYTHONPATH.

    Else the child would import another one that is installed, or none where this one is only on `sys.path`.
    """
    given = dict(os.environ if environment is None else environment)
    given["PYTHONPATH"] = os.pathsep.join(filter(None, [given.get("PYTHONPATH"), PACKAGE_FOLDER]))
    return given


def interpreter_flags() -> list[str]:
    """How this Python was started, as far as it changes what code does: `-O`, `-W`, `-X`, `-b`, `-B`.

    A child without them would run asserts that are off here, and raise or hide other warnings.
    """
    known: Any = getattr(subprocess, "_args_from_interpreter_flags", list)  # what multiprocessing starts children with
    return [flag for flag in known() if flag not in _NOT_HANDED_DOWN and not flag.startswith("-v")]
