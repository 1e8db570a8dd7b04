"""State that sub-models keep between calls, in their lanes: put aside while somebody measures, and put back after."""

from __future__ import annotations

from collections.abc import Sequence

from esen_lab.ensemble import Ensemble
from esen_lab.lanes import Worker
from esen_lab.planner.plan import Lane


class MemberState:
    """What the sub-models of one plan keep, and whether they draw random numbers. Under the executor's lock.

    Args:
        workers: The lanes.
        lanes: The plan's.

    Attributes:
        keeping: Sub-models that keep state.
        random: Whether one draws random numbers.
    """

    def __init__(self, workers: Sequence[Worker], lanes: Sequence[Lane]) -> None:
        self._workers = workers
        self._lanes = lanes
        self._depth = 0  # measurements under way, one inside the other
        self.keeping: tuple[str, ...] = ()
        self.random = False

    def look(self, ensemble: Ensemble) -> None:
        """These are the sub-models from now on."""
        members = [ensemble.get(name) for lane in self._lanes for name in lane.members]
        self.random = any(member.traits.random for member in members)
        self.keeping = tuple(member.name for member in members if member.traits.keeps_state)

    @property
    def note(self) -> tuple[str, ...]:
        """What every report says of it."""
        if not self.keeping:
            return ()
        return (f"State is kept between calls by {', '.join(self.keeping)}: lanes go on from what was registered.",)

    @property
    def measuring(self) -> bool:
        """Whether a measurement is under way, or was interrupted at its very end."""
        return self._depth > 0

    def begin(self) -> None:
        """A measurement begins: sub-models are what they were when they were registered."""
        self._depth += 1
        self._put("aside" if self._depth == 1 else "fresh")

    def end(self, *, put_back: bool) -> None:
        """It ends; after the last one, sub-models are what they were before the first."""
        self._depth -= 1
        if not self._depth and put_back:
            self._put("back")

    def end_all(self) -> None:
        """Nobody measures now: what was not put back is."""
        self._put("back")
        self._depth = 0

    def _put(self, how: str) -> None:
        for worker, lane in zip(self._workers, self._lanes, strict=True):
            if any(name in self.keeping for name in lane.members):
                worker.put_state(how)
