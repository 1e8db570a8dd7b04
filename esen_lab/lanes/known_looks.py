"""Looks of inputs that a lane was told of before: a number says which one comes next, and nobody waits for an answer.

Batches of changing sizes come again and again. Telling a lane of each in full is a message, its answer, and another
message for the outputs that look different too. Both sides keep what was told, by number in the order of telling, and
how outputs lay after inputs of each look; both do so at the same frames, so that they never differ.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from esen_lab.lanes.arena import MOST_KEPT, Layout

_Outputs = TypeVar("_Outputs")


class KnownLooks(Generic[_Outputs]):
    """One side's record. What `outputs` are is the side's own affair; None where there are none yet."""

    def __init__(self) -> None:
        self._numbers: dict[Layout, int] = {}
        self._layouts: list[Layout] = []
        self._outputs: dict[int, _Outputs] = {}
        self._now = -1

    def told(self, layout: Layout, outputs: _Outputs | None, *, new_block: bool) -> None:
        """The lane was told in full of an input of this look.

        Args:
            layout: Where it lies.
            outputs: How outputs lie, as of the look before.
            new_block: Whether it lies in other memory than the ones before: those are forgotten.
        """
        if new_block or len(self._layouts) >= MOST_KEPT:
            self._numbers.clear()
            self._layouts.clear()
            self._outputs.clear()
        else:
            self._leave(outputs)
        self._now = len(self._layouts)
        self._numbers[layout] = self._now
        self._layouts.append(layout)

    def number_of(self, layout: Layout) -> int | None:
        """By which number the lane knows it; None: it must be told in full."""
        return self._numbers.get(layout)

    def again(self, number: int, outputs: _Outputs | None) -> tuple[Layout, _Outputs | None]:
        """An input of a known look comes next.

        Args:
            number: Of the look.
            outputs: How outputs lie, as of the look before.

        Returns:
            Where it lies, and how outputs lay after such an input; None where no run has shown it.
        """
        self._leave(outputs)
        self._now = number
        return self._layouts[number], self._outputs.get(number)

    def forget_outputs(self) -> None:
        """Outputs lie in other memory from now on, or other members run."""
        self._outputs.clear()

    def _leave(self, outputs: _Outputs | None) -> None:
        if outputs is not None and self._now >= 0:
            self._outputs[self._now] = outputs
