"""Tables of text that fit into a terminal: cells wrap; where that does not do, each row becomes a short list."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Sequence

LEAST = 10  # columns of a cell that wraps
GAP = 2


def width_of(text: str) -> int:
    """How many columns a text takes: letters of East Asian scripts and most emoji take two."""
    return len(text) if text.isascii() else sum(map(_width_of_one, text))


def _width_of_one(letter: str) -> int:
    if unicodedata.category(letter) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def longest_word(text: str) -> int:
    """How many columns the longest word of a text takes."""
    return max(map(width_of, text.split()), default=0)


def beginning(text: str, columns: int) -> str:
    """As much of the beginning of a text as so many columns hold."""
    taken = 0
    for place, letter in enumerate(text):
        taken += _width_of_one(letter)
        if taken > columns:
            return text[:place]
    return text


def padded(text: str, columns: int, *, right: bool = False) -> str:
    """A text with spaces up to so many columns behind it, or before it."""
    room = " " * max(0, columns - width_of(text))
    return room + text if right else text + room


def wrap(text: str, columns: int, indent: str = "", *, break_on_hyphens: bool = True) -> list[str]:
    """The words of a text as lines of at most so many columns, each behind an indent; none of nothing."""
    if width_of(text) == len(text):
        return textwrap.wrap(
            text, columns, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=break_on_hyphens
        )
    room = max(2, columns - width_of(indent))  # a wide letter is never parted
    lines: list[str] = []
    line = ""
    for word in text.split():
        joined = f"{line} {word}" if line else word
        if width_of(joined) <= room:
            line = joined
            continue
        if line:
            lines.append(line)
        line = word
        while width_of(line) > room:
            lines.append(beginning(line, room))
            line = line[len(lines[-1]) :]
    return [indent + line for line in (*lines, line) if line]


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
    widths = [max(1, *(width_of(row[place]) for row in rows)) for place in range(len(numbers))]
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
    return [[_wrapped_cell(cell, width) for cell, width in zip(row, widths, strict=True)] for row in rows]


def _wrapped_cell(cell: str, width: int) -> str:
    return cell.rstrip() if width_of(cell) <= width else "\n".join(wrap(cell, width) or [""])  # most cells fit


def _least_of_numbers(cells: Sequence[str]) -> int:
    """The room that a column of numbers needs: each whole, and the words of its heading."""
    return max(1, *(width_of(word) for word in re.split(r"(?<=-)|\s", cells[0])), *map(width_of, cells[1:]))


def side_by_side(row: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> list[str]:
    """The lines of one row of cells that may have several."""
    cells = [cell.split("\n") for cell in row]
    lines = []
    for at in range(max(map(len, cells))):
        now = [cell[at] if at < len(cell) else "" for cell in cells]
        parts = [padded(part, width, right=to_right) for part, width, to_right in zip(now, widths, right, strict=True)]
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
    return wrap(text, max(columns, 20), indent, break_on_hyphens=False) or [indent]


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
    widths = [max(width_of(line) for row in found for line in row[at].split("\n")) for at in range(len(right))]
    lines = [line for row in found[:1] for line in side_by_side(row, widths, right)]
    if ruled:
        lines.append((" " * GAP).join("-" * width for width in widths))
    return lines + [line for row in found[1:] for line in side_by_side(row, widths, right)]
