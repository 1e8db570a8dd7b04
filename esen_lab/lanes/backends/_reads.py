"""Which files a call reads: a trace keeps what was in them as if it had always been so."""

from __future__ import annotations

import builtins
import io
import os
import threading
from collections.abc import Callable
from typing import Any


def files_read(call: Callable[[], object]) -> list[str]:
    """The names of the files that this thread opens by `open` while it calls, in their order.

    An audit hook would see every way to a file, and could never be taken away again.
    """
    opened: list[str] = []
    thread, real = threading.get_ident(), builtins.open

    def noting(file: Any, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() == thread:
            opened.append(str(file if isinstance(file, int) else os.fsdecode(file)))
        return real(file, *args, **kwargs)

    builtins.open = io.open = noting  # pathlib looks it up in io
    try:
        call()
    finally:
        builtins.open = io.open = real
    return opened
