"""What a notebook shows: magics, rich display, progress. Parses, calls one `Lab` method, displays; decides nothing.

magics.py      the extension itself: the only file that imports IPython
verbs.py       the table of verbs, one small function each
line.py        a magic's line -> words -> values, with one-line errors
session.py     what one notebook has open: its lab, its live displays
completion.py  what the tab key offers
progress.py    the one thread that keeps live displays current
views/         records -> plain rows
html.py        plain rows -> HTML and its text twin
pictures/      plain rows -> static SVG
tuning_verbs.py  what `%esen share` and `%esen tune` understand
panels.py      the sliders of `%esen tune`: the only file that imports ipywidgets
"""

from __future__ import annotations

from typing import Any


def load(shell: Any) -> None:
    """Register magics, completion and rich display with an IPython shell. Loading twice is loading once.

    Neither torch nor the lab is imported before the first verb needs them.
    """
    from esen_lab.notebook.magics import install

    install(shell)


def unload(shell: Any) -> None:
    """Undo all that `load` did, end its threads and close the lab that the magics made. Harmless when not loaded."""
    from esen_lab.notebook.magics import uninstall

    uninstall(shell)
