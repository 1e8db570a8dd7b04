"""Something loud to call in a worker."""

from __future__ import annotations

from collections.abc import Callable


def print_much(step: Callable[[], None], megabytes: int) -> None:
    """Print so many megabytes."""
    for _ in range(megabytes):
        print("x" * 1_000_000, flush=True)
