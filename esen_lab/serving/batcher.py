"""The queue in front of the lanes: which requests run next, as one batch, and whether that is worth waiting for.

s(n)   expected seconds of a batch of n rows (`service_times.py`)
g      expected seconds until the next request
D      the earliest deadline of a batch, d its slack: D - now

1. Requests that look alike (names, dtypes, sizes of a row, options) are one queue; of those whose batch does not wait
   for more, the queue whose head came first is next, so that no look waits for ever.
2. From its head on, requests are joined while now + s(n) <= D for every one of them, n <= `max_rows`, and one batch
   takes no longer than two: s(n + m) <= s(n) + s(m).
3. Does it wait for one more of k rows? Going now, n rows are done at s(n) and the next k at s(n) + s(k). Waiting for
   it, all are done at g + s(n + k). By the rows' mean that pays where
       g < w,   w = (n s(n) + k (s(n) + s(k))) / (n + k) - s(n + k)
   It never waits past D - s(n + k), and never longer than w. A window that is given takes the place of w.
4. Requests that are answered by whoever is done at their deadline run until the first of these, the most urgent ones
   first. Another one joins while it has no less until then than after it: D - now >= its own deadline - D.

The lanes run one batch at a time: while they do, everything waits and joins anyway. No clock, no thread, no loop in
here: whoever calls says what time it is.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any

from esen_lab.serving.refusal import RequestRefused
from esen_lab.serving.service_times import Arrivals, BatchTimes

_WORSE = 1.1  # so much longer than two batches is no noise
_LEAST_WAIT_S = 0.0002  # below, a timer costs more than it brings


@dataclass(slots=True, kw_only=True, eq=False)
class Waiting:
    """A request that waits for its run.

    Attributes:
        rows: How many.
        look: Requests of the same look may be joined; None: it runs alone.
        came_s: When it came.
        due_s: Its deadline; infinite where it has none.
        at_deadline: Whether it is answered then, by the members that are done.
        payload: The caller's.
        gone: Whether it is in the queue no longer.
    """

    rows: int
    look: Hashable | None
    came_s: float
    due_s: float = math.inf
    at_deadline: bool = False
    payload: Any = None
    gone: bool = False


@dataclass(slots=True, kw_only=True)  # frozen, one takes three times as long to make
class Decision:
    """What to do now.

    Attributes:
        batch: These run as one now; empty: nothing does.
        look_again_s: When to ask again; infinite: when a request comes or a run ends.
    """

    batch: tuple[Waiting, ...] = ()
    look_again_s: float = math.inf


@dataclass(slots=True, kw_only=True)
class Batcher:
    """See the module.

    Attributes:
        times: How long batches take.
        max_rows: Of a batch that was joined.
        max_waiting: How many requests may wait.
        window_s: How long a batch waits for one more; None: as long as that pays.
    """

    times: BatchTimes
    max_rows: int
    max_waiting: int
    window_s: float | None = None
    arrivals: Arrivals = field(default_factory=Arrivals)
    _queues: dict[Hashable, deque[Waiting]] = field(default_factory=dict)
    _count: int = 0
    _rows: int = 0
    _with_deadline: int = 0

    def __len__(self) -> int:
        """How many requests wait."""
        return self._count

    def take(self, times: BatchTimes, max_rows: int) -> None:
        """Something else is served from now on: its batches take these times."""
        self.times, self.max_rows = times, max_rows

    def put(self, waiting: Waiting, now_s: float) -> None:
        """Let a request wait.

        Raises:
            Refused: As many wait as may; with the time after which there is room.
        """
        if self._count >= self.max_waiting:
            raise RequestRefused(
                503,
                "busy",
                f"{self._count} requests wait, and no more may",
                retry_after_s=self.times.of(min(self._rows, self.max_rows)) * max(1.0, self._rows / self.max_rows),
            )
        self.arrivals.came(now_s)
        # One that runs alone is a queue of its own.
        queue = self._queues.setdefault(waiting.look if waiting.look is not None else id(waiting), deque())
        if waiting.at_deadline:
            insort(queue, waiting, key=lambda one: one.due_s)
        else:
            queue.append(waiting)
        self._count += 1
        self._rows += waiting.rows
        self._with_deadline += waiting.due_s < math.inf

    def take_out(self, waiting: Waiting) -> bool:
        """A client has left, or a deadline has passed: whether the request was still waiting."""
        if waiting.gone:
            return False
        key = waiting.look if waiting.look is not None else id(waiting)
        queue = self._queues[key]
        queue.remove(waiting)
        self._left(key, waiting)
        return True

    def take_all(self) -> list[Waiting]:
        """Everybody who waits; nobody does after that."""
        everybody = [waiting for queue in self._queues.values() for waiting in queue]
        for waiting in everybody:
            self.take_out(waiting)
        return everybody

    def expired(self, now_s: float) -> list[Waiting]:
        """Those whose deadline has passed while they waited; they wait no more."""
        if not self._with_deadline:
            return []
        late = [waiting for queue in self._queues.values() for waiting in queue if waiting.due_s <= now_s]
        for waiting in late:
            self.take_out(waiting)
        return late

    def next(self, now_s: float, *, draining: bool = False) -> Decision:
        """What to run, the lanes being free.

        Args:
            now_s: The time.
            draining: Whether no more requests will come.
        """
        look_again_s = math.inf
        queues = self._queues.values()
        for queue in queues if len(queues) == 1 else sorted(queues, key=_came_s):
            batch = list(self._joined(queue, now_s)) if len(queue) > 1 else [queue[0]]
            full = len(batch) < len(queue)  # the next one does not fit: another one would not, either
            until_s = now_s if full or draining or batch[0].look is None else self._worth_waiting(batch, now_s)
            if until_s <= now_s:
                return self._taken(queue, batch)
            look_again_s = min(look_again_s, until_s)  # the lanes are free: others need not wait with it
        return Decision(look_again_s=look_again_s)

    def _taken(self, queue: deque[Waiting], batch: list[Waiting]) -> Decision:
        for waiting in batch:
            queue.popleft()
            self._left(waiting.look if waiting.look is not None else id(waiting), waiting)
        return Decision(batch=tuple(batch))

    def _left(self, key: Hashable, waiting: Waiting) -> None:
        waiting.gone = True
        self._count -= 1
        self._rows -= waiting.rows
        self._with_deadline -= waiting.due_s < math.inf
        if not self._queues[key]:
            del self._queues[key]

    def _joined(self, queue: deque[Waiting], now_s: float) -> Iterator[Waiting]:
        rows, due_s = 0, math.inf
        for waiting in queue:
            more = rows + waiting.rows
            if rows:
                took_s = self.times.of(more)
                if waiting.at_deadline and waiting.due_s - due_s > due_s - now_s:
                    return
                if more > self.max_rows or now_s + took_s > min(due_s, waiting.due_s):
                    return
                if took_s > _WORSE * (self.times.of(rows) + self.times.of(waiting.rows)):
                    return
            yield waiting
            rows, due_s = more, min(due_s, waiting.due_s)

    def _worth_waiting(self, batch: list[Waiting], now_s: float) -> float:
        """Until when the batch waits for one more."""
        one = batch[-1].rows  # the next one is taken to be as large as the last
        gap_s = self.arrivals.gap_s(now_s)
        # Where no larger batch takes less, w is at most s(k): most often there is nothing more to look at.
        if self.window_s is None and (gap_s is None or gap_s >= self.times.of(one)):
            return now_s
        rows = sum(waiting.rows for waiting in batch)
        if rows + one > self.max_rows:
            return now_s
        began_s = min(waiting.came_s for waiting in batch)
        together_s = self.times.of(rows + one)
        latest_s = min(waiting.due_s for waiting in batch) - together_s
        if self.window_s is not None:
            return min(began_s + self.window_s, latest_s)
        alone_s = self.times.of(rows)
        pays_s = (rows * alone_s + one * (alone_s + self.times.of(one))) / (rows + one) - together_s
        if gap_s is None or gap_s >= pays_s or pays_s < _LEAST_WAIT_S:
            return now_s
        return min(max(waiting.came_s for waiting in batch) + pays_s, latest_s)


def _came_s(queue: deque[Waiting]) -> float:
    """When the first of a queue came; the most urgent one need not be it."""
    return min(waiting.came_s for waiting in queue) if queue[0].at_deadline else queue[0].came_s
