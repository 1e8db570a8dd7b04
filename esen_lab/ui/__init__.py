"""What a notebook shows: magics, rich display, progress. Parses, calls one `Lab` method, displays; decides nothing.

session.py     what one notebook has open: its lab, its live displays
magics/        what is typed: the extension, the table of verbs, arguments, completion
views/         records -> plain rows
html.py        plain rows -> HTML and its text twin
markup.py      the one door through which text gets into HTML and SVG
pictures/      plain rows -> static SVG
widgets/       what moves in a page: board, sliders, live plots, progress
anywhere.py    board and live plots from Python, also where there are no magics
panel/         the kernel's side of the JupyterLab panel
"""

from __future__ import annotations

from typing import Any


def load(shell: Any) -> None:
    """Register magics, completion and rich display with an IPython shell. Loading twice is loading once.

    Neither torch nor the lab is imported before the first verb needs them.
    """
    from esen_lab.ui.magics.magics import install

    install(shell)


def unload(shell: Any) -> None:
    """Undo all that `load` did, end its threads and close the lab that the magics made. Harmless when not loaded."""
    from esen_lab.ui.magics.magics import uninstall

    uninstall(shell)
