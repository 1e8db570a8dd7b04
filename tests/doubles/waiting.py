"""Waiting for what another thread or process does."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any


def until(condition: Callable[[], object], within_s: float = 60.0) -> None:
    """Return once it is true; an AssertionError if it is not by then."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"it has not come true within {within_s:g} s"
        time.sleep(0.002)


def gone(pid: int) -> bool:
    """Whether there is no such process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def when_waited_for(lanes: Any, act: Callable[[], object]) -> None:
    """Have something done when somebody waits for lanes that are told step by step, not when he only looks."""
    ready = lanes.ready

    def waiting(until_s: float) -> list[int]:
        if until_s:
            act()
        found: list[int] = ready(until_s)
        return found

    lanes.ready = waiting
