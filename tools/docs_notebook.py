"""An executed notebook as a page: its text, its cells, and what they showed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_MOST_LINES = 60  # of an output that is text


def page_of(notebook: Mapping[str, Any], head: str) -> str:
    """The page, as Markdown for MyST.

    Args:
        notebook: As JSON (format 4), executed.
        head: What stands below its title.
    """
    parts: list[str] = []
    for cell in notebook["cells"]:
        source = _text(cell["source"]).strip("\n")
        if cell["cell_type"] == "markdown":
            parts.append(source)
            if head and source.startswith("# "):
                parts.append(head)
                head = ""
        elif cell["cell_type"] == "code" and source:
            parts.append(fenced(source, "ipython3"))
            parts += filter(None, (shown(output) for output in _last_of_each(cell.get("outputs", []))))
    return "\n\n".join(parts) + "\n"


def shown(output: Mapping[str, Any]) -> str:
    """What one output shows, as Markdown; "" where that is nothing."""
    if output["output_type"] == "stream":
        return _plain(_text(output["text"]))
    if output["output_type"] == "error":
        return _plain("\n".join(output["traceback"]))
    data = output["data"]
    if "text/html" in data:
        html = _text(data["text/html"])
        return fenced(f'<div class="cell-output">\n{html}\n</div>', "{raw} html")
    if "text/plain" in data and "application/vnd.jupyter.widget-view+json" not in data:
        return _plain(_text(data["text/plain"]))
    return ""


def fenced(text: str, language: str) -> str:
    """Text in a fence that nothing inside ends."""
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _plain(text: str) -> str:
    lines = _ESCAPES.sub("", text).split("\n")
    lines = [line.rsplit("\r", 1)[-1] for line in lines]
    if len(lines) > _MOST_LINES:
        lines = [*lines[:_MOST_LINES], "..."]
    told = "\n".join(lines).strip("\n")
    return fenced(told, "text") if told.strip() else ""


def _last_of_each(outputs: list[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Outputs; neighbouring pieces of one stream are one."""
    stream: dict[str, Any] | None = None
    for output in outputs:
        if stream is not None and output["output_type"] == "stream" and output["name"] == stream["name"]:
            stream["text"] = _text(stream["text"]) + _text(output["text"])
            continue
        if stream is not None:
            yield stream
        stream = dict(output) if output["output_type"] == "stream" else None
        if stream is None:
            yield output
    if stream is not None:
        yield stream


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "".join(value)
