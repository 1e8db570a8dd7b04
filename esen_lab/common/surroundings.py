"""Where somebody reads what is said, and so what can be done there: every next step is worded here.

In a notebook or an IPython terminal that has loaded the extension it is a magic; in marimo, in a script, in a session
without the extension and in a lane's process it is Python.
"""

from __future__ import annotations

import sys

MAGIC = "esen"


def magics_here() -> bool:
    """Whether `%esen` can be typed in this process. Imports nothing: without IPython there is no shell to ask."""
    ask = getattr(sys.modules.get("IPython"), "get_ipython", None)
    manager = getattr(ask() if callable(ask) else None, "magics_manager", None)
    return MAGIC in getattr(manager, "magics", {}).get("line", {})


def step(python: str, magic: str) -> str:
    """What to do next, in the words of the surroundings.

    Args:
        python: The step in Python, such as "lab.search()".
        magic: The same as a magic, such as "%esen search".
    """
    return magic if magics_here() else python


def model_cell(name: str = "NAME") -> str:
    """Where a sub-model is built so that its source is kept, as the end of a sentence: "Build it ..."."""
    return step("by a function of a module ('package.module:build')", f"in a %%esen model {name} cell")
