"""Plain rows -> HTML and its text twin.

Theme-neutral: nothing sets a text or page colour, tables take the notebook's own style, bars carry the Okabe-Ito
palette, which colour-blind people can tell apart. Without styles (GitHub strips them) tables and text remain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from esen_lab.notebook.scatter import Scatter, scatter_svg
from esen_lab.notebook.views import Block, Progress, Segment, Table, Timeline, View
from esen_lab.units import format_seconds

PALETTE = ("#56B4E9", "#E69F00", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#0072B2", "#999999")
BAR_COLUMNS = 60  # of a text timeline
_LANE_PX, _LABEL_PX, _WIDTH_PX = 22, 90, 640


def bundle(view: View) -> dict[str, str]:
    """Both forms, keyed by MIME type."""
    return {"text/html": to_html(view), "text/plain": to_text(view)}


def to_html(view: View) -> str:
    """The view as one small HTML fragment; every text in it is escaped."""
    parts = [f"<b>{_code(view.title)}</b>"] if view.title else []
    parts += [_html_block(block) for block in view.blocks]
    parts += [f"<div>{_code(note)}</div>" for note in view.notes]
    return f"<div class='esen'>{''.join(parts)}</div>"


def to_text(view: View) -> str:
    """The view as lines of text for a terminal."""
    parts = [view.title] if view.title else []
    parts += [text for text in map(_text_block, view.blocks) if text]
    parts += [note.replace("`", "") for note in view.notes]
    return "\n".join(parts)


def _code(text: str) -> str:
    # `like this` is code in both forms of a remark.
    pieces = text.split("`")
    if len(pieces) % 2 == 0:
        return escape(text)
    return "".join(f"<code>{escape(p)}</code>" if i % 2 else escape(p) for i, p in enumerate(pieces))


def _html_block(block: Block) -> str:
    if isinstance(block, Table):
        return _html_table(block)
    if isinstance(block, Timeline):
        return _svg(block)
    if isinstance(block, Scatter):
        return scatter_svg(block)
    if isinstance(block, Progress):
        return (
            f"<div><progress max='{max(block.total, 1)}' value='{block.done}' style='width:20em'></progress> "
            f"{escape(block.words)}</div>"
        )
    if not block.text:
        return f"<div>{escape(block.summary)}</div>"
    if block.unfolded:
        return f"<pre>{escape(block.text)}</pre>"
    return f"<details><summary>{escape(block.summary)}</summary><pre>{escape(block.text)}</pre></details>"


def _html_table(table: Table) -> str:
    if not table.rows:
        return ""
    aligned = _aligned(table)
    rows = [_html_row("th", table.columns, aligned)] if table.columns else []
    rows += [_html_row("td", row, aligned) for row in table.rows]
    return f"<table>{''.join(rows)}</table>"


def _html_row(tag: str, cells: Sequence[str], right: Sequence[bool]) -> str:
    return (
        "<tr>"
        + "".join(
            f"<{tag} style='text-align:{'right' if r else 'left'}'>{escape(cell)}</{tag}>"
            for cell, r in zip(cells, right, strict=True)
        )
        + "</tr>"
    )


def _aligned(table: Table) -> list[bool]:
    if not table.columns:
        return [False] * len(table.rows[0])
    return [column in table.numbers for column in table.columns]


def _svg(timeline: Timeline) -> str:
    height = _LANE_PX * len(timeline.lanes) + 18
    colours = _colours(timeline)
    scale = (_WIDTH_PX - _LABEL_PX - 2) / max(timeline.total_s, 1e-12)
    parts = []
    for place, (label, segments) in enumerate(timeline.lanes):
        top = place * _LANE_PX
        parts.append(f"<text x='0' y='{top + 15}' fill='currentColor'>{escape(label)}</text>")
        parts.extend(_bar(segment, top, scale, colours[segment.name]) for segment in segments)
    axis = _LANE_PX * len(timeline.lanes)
    parts.append(
        f"<line x1='{_LABEL_PX}' x2='{_WIDTH_PX}' y1='{axis + 1}' y2='{axis + 1}' stroke='currentColor'/>"
        f"<text x='{_LABEL_PX}' y='{axis + 14}' fill='currentColor'>0</text>"
        f"<text x='{_WIDTH_PX}' y='{axis + 14}' fill='currentColor' text-anchor='end'>"
        f"{escape(format_seconds(timeline.total_s))}</text>"
    )
    return (
        f"<svg role='img' aria-label='timeline of the run' viewBox='0 0 {_WIDTH_PX} {height}' width='{_WIDTH_PX}' "
        f"style='max-width:100%;display:block' font-size='12' font-family='sans-serif'>{''.join(parts)}</svg>"
    )


def _bar(segment: Segment, top: int, scale: float, colour: str) -> str:
    left = _LABEL_PX + segment.start_s * scale
    width = max((segment.end_s - segment.start_s) * scale, 1.0)
    label = f"{segment.name} {format_seconds(segment.end_s - segment.start_s)}"
    fits = next((text for text in (label, segment.name) if 7 * len(text) < width), "")
    return (
        f"<g><title>{escape(label)}</title>"
        f"<rect x='{left:.1f}' y='{top + 2}' width='{width:.1f}' height='{_LANE_PX - 4}' fill='{colour}'/>"
        # Black on every colour of the palette, whatever the theme.
        + (f"<text x='{left + 3:.1f}' y='{top + 15}' fill='#000'>{escape(fits)}</text>" if fits else "")
        + "</g>"
    )


def _colours(timeline: Timeline) -> Mapping[str, str]:
    names = dict.fromkeys(segment.name for _, segments in timeline.lanes for segment in segments)
    return {name: PALETTE[place % len(PALETTE)] for place, name in enumerate(names)}


def _text_block(block: Block) -> str:
    if isinstance(block, Table):
        return _text_table(block)
    if isinstance(block, Timeline):
        return _text_timeline(block)
    if isinstance(block, Scatter):
        return ""  # its table says the same
    if isinstance(block, Progress):
        filled = round(20 * block.done / max(block.total, 1))
        return f"[{'#' * filled}{'.' * (20 - filled)}] {block.words}"
    if block.unfolded or not block.text:
        return block.text or block.summary
    return block.summary + "\n" + "\n".join(f"    {line}" for line in block.text.splitlines())


def _text_table(table: Table) -> str:
    if not table.rows:
        return ""
    rows: list[Sequence[str]] = [*([table.columns] if table.columns else []), *table.rows]
    right = _aligned(table)
    widths = [max(len(row[place]) for row in rows) for place in range(len(right))]
    lines = ["  ".join(_pad(*cell) for cell in zip(row, widths, right, strict=True)).rstrip() for row in rows]
    if table.columns:
        lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(f"  {line}" for line in lines)


def _pad(cell: str, width: int, right: bool) -> str:
    return cell.rjust(width) if right else cell.ljust(width)


def _text_timeline(timeline: Timeline) -> str:
    scale = BAR_COLUMNS / max(timeline.total_s, 1e-12)
    width = max((len(label) for label, _ in timeline.lanes), default=0)
    lines = []
    for label, segments in timeline.lanes:
        cells = [" "] * BAR_COLUMNS
        for segment in sorted(segments, key=lambda s: s.start_s):
            first = min(max(round(segment.start_s * scale), 0), BAR_COLUMNS - 1)
            last = min(max(round(segment.end_s * scale), first + 1), BAR_COLUMNS)
            cells[first:last] = _text_bar(segment.name, last - first)
        lines.append(f"  {label.ljust(width)} |{''.join(cells)}|")
    end = format_seconds(timeline.total_s)
    lines.append(f"  {' ' * width}  0{end.rjust(BAR_COLUMNS - 1)}")
    return "\n".join(lines)


def _text_bar(name: str, width: int) -> str:
    if width < 3:
        return "#" * width
    return f"[{name[: width - 2].center(width - 2, '=')}]"


def formatters(draw: Any) -> tuple[Any, Any]:
    """A pair of IPython formatter functions (HTML, text) for a record that `draw` turns into a view."""

    def as_html(record: object) -> str:
        return to_html(draw(record))

    def as_text(record: object, printer: Any, cycle: bool) -> None:
        printer.text(to_text(draw(record)) if not cycle else "...")

    return as_html, as_text
