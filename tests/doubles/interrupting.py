"""Interrupts an operation at its n-th line of the package's code, wherever that is."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

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
