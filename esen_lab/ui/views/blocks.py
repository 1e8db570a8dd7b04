"""The blocks of a view (tables, progress bars, folded text), and the text of their cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from esen_lab.common.units import format_seconds, format_units
from esen_lab.ui.pictures.rows import Picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of cells.

    Attributes:
        columns: Headings; empty for a list of facts (label, value).
        rows: One cell per column.
        numbers: The headings whose cells are numbers, and stand to the right.
        wide: The headings of columns that pages have room for and text has not.
        below: What text has below the table instead, a line each.
    """

    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    numbers: tuple[str, ...] = ()
    wide: tuple[str, ...] = ()
    below: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A bar: `done` of `total`, and words beside it."""

    done: int
    total: int
    words: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """Long text behind one line: folded where folding is possible, unless it is what was asked for."""

    summary: str
    text: str
    unfolded: bool = False


Block: TypeAlias = Table | Picture | Progress | Details


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Everything shown for one thing.

    Attributes:
        title: A heading.
        blocks: Tables, pictures and such, in order.
        notes: Remarks.
        figures: Whether there may be times among it, which a simulated device makes up; help has none.
    """

    title: str = ""
    blocks: tuple[Block, ...] = ()
    notes: tuple[str, ...] = ()
    figures: bool = True


def facts(*pairs: tuple[str, str]) -> Table:
    """A list of label and value; pairs without a value are left out."""
    return Table(rows=tuple(pair for pair in pairs if pair[1]))


def share(units: int, of_units: int, unit: str = "unit") -> str:
    """A share in units and in percent: "2 cores (50 %)"."""
    return f"{format_units(units, unit)} ({100 * units / of_units:.0f} %)"


def one_line(text: object) -> str:
    """Text without line breaks."""
    return " ".join(str(text).split())


def given_s(seconds: float | None) -> str:
    """A duration where there is one, else nothing."""
    return "" if seconds is None else format_seconds(seconds)


def ratio_text(value: float | None) -> str:
    """A ratio such as "1.50×"; "-" where there is none."""
    return "-" if value is None else f"{value:.2f}×"


def device_text(identity: Mapping[str, Any]) -> str:
    """A device's identity in one line."""
    if not identity:
        return ""
    units, unit = identity.get("units"), identity.get("unit", "unit")
    size = f", {format_units(units, str(unit))}" if isinstance(units, int) else ""
    label = f"{identity.get('kind', '')}: {identity.get('name', '')}{size}"
    return f"{label} (simulated)" if identity.get("simulated") else label
