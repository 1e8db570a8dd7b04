"""The exported script: the same few lines for every plan. What differs lies in the folder beside it."""

from __future__ import annotations

import keyword
import re
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from esen_lab.ensemble.origin import installed_folders
from esen_lab.errors import UsageError
from esen_lab.export.elsewhere import roots_of

MARK = "# Written by esen_lab; it is replaced when the plan is exported again."

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")

_TEMPLATE = '''\
#!/usr/bin/env python3
{mark}
"""Runs an ensemble of networks by a plan that was found before.

    python {usage} --input x.npy --output y.npy --repeat 100
    python {usage} --help

or from Python: `{imported}`, then `with load() as ensemble: y = ensemble(x)`.
It needs torch, numpy, esen_lab, the folder beside it, and what the sub-models import.
The folder holds code as well: it runs while it is the one that was written with this script. Files that were changed
since are shown, and run only with --trust, or load(trust=True).
"""

import sys
from functools import partial
from pathlib import Path

from esen_lab.devices import open_device
from esen_lab.export import Running, open_bundle, run_command
from esen_lab.run import Executor, Switched
from esen_lab.lanes import ForkServer

FILES = Path(__file__).resolve().parent / {folder}
DIGEST = {digest}  # of what lies there
DEVICE = {device}


def load(device=None, trust=False):
    """Start the lanes of the plan: a context manager that is called with an input and returns the answer."""
    found = open_bundle(FILES, trust=trust, digest=DIGEST)
    chosen = open_device(device or DEVICE)
    start = partial(Executor.start, graphs=found.graphs, exported_under=found.switches)
    under = Switched(found.switches)  # of torch, as the notebook had them
    return Running.start(found.plan, found.ensemble, chosen, fork_server=ForkServer(), start=start, under=under)


if __name__ == "__main__":
    sys.exit(run_command(load))
'''


def script_text(*, stem: str, folder: str, device: str | None, digest: str = "") -> str:
    """The script.

    Args:
        stem: Its file name without ".py".
        folder: The name of the folder beside it.
        device: The name of the device it opens, or None for the best one.
        digest: What `content_digest` gave for the folder's files; "" vouches for none.
    """
    # These two places are only read by people; a name that would end the text, or a word of a shell, stays out.
    usage = f"{stem}.py" if _PLAIN.fullmatch(stem) or stem.isidentifier() else "THIS_SCRIPT.py"
    imported = f"from {stem} import load"
    if not stem.isidentifier() or keyword.iskeyword(stem):
        imported = f"import runpy; load = runpy.run_path('{usage}')['load']"
    written = {"folder": ascii(folder), "device": ascii(device), "digest": ascii(digest)}
    return _TEMPLATE.format(mark=MARK, usage=usage, imported=imported, **written)


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
