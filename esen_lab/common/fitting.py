"""Tables of text that fit into a terminal: cells wrap; where that does not do, each row becomes a short list."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Sequence

LEAST = 10  # columns of a cell that wraps
GAP = 2


def terminal_columns() -> int | None:
    """How wide the terminal is that text goes to; None where it goes to none, such as a notebook or a file."""
    out = sys.stdout
    try:
        return shutil.get_terminal_size().columns if out is not None and out.isatty() else None
    except (OSError, ValueError):  # closed, or detached
        return None


def fitted(rows: Sequence[Sequence[str]], numbers: Sequence[bool], columns: int | None) -> list[list[str]] | None:
    """Rows whose cells are wrapped so that all stand side by side, each cell's lines joined by line breaks.

    Args:
        rows: Cells, the headings first; each row as long as `numbers`.
        numbers: Which columns hold numbers: of those only the headings are wrapped.
        columns: How wide the table may be; None: as wide as it is.

    Returns:
        The rows; None where they do not fit, however they are wrapped.
    """
    widths = [max(1, *(len(row[place]) for row in rows)) for place in range(len(numbers))]
    if columns is None:
        return [list(row) for row in rows]
    room = columns - GAP * (len(widths) - 1)
    least = [
        _least_of_numbers([row[place] for row in rows]) if number else max(min(widths[place], LEAST), 1)
        for place, number in enumerate(numbers)
    ]
    if sum(least) > room:
        return None
    while sum(widths) > room:
        widest = max((at for at, low in enumerate(least) if widths[at] > low), key=lambda at: widths[at])
        widths[widest] -= 1
    return [
        ["\n".join(textwrap.wrap(cell, width) or [""]) for cell, width in zip(row, widths, strict=True)] for row in rows
    ]


def _least_of_numbers(cells: Sequence[str]) -> int:
    """The room that a column of numbers needs: each whole, and the words of its heading."""
    return max(1, *(len(word) for word in re.split(r"(?<=-)|\s", cells[0])), *map(len, cells[1:]))


def side_by_side(row: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> list[str]:
    """The lines of one row of cells that may have several."""
    cells = [cell.split("\n") for cell in row]
    lines = []
    for at in range(max(map(len, cells))):
        now = [cell[at] if at < len(cell) else "" for cell in cells]
        parts = [
            part.rjust(width) if to_right else part.ljust(width)
            for part, width, to_right in zip(now, widths, right, strict=True)
        ]
        lines.append((" " * GAP).join(parts).rstrip())
    return lines


def stacked(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Each row as its first cell, and below it what the other columns say of it."""
    lines = []
    for row in rows:
        lines += wrapped(row[0], width)
        for name, cell in zip(columns[1:], row[1:], strict=True):
            if cell and cell != "-":
                lines += wrapped(f"{name}: {cell}" if name else cell, width, indent="    ")
    return lines


def wrapped(text: str, columns: int | None, indent: str = "") -> list[str]:
    """A line of text as lines of at most so many columns; None: as it is."""
    if columns is None:
        return [indent + text]
    lines = textwrap.wrap(
        text, max(columns, 20), initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )
    return lines or [indent]


def table_lines(rows: Sequence[Sequence[str]], right: Sequence[bool], columns: int | None, *, ruled: bool) -> list[str]:
    """A table for a terminal of so many columns.

    Args:
        rows: Cells; the first row holds headings where `ruled`.
        right: Which columns stand to the right: numbers, which are not wrapped.
        columns: How wide it may be; None: as wide as it is.
        ruled: Whether the first row is headings, with a rule below.
    """
    found = fitted(rows, right, columns)
    if found is None:
        assert columns is not None  # without a limit everything fits
        heads = rows[0] if ruled else ("",) * len(right)
        return stacked(heads, rows[1:] if ruled else rows, columns)
    widths = [max(len(line) for row in found for line in row[at].split("\n")) for at in range(len(right))]
    lines = [line for row in found[:1] for line in side_by_side(row, widths, right)]
    if ruled:
        lines.append((" " * GAP).join("-" * width for width in widths))
    return lines + [line for row in found[1:] for line in side_by_side(row, widths, right)]
