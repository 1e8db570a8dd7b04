"""The few names, checks and number formats used everywhere.

Inside the package there is one unit each: seconds for time, bytes for memory, integer device units for shares. They
are converted here, once, at the edge where people read them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from esen_lab.errors import UsageError

MECHANISMS = ("eager", "compile", "graph")
"""How a sub-model is executed: as PyTorch does it, by `torch.compile`, or as a CUDA graph."""
NAME_RULE = "A name starts with a letter or underscore and goes on with letters, digits, '_', '-' or '.', 64 at most"
_TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
_SIZES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))
_NAME = re.compile(r"[^\W\d][\w.-]{0,63}\Z")


def check_name(name: object, what: str = "sub-model") -> str:
    """Return `name` when it may name a `what`, else raise `UsageError`.

    Names appear in tables, file names, generated scripts and magic lines, so quotes, spaces, slashes and line breaks
    are refused at the door.
    """
    if not isinstance(name, str) or not _NAME.match(name):
        raise UsageError(f"{NAME_RULE}", given=f"{what} name {name!r}", hint="Choose another name.")
    return name


def check_units(units: object, of_units: int, what: str = "a share") -> int:
    """Return `units` when it is an integer share in 1..of_units, else raise `UsageError`."""
    if isinstance(units, bool) or not isinstance(units, int):
        raise UsageError(f"{what} is a whole number of units", given=units)
    if not 1 <= units <= of_units:
        raise UsageError(f"{what} lies between 1 and {of_units} units, all the device has", given=f"{units}")
    return units


def format_seconds(seconds: float | None) -> str:
    """A duration for people with three significant digits ("1.23 ms"); "-" when it is absent."""
    if seconds is None or math.isnan(seconds):
        return "-"
    if math.isinf(seconds):
        return "never"
    scale, unit = next((pair for pair in _TIMES if abs(seconds) >= pair[0]), _TIMES[-1])
    value = seconds / scale
    decimals = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{decimals}f} {unit}"


def format_bytes(size: int | None) -> str:
    """A size for people ("12.3 MB", powers of 1000); "-" when it is absent."""
    if size is None:
        return "-"
    scale, unit = next((pair for pair in _SIZES if abs(size) >= pair[0]), _SIZES[-1])
    return f"{size} B" if scale == 1 else f"{size / scale:.1f} {unit}"


def format_units(units: int, unit: str) -> str:
    """A share in words: "1 core", "3 cores", "30 %"."""
    return f"{units} {unit}" if units == 1 or unit.endswith("%") else f"{units} {unit}s"


def format_percent(ratio: float | None, *, signed: bool = False) -> str:
    """A ratio as a percentage with one decimal ("3.2 %"); "-" when it is absent."""
    if ratio is None or math.isnan(ratio):
        return "-"
    return f"{100 * ratio:+.1f} %" if signed else f"{100 * ratio:.1f} %"


def format_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells in columns for a terminal, headings first; the first column stands to the left, the others to the right."""
    lines = [columns, *rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
