"""The environment of a Python that this process starts and that must find this very package."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

PACKAGE_FOLDER = str(Path(__file__).parents[2])


def child_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """A copy of `environment` (None: this process's) in which the package's folder is on PYTHONPATH.

    Else the child would import another one that is installed, or none where this one is only on `sys.path`.
    """
    given = dict(os.environ if environment is None else environment)
    given["PYTHONPATH"] = os.pathsep.join(filter(None, [given.get("PYTHONPATH"), PACKAGE_FOLDER]))
    return given
