"""Plain rows -> HTML and its text twin.

Theme-neutral: nothing sets a text or page colour, tables take the notebook's own style, pictures are images that are
readable on any page (see `pictures/drawing.py`). Without styles (GitHub strips them) tables, images and text remain.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from esen_lab.notebook.pictures import as_image, draw
from esen_lab.notebook.pictures.rows import Timeline
from esen_lab.notebook.views import RECORDS, Block, Details, Progress, Table, View
from esen_lab.units import format_seconds

BAR_COLUMNS = 60  # of a text timeline


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
    if isinstance(block, Progress):
        return (
            f"<div><progress max='{max(block.total, 1)}' value='{block.done}' style='width:20em'></progress> "
            f"{escape(block.words)}</div>"
        )
    if not isinstance(block, Details):
        svg = draw(block)
        return as_image(svg)
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
    # JupyterLab puts plain cells to the right, GitHub puts them where their row says: said once, it is short.
    usual = "<td>" if tag == "td" else f"<{tag} style='text-align:right'>"
    left = f"<{tag} style='text-align:left'>"
    row = "<tr style='text-align:right'>" if tag == "td" and any(right) else "<tr>"
    inside = "".join(f"{usual if r else left}{escape(cell)}</{tag}>" for cell, r in zip(cells, right, strict=True))
    return f"{row}{inside}</tr>"


def _aligned(table: Table) -> list[bool]:
    if not table.columns:
        return [False] * len(table.rows[0])
    return [column in table.numbers for column in table.columns]


def _text_block(block: Block) -> str:
    if isinstance(block, Table):
        return _text_table(block)
    if isinstance(block, Timeline):
        return _text_timeline(block)
    if isinstance(block, Progress):
        filled = round(20 * block.done / max(block.total, 1))
        return f"[{'#' * filled}{'.' * (20 - filled)}] {block.words}"
    if not isinstance(block, Details):
        return ""  # the tables beside a picture say the same
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


def html_of(record: object) -> str:
    """One of `views.RECORDS` as HTML."""
    return to_html(_view(record))


def text_of(record: object) -> str:
    """One of `views.RECORDS` as text."""
    return to_text(_view(record))


def _view(record: object) -> View:
    names = (f"{kind.__module__}.{kind.__qualname__}" for kind in type(record).__mro__)
    return next(RECORDS[name] for name in names if name in RECORDS)(record)
