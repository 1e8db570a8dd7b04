"""State that sub-models keep between calls, in their lanes: put aside while somebody measures, and put back after."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from esen_lab.ensemble import Ensemble
from esen_lab.lanes import Worker
from esen_lab.planner.plan import Lane
from esen_lab.planner.steps import members_of


class MemberState:
    """What the sub-models of one plan keep, and whether they draw random numbers. Under the executor's lock.

    Attributes:
        keeping: Sub-models that keep state.
        random: Whether one draws random numbers.
    """

    def __init__(self, workers: Sequence[Worker], lanes: Sequence[Lane]) -> None:
        self._workers = workers
        self._lanes = lanes
        self._depth = 0  # measurements under way, one inside the other
        self._known: tuple[str, ...] = ()
        self._shared: list[tuple[str, ...]] = []
        self._found: dict[str, tuple[str, ...]] = {}  # what has changed in others, which their examples did not show
        self._drawing: set[str] = set()  # others that draw random numbers, which their examples did not show
        self.keeping: tuple[str, ...] = ()
        self.random = False

    def look(self, ensemble: Ensemble, anew: Sequence[str] = ()) -> None:
        """These are the sub-models from now on; those `anew` were loaded now."""
        members = [ensemble.get(name) for lane in self._lanes for name in lane.members]
        self._shared = _groups({member.name: member.shares for member in members})
        self._known = tuple(member.name for member in members if member.traits.keeps_state)
        there = {name for member in members for name in members_of([member.name])} - set(members_of(anew))
        self._found = {name: what for name, what in self._found.items() if name in there}
        self._drawing &= there
        self.random = bool(self._drawing) or any(member.traits.random for member in members)
        self._count()

    def draws(self, steps: Collection[str]) -> bool:
        """These were seen to draw random numbers, which their examples did not show; whether that is news."""
        if not steps:
            return False
        news = set(members_of(steps)) - self._drawing
        self._drawing |= news
        self.random = self.random or bool(self._drawing)
        return bool(news)

    @property
    def note(self) -> tuple[str, ...]:
        """What every report says of it."""
        told = [
            f"{name} draws random numbers, which its example did not show: torch.manual_seed before a run repeats it."
            for name in sorted(self._drawing)
        ]
        if not self.keeping:
            return tuple(told)
        told += [f"State is kept between calls by {', '.join(self.keeping)}: lanes go on from what was registered."]
        told += [
            f"{name} keeps state between calls, which its example did not show: {', '.join(what)} changed in its lane; "
            "what measuring changed was put back, and it counts as one that keeps state from now on."
            for name, what in self._found.items()
        ]
        told += [
            f"State is shared by {' and '.join(names)} in the notebook; here each has its own{self._but_for(names)}, "
            "and answers are not those of calls in turn."
            for names in self._shared
        ]
        return tuple(told)

    def _but_for(self, names: Sequence[str]) -> str:
        """What those of these have in common that lie in one lane, whose process has one of every module."""
        together = any(len(set(names).intersection(members_of(lane.members))) > 1 for lane in self._lanes)
        return " (but for what modules hold that one lane imports for several)" if together else ""

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
        for worker in self._workers:
            for step, what in worker.put_state(how).items():
                for name in members_of([step]):
                    self._found.setdefault(name, what)
        self._count()

    def _count(self) -> None:
        self.keeping = (*self._known, *(name for name in self._found if name not in self._known))


def _groups(shares: Mapping[str, Sequence[str]]) -> list[tuple[str, ...]]:
    """Those of these that share state, each group once."""
    groups = [tuple(name for name in shares if name == one or name in others) for one, others in shares.items()]
    return list(dict.fromkeys(names for names in groups if len(names) > 1))
