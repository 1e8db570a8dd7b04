"""A draft with the moves that led to it, which can be taken back. Not locked: its owner is."""

from __future__ import annotations

from collections.abc import Callable

from esen_lab.errors import UsageError
from esen_lab.planner.editor.draft import Draft

MOST_MOVES = 200
"""So many can be taken back."""


class History:
    """The draft as it is now, and how it was before."""

    def __init__(self, start: Draft) -> None:
        self.draft = start
        self._past: list[Draft] = []
        self._future: list[Draft] = []
        self._gesture: object = None

    @property
    def can_undo(self) -> bool:
        """Whether there is a move to take back."""
        return bool(self._past)

    @property
    def can_redo(self) -> bool:
        """Whether one was taken back."""
        return bool(self._future)

    def move(self, change: Callable[[Draft], Draft], gesture: object = None) -> None:
        """Change the draft. What `change` raises is passed on, and nothing has changed.

        Args:
            change: A draft in, a draft out.
            gesture: Moves with the same gesture in a row are one step of undo, and each starts from where the first
                one started.
        """
        goes_on = gesture is not None and gesture == self._gesture and bool(self._past)
        base = self._past[-1] if goes_on else self.draft
        moved = change(base)
        if not goes_on and moved != base:
            self._remember(base)
        elif goes_on and moved == base:  # back where it began: there is nothing that undo could take back
            self._past = self._past[:-1]
        if moved != self.draft:
            self._future.clear()
        self.draft = moved
        # A move that changed nothing begins no gesture: there is no step of undo that it could go on with.
        self._gesture = gesture if moved != base else None

    def undo(self) -> None:
        """Take the last move back.

        Raises:
            UsageError: There is none.
        """
        self._step(self._past, self._future, "undo")

    def redo(self) -> None:
        """Make the move again that was taken back last.

        Raises:
            UsageError: There is none.
        """
        self._step(self._future, self._past, "redo")

    def end_gesture(self) -> None:
        """The next move is a step of its own."""
        self._gesture = None

    def _step(self, source: list[Draft], other: list[Draft], what: str) -> None:
        if not source:
            raise UsageError(f"There is nothing to {what}", hint="Move a share first.")
        other.append(self.draft)
        self.draft = source.pop()
        self._gesture = None

    def _remember(self, draft: Draft) -> None:
        self._past = [*self._past, draft][-MOST_MOVES:]
