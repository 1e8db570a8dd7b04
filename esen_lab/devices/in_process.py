"""What a place promises whose lane lives in this process instead of one of its own."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class InProcess(Protocol):
    """A place on a device that this process shares with itself, such as a green context.

    `apply` and everything that the lane does are called on one thread, which belongs to the lane.
    """

    def release(self) -> None:
        """The lane has ended, or never began: let go of what `apply` opened. May be called again."""
