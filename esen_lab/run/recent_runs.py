"""The last few runs of one plan and shape, and what other programs took of its lanes meanwhile.

It is told of every run, so it costs next to nothing: an append, two comparisons. How long the lanes waited for a core
(`esen_lab.devices.cpu.load`) is read when a run was far from its prediction, a few times a second at most, and else
every ten seconds, so that the count begins shortly before.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from esen_lab.devices.cpu.load import LoadSample, load_between, sample_load
from esen_lab.planner.plan import Plan
from esen_lab.run.drift import FAR, RECENT

_LOOK_S = 0.2  # between readings while runs are far off
_IDLE_S = 10.0  # between readings else
_LEAST_S = 0.005  # a load over less running time than this is chance


class RecentRuns:
    """Owned by an executor, under its lock.

    Args:
        pids: The lanes' processes; none where lanes are threads of this one.
        clock: Seconds that only go forward.
        read: Counts how long they ran and waited.
    """

    def __init__(
        self,
        pids: Sequence[int],
        *,
        clock: Callable[[], float] = time.monotonic,
        read: Callable[[Sequence[int]], LoadSample | None] = sample_load,
    ) -> None:
        self._pids = tuple(pids)
        self._clock = clock
        self._read = read
        self._of: tuple[object, str] = (None, "")
        self._runs_s: deque[float] = deque(maxlen=RECENT)
        self._read_at = clock()
        self._sample = self._look()
        self._load: float | None = None

    def ran(
        self, jct_s: float, predicted_s: float | None, plan: Plan, batch: str
    ) -> tuple[tuple[float, ...], float | None] | None:
        """Take in a run; returns the last runs and the load where this one was far from its prediction, else None."""
        if self._of[0] is not plan or self._of[1] != batch:
            self._of = (plan, batch)
            self._runs_s.clear()
        self._runs_s.append(jct_s)
        if not predicted_s:  # nothing to be far from
            return None
        now = self._clock()
        if predicted_s < jct_s * FAR and jct_s < predicted_s * FAR:
            if now - self._read_at > _IDLE_S:
                self._begin(now)
            return None
        return tuple(self._runs_s), self.load(look=now - self._read_at > _LOOK_S or self._load is None)

    def forget(self) -> None:
        """Count anew: what ran until now does not stand for what comes."""
        self._runs_s.clear()
        self._begin(self._clock())

    def load(self, *, look: bool) -> float | None:
        """What other programs took of the lanes' time, 0 to 1.

        Args:
            look: Read it now; else what was read last.
        """
        if look:
            sample = self._look()
            before, self._read_at = self._sample, self._clock()
            if before is None or sample is None or sample.ran_s - before.ran_s >= _LEAST_S:
                self._load = load_between(before, sample)
                self._sample = sample
        return self._load

    def _begin(self, now: float) -> None:
        self._sample, self._read_at, self._load = self._look(), now, None

    def _look(self) -> LoadSample | None:
        return self._read(self._pids) if self._pids else None
