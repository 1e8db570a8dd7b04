"""Which backends a profile tries for a sub-model at a share, and which of them it measures in earnest.

    trial      a short measurement with one backend at one share: enough to tell who is clearly behind
    in earnest the usual measurement; at each share only the backend that was best in its trial gets one, so that a
               profile has at most twice the points of eager alone (and the next best, where its trial was luck)

A backend that is clearly behind at one share is not tried at others: engines differ by factors, and by how they use
more threads far less. One that compiles for long is tried at others only where it may be the best: it compiles anew for
every number of threads. The backends that are ready soonest come first. Preparing (converting, compiling) has a time
for each sub-model, and compilers that take long have one of their own; when it is used up, what is left is not tried,
and a note says so. Nor are those compilers where another backend is far ahead of eager already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from esen_lab.common.units import BACKENDS, backend_parts
from esen_lab.profiler.records import Point

WORTH = 0.97  # of the eager time: another backend than eager is taken when it needs no more
BEHIND = 1.3  # with more than this part of the best time, a backend is clearly behind
NEAR = 1.03  # with at most this part of the eager time, it is worth measuring in earnest
TRIALS_TELL = 1.15  # what trials of two backends differ by in chance alone
TRIAL_S = 0.15  # at most, and a quarter of the budget of a point
PREPARE_S = 40.0  # for all quick backends and shares of a sub-model together
COMPILE_S = 30.0  # the same for those that compile for long
LEAST_PREPARE_S = 2.0  # with less left, no further backend is tried
FAR_AHEAD = 0.6  # of the eager time
_SLOW_TO_PREPARE = ("inductor", "tensorrt")


def in_order(backends: Sequence[str]) -> tuple[str, ...]:
    """Backends without eager and repetitions: those that are ready soonest first."""
    named = dict.fromkeys(name for name in backends if name != "eager")
    return tuple(sorted(named, key=lambda name: (is_slow(name), BACKENDS.index(backend_parts(name)[0]))))


def is_slow(backend: str) -> bool:
    """Whether a backend takes tens of seconds to prepare."""
    return backend_parts(backend)[0] in _SLOW_TO_PREPARE


@dataclass(slots=True, kw_only=True)
class Trials:
    """What a job knows of the backends of one sub-model.

    Attributes:
        asked: Which may be tried, in order.
        eager: Seconds by share in units.
        points: By (backend, share), measured or stored.
        refused: Why a backend does not execute it, by backend.
        prepare_s: Seconds of preparing that are left, for backends that are quick to prepare (False) and slow (True).
        untried: Backends that were not tried, for which a note has said why.
    """

    asked: tuple[str, ...]
    eager: dict[int, float] = field(default_factory=dict)
    points: dict[tuple[str, int], Point] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    prepare_s: dict[bool, float] = field(default_factory=lambda: {False: PREPARE_S, True: COMPILE_S})
    untried: set[str] = field(default_factory=set)

    def contenders(self) -> tuple[str, ...]:
        """The backends that execute it, as far as is known, and are not clearly behind at any share."""
        behind = {
            backend
            for (backend, units), point in self.points.items()
            if point.median_s > (TRIALS_TELL if is_slow(backend) else BEHIND) * self._best_s(units)
        }
        return tuple(name for name in self.asked if name not in self.refused and name not in behind)

    def why_not(self, backend: str, units: int) -> str:
        """Why a contender is not worth trying at a share, as a sentence without its full stop; "" where it is."""
        if self.prepare_s[is_slow(backend)] < LEAST_PREPARE_S:
            return f"preparing {'it' if is_slow(backend) else 'the backends'} took all of its time"
        leader = self.leader(units)
        if leader is not None and is_slow(backend) and leader.median_s <= FAR_AHEAD * self.eager[units]:
            return f"it compiles for long, and {leader.backend} is far ahead of eager already"
        return ""

    def has_whole_time(self, backend: str) -> bool:
        """Whether nothing of the time for preparing such backends has been used up."""
        slow = is_slow(backend)
        return self.prepare_s[slow] >= (COMPILE_S if slow else PREPARE_S)

    def to_try(self, units: int) -> tuple[str, ...]:
        """The backends that nothing is known of at a share, and that are worth trying there."""
        return tuple(name for name in self.contenders() if (name, units) not in self.points)

    def leader(self, units: int) -> Point | None:
        """The fastest point of a backend at a share, where it is worth measuring in earnest."""
        here = [point for (_, at), point in self.points.items() if at == units]
        best = min(here, key=lambda point: point.median_s, default=None)
        return best if best is not None and best.median_s <= NEAR * self.eager[units] else None

    def near(self, leader: Point) -> tuple[Point, ...]:
        """The points at a share that are as good as the fastest one, within what trials can tell; itself among them."""
        return tuple(
            point
            for (_, at), point in self.points.items()
            if at == leader.units and point.median_s <= TRIALS_TELL * leader.median_s
        )

    def _best_s(self, units: int) -> float:
        own = [point.median_s for (_, at), point in self.points.items() if at == units]
        return min([*own, self.eager.get(units, float("inf"))])
