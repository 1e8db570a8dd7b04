r"""Text that came from a file, a model or a process, made fit to be shown: what steers a terminal is shown instead.

Escape sequences, carriage returns, bells, marks that reverse the direction of writing and the like stand as Python
writes them in a string (`\x1b`, `\u202e`). Whatever is printed, and whatever is put into HTML, goes through here.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import unicodedata
from typing import TextIO

_SUSPECT = re.compile(r"[^\x20-\x7e]")


def visible(text: str) -> str:
    """`text` with every character that has no shape of its own written as its escape; line ends and tabs stay."""
    if text.isprintable():
        return text
    return _SUSPECT.sub(lambda found: found[0] if found[0] in "\n\t" else _shown(found[0]), text)


def visible_line(text: str) -> str:
    """The same for what stands in one line: line ends and tabs are written as their escapes too."""
    return text if text.isprintable() else _SUSPECT.sub(lambda found: _shown(found[0]), text)


def tell(text: str, stream: TextIO | None = None) -> None:
    """Print `text` and a line end; what the stream's encoding lacks is written as its escape.

    Args:
        text: Any text; it is made visible here.
        stream: Where to; None for standard output.
    """
    stream = sys.stdout if stream is None else stream
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        stream.write(visible(text).encode(encoding, "backslashreplace").decode(encoding) + "\n")
        stream.flush()
    except BrokenPipeError:  # whoever read it has left, as `head` does: nothing more is told, at Python's end neither
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def _shown(character: str) -> str:
    # Python's own idea of what can be printed, and spaces of other widths besides.
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    return repr(character)[1:-1]
