"""Interrupts an operation: at its n-th line of the package's code, wherever that is, or once something is true."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
from waiting import until

import esen_lab

ROOT = os.path.dirname(str(esen_lab.__file__))


class InterruptAt:
    """A trace function that raises `KeyboardInterrupt` once.

    Args:
        line: At which line that is executed, counted from 1.
    """

    def __init__(self, line: int) -> None:
        self._left = line
        self.where = ""

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Any:
        return self._in_ours if frame.f_code.co_filename.startswith(ROOT) else None

    def _in_ours(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "line":
            self._left -= 1
            if self._left == 0:
                self.where = f"{os.path.relpath(frame.f_code.co_filename, ROOT)}:{frame.f_lineno}"
                raise KeyboardInterrupt
        return self._in_ours


def interrupted_at(line: int, act: Callable[[], object]) -> str:
    """Do something and interrupt it; returns the place, "" where it had ended before."""
    at = InterruptAt(line)
    before = sys.gettrace()
    sys.settrace(at)
    try:
        act()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return at.where


@contextmanager
def interrupted_once(condition: Callable[[], object], then: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Ctrl-C in the block as soon as that is true, which it raises; `then` is called in another thread after it."""
    over = threading.Event()

    def strike() -> None:
        try:
            until(lambda: condition() or over.is_set())
            if not over.is_set():
                os.kill(os.getpid(), signal.SIGINT)
        finally:
            then()

    thread = threading.Thread(target=strike)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        over.set()
        thread.join()
