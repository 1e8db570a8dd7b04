"""Views as HTML, and the same as text for terminals.

Narrow outputs show tables as cards, by a container query.

Theme-neutral: nothing sets a text or page colour, tables take the notebook's own style, pictures are images that are
readable on any page (see `pictures/drawing.py`). Without styles (GitHub strips them) tables, images and text remain.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from esen_lab.common.fitting import beginning, padded, table_lines, terminal_columns, width_of, wrapped
from esen_lab.common.units import format_seconds
from esen_lab.terminal import visible, visible_line
from esen_lab.ui.markup import NOTHING, Markup, css_text, element, joined, style
from esen_lab.ui.pictures import image
from esen_lab.ui.pictures.rows import Timeline
from esen_lab.ui.views import RECORDS, Block, Details, Progress, Table, View

BAR_COLUMNS = 60  # of a text timeline, where there is room
_LEAST_BAR = 10
_INDENT = "  "
_FOLDED = "    "
_LETTER_PX, _PADDING_PX = 7.8, 16  # of a cell, at the size of notebooks' tables
_NARROWEST_PX = 300  # no output is narrower
_MOST_WRAPPED = 4  # columns: of a table with more of them, words that are cut where the room ends cannot be read
_MOST_OF_A_ROW = 6  # columns of a single row: there is no other to compare it with, and cards take their bytes
# JupyterLab puts cells to the right, other pages to the left. Headings, and what facts are called, are never cut.
_CELLS = ".esen div,.esen-w td,.esen-f td+td{overflow-wrap:anywhere}.esen.esen table :is(td,th){text-align:left}"
# A page that makes outputs as wide as what they hold is told a width: a container tells none.
_ROOM = ".esen{container-type:inline-size;contain-intrinsic-inline-size:640px}"


def bundle(view: View, marks: str = "") -> dict[str, str]:
    """Both forms, keyed by MIME type; `marks` are classes by which a page finds the view."""
    return {"text/html": to_html(view, marks), "text/plain": to_text(view)}


def to_html(view: View, marks: str = "") -> Markup:
    """The view as one small HTML fragment; every text in it is escaped. `marks` are classes of its element."""
    looks = [_look(block) if isinstance(block, Table) and block.rows else None for block in view.blocks]
    parts = [_style([look for look in looks if look is not None])] if any(looks) else []
    parts += [element("b", _code(view.title))] if view.title else []
    parts += [_html_block(block, look) for block, look in zip(view.blocks, looks, strict=True)]
    parts += [element("div", _code(note)) for note in view.notes]
    return element("div", *parts, class_=f"esen {marks}".rstrip())


def to_text(view: View, columns: int | None = None) -> str:
    """The view as lines of text for a terminal; what would steer one is made visible.

    Args:
        view: What to write.
        columns: How wide the terminal is; None: that of the terminal that this process writes to, if it does.
    """
    columns = terminal_columns() if columns is None else columns
    parts = wrapped(visible_line(view.title), columns) if view.title else []
    parts += [text for text in (_text_block(block, columns) for block in view.blocks) if text]
    for note in view.notes:
        parts += wrapped(visible_line(note.replace("`", "")), columns)
    return "\n".join(parts)


def _code(text: str) -> Markup:
    # `like this` is code in both forms of a remark.
    pieces = text.split("`")
    if len(pieces) % 2 == 0:
        return joined([text])
    return joined(element("code", piece) if i % 2 else piece for i, piece in enumerate(pieces))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """How one table is shown on a page.

    Attributes:
        least_px: Below this width its rows become cards; 0: cells wrap instead.
        rules: What is said of its columns; "" where nothing is.
        key: The class of tables with these rules: what another output says of its tables must not touch them.
    """

    least_px: int
    rules: str
    key: str


def _look(table: Table) -> _Look:
    least_px = _least_px(table)
    rules = _rules(table, least_px)
    return _Look(least_px=least_px, rules=rules, key=f"esen-{zlib.crc32(rules.encode()):x}" if rules else "")


def _html_block(block: Block, look: _Look | None) -> Markup:
    if isinstance(block, Table):
        return NOTHING if look is None else _html_table(block, look)
    if isinstance(block, Progress):
        bar = element("progress", max=max(block.total, 1), value=block.done, style="width:20em")
        return element("div", bar, " ", block.words)
    if not isinstance(block, Details):
        return image(block)
    if not block.text:
        return element("div", block.summary)
    if block.unfolded:
        return element("pre", block.text)
    return element("details", element("summary", block.summary), element("pre", block.text))


def _html_table(table: Table, look: _Look) -> Markup:
    rows = [_html_row("th", table.columns)] if table.columns else []
    cards = bool(look.least_px)
    rows += [_html_row("td", row, cards) for row in table.rows]
    wraps = "" if cards else "esen-w" if table.columns else "esen-f"
    return element("table", *rows, class_=f"{look.key} {wraps}".strip())


def _html_row(tag: str, cells: Sequence[str], cards: bool = False) -> Markup:
    """A row; where rows may become cards, what stands for "there is none" is marked: a card leaves it out."""
    return element("tr", *(element(tag, cell, class_="n" if cards and cell == "-" else None) for cell in cells))


def _least_px(table: Table) -> int:
    """Below this width rows become cards, since words would not fit beside each other; 0: cells wrap instead."""
    if len(table.columns) <= (_MOST_WRAPPED if len(table.rows) > 1 else _MOST_OF_A_ROW):
        return 0
    needed = 0.0
    for name, *cells in zip(table.columns, *table.rows, strict=True):
        least = width_of if name in table.numbers else _longest_word
        needed += _PADDING_PX + _LETTER_PX * max(_longest_word(name), *map(least, cells))
    return round(needed) if needed > _NARROWEST_PX else 0


def _longest_word(text: str) -> int:
    return max(map(width_of, text.split()), default=0)


def _style(looks: Sequence[_Look]) -> Markup:
    """How the view's tables are aligned, and fit where there is little room: that of the output, not of the window.

    Each output brings its own, and once for all cells of a column: a notebook is to stay small.
    """
    rules = dict.fromkeys(f".esen .{look.key}{{{look.rules}}}" for look in looks if look.rules)
    room = _ROOM if any(look.least_px for look in looks) else ""
    return style(room, _CELLS, *rules)


def _rules(table: Table, least_px: int) -> str:
    """What is said of one table's columns; "" where nothing is."""
    places = ",".join(f":nth-child({place})" for place, to_right in enumerate(_aligned(table), 1) if to_right)
    rules = f":is({places}){{text-align:right}}" if places else ""
    if not least_px:
        return rules
    whole = f"td:is({places}){{white-space:nowrap}}" if places else ""
    return f"{rules}{whole}@container (max-width:{least_px}px){{{_cards(table.columns, table.wide, table.numbers)}}}"


@functools.lru_cache(maxsize=128)  # the same columns come again and again
def _cards(columns: tuple[str, ...], wide: tuple[str, ...], numbers: tuple[str, ...]) -> str:
    """Rows as cards: the first cell as a heading, the others with their column's name, last what only explains."""
    last = [f"td:nth-child({place})" for place, name in enumerate(columns, 1) if name in wide]
    rules = [
        "display:block;tbody{display:block}tr{display:flex;flex-wrap:wrap;padding:3px 0}",
        "td:nth-child(n){padding:0 14px 2px 0;max-width:100%;overflow-wrap:anywhere;",
        "text-align:left;white-space:normal}",
        "td:first-child{width:100%;font-weight:bold}td::before{margin-right:5px;opacity:.8}",
        "tr:first-child,td:empty,.n{display:none}",
        f"{','.join(last)}{{order:1}}" if last else "",
    ]
    names = (
        f"td:nth-child({place})::before{{content:{css_text(name)}}}"
        for place, name in enumerate(columns, 1)
        if name and (place > 1 or name in numbers)
    )
    return "".join([*rules, *names])


def _aligned(table: Table) -> list[bool]:
    if not table.columns:
        return [False] * len(table.rows[0])
    return [column in table.numbers for column in table.columns]


def _text_block(block: Block, columns: int | None) -> str:
    if isinstance(block, Table):
        return _text_table(block, columns)
    if isinstance(block, Timeline):
        return _text_timeline(block, columns)
    if isinstance(block, Progress):
        filled = round(20 * block.done / max(block.total, 1))
        return "\n".join(wrapped(f"[{'#' * filled}{'.' * (20 - filled)}] {visible_line(block.words)}", columns))
    if not isinstance(block, Details):
        return ""  # the tables beside a picture say the same
    summary, text = wrapped(visible_line(block.summary), columns), visible(block.text)
    if block.unfolded or not text:
        return text or "\n".join(summary)
    return "\n".join([*summary, *(line for each in text.split("\n") for line in _folded(each, columns))])


def _folded(line: str, columns: int | None) -> list[str]:
    """A line of what is folded, indented; in a terminal where it is too long as several."""
    if columns is None or width_of(line) + len(_FOLDED) <= columns:
        return [_FOLDED + line]
    return wrapped(line, columns, _FOLDED)


def _text_table(table: Table, columns: int | None) -> str:
    if not table.rows:
        return ""
    keep = [place for place, column in enumerate(table.columns) if column not in table.wide]
    kept = keep or range(len(table.rows[0]))
    given = [*([table.columns] if table.columns else []), *table.rows]
    rows = [[visible_line(row[place]) for place in kept] for row in given]
    aligned = _aligned(table)
    room = None if columns is None else columns - len(_INDENT)
    lines = table_lines(rows, [aligned[place] for place in kept], room, ruled=bool(table.columns))
    for line in table.below:
        lines += wrapped(visible_line(line), room)
    return "\n".join(_INDENT + line for line in lines)


def _text_timeline(timeline: Timeline, columns: int | None) -> str:
    lanes = [(visible_line(label), segments) for label, segments in timeline.lanes]
    width = max((width_of(label) for label, _ in lanes), default=0)
    if columns is not None:  # a label leaves room for a bar
        width = min(width, max(columns - _LEAST_BAR - 5, 1))
    bar = BAR_COLUMNS if columns is None else max(_LEAST_BAR, min(BAR_COLUMNS, columns - width - 5))
    scale = bar / max(timeline.total_s, 1e-12)
    lines = []
    for label, segments in lanes:
        cells = [" "] * bar
        for segment in sorted(segments, key=lambda s: s.start_s):
            first = min(max(round(segment.start_s * scale), 0), bar - 1)
            last = min(max(round(segment.end_s * scale), first + 1), bar)
            bar_cells = [(letter, *[""] * (width_of(letter) - 1)) for letter in _text_bar(segment.name, last - first)]
            cells[first:last] = [cell for one in bar_cells for cell in one]  # a wide letter takes two of them
        shown = label if width_of(label) <= width else beginning(label, width - 1) + "…"
        lines.append(f"  {padded(shown, width)} |{''.join(cells)}|")
    end = format_seconds(timeline.total_s)
    lines.append(f"  {' ' * width}  0{end.rjust(bar - 1)}")
    return "\n".join(lines)


def _text_bar(name: str, width: int) -> str:
    if width < 3:
        return "#" * width
    shown = beginning(visible_line(name), width - 2)
    before = (width - 2 - width_of(shown)) // 2
    return f"[{'=' * before}{shown}{'=' * (width - 2 - width_of(shown) - before)}]"


def html_of(record: object) -> Markup:
    """One of `views.RECORDS` as HTML."""
    return to_html(_view(record))


_STYLE = (
    ".esen{overflow-x:auto}.esen table{border-collapse:collapse;margin:4px 0 8px}.esen td,.esen th{padding:2px 10px;"
    "border-bottom:1px solid #8886}.esen img{margin:6px 0}.esen pre{white-space:pre-wrap}"
)


def page_of(record: object) -> Markup:
    """One of `views.RECORDS` as HTML for pages without a style for tables of their own."""
    return element("div", style(_STYLE), to_html(_view(record)))


def text_of(record: object) -> str:
    """One of `views.RECORDS` as text."""
    return to_text(_view(record))


def _view(record: object) -> View:
    names = (f"{kind.__module__}.{kind.__qualname__}" for kind in type(record).__mro__)
    return next(RECORDS[name] for name in names if name in RECORDS)(record)
