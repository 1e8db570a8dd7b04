"""The lanes of one plan where a run does not wait for all of them: told step by step, and late when nobody waits.

begin     a run begins; its lanes are woken one by one
rouse     one lane gets a few bytes, and starts at once
ready     waits until some lane has something to say, or a moment has come
leave     nobody waits for the run any more: lanes that are at work end the step at hand, and are late
catch_up  waits until no lane is late
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence

from esen_lab.common.trees import Tree
from esen_lab.common.units import format_seconds
from esen_lab.errors import EsenError
from esen_lab.lanes import StepTold
from esen_lab.run.deadline import Deadline
from esen_lab.run.lane_watch import LaneWatch

_SLICE_S = 0.25  # of a wait: an interrupt may reach another thread
_FINE_S = 0.001
_AWAKE_S = 0.0003  # before the moment: this thread looks, and does not sleep
_MOST_TOLD = 10_000  # by late lanes, while somebody only looks


class StepwiseLanes:
    """Used by one thread at a time. Made by `LaneGroup`.

    Args:
        watch: Who is alive, at work and late.
        in_order: The lanes, that which takes longest first.
    """

    def __init__(self, watch: LaneWatch, in_order: Callable[[], Sequence[int]]) -> None:
        self._watch = watch
        self._in_order = in_order
        self._caught_up = ""

    def begin(self) -> None:
        """A run begins that is told step by step; lanes are woken by `rouse`, the slowest first.

        Raises:
            WorkerDied: Lanes that were at work after an interrupt had to be ended.
        """
        if self._watch.pending:
            self._watch.settle()
        self._watch.begin(stepwise=True)

    @property
    def at_rest(self) -> list[int]:
        """Lanes that can be woken, the one that takes longest first."""
        watch = self._watch
        busy = watch.pending
        return [n for n in self._in_order() if n not in watch.late and n not in busy and watch.workers[n].alive]

    @property
    def at_work(self) -> set[int]:
        """Lanes that were woken for the run at hand and have not ended it."""
        return self._watch.pending

    @property
    def ended(self) -> list[int]:
        """Lanes that have ended."""
        return [index for index, worker in enumerate(self._watch.workers) if not worker.alive]

    def alive(self, index: int) -> bool:
        """Whether a lane has not ended."""
        return self._watch.workers[index].alive

    def output(self, index: int, step: int) -> Tree:
        """What a lane put out in a step that it has told of, as views: see `Worker.outputs`."""
        return self._watch.workers[index].outputs([step])[0]

    @property
    def late(self) -> dict[int, int]:
        """See `LaneWatch.late`."""
        return self._watch.late

    def rouse(self, index: int, seed: int | None) -> None:
        """Wake one lane for the run at hand.

        Raises:
            WorkerDied: It has ended.
        """
        watch = self._watch
        watch.pending.add(index)  # before it is woken: see `LaneGroup.wake`
        try:
            watch.workers[index].start_run(watch.run, seed, stepwise=True)
        except EsenError:
            watch.pending.discard(index)
            watch.only_the_living()
            raise

    def ready(self, until_s: float) -> list[int]:
        """Lanes that have something to say; waits until a moment of `time.monotonic` at most.

        The last third of a millisecond is not waited for: whoever asks again and again looks without sleeping.
        """
        left_s = until_s - time.monotonic()
        if left_s > _FINE_S:  # the system counts in whole milliseconds, upwards
            found = self._watch.heard(int(min(left_s, _SLICE_S) * 1000))
        else:
            # One sleep more at the most: each wake-up waits for a core, for milliseconds where all are busy.
            found = self._watch.heard(0)
            if not found and left_s > _AWAKE_S:
                time.sleep(left_s - _AWAKE_S)
        return sorted(set(found))

    def take_step(self, index: int) -> StepTold | None:
        """Take one thing that a lane has to say; None where it was of a run that nobody waits for.

        Raises:
            EsenError: The lane has ended, or sends what no lane sends.
        """
        watch = self._watch
        worker = watch.workers[index]
        try:
            told = worker.take_step()
        except EsenError as failure:
            watch.pending.discard(index)
            watch.late.pop(index, None)
            raise watch.named(failure, index) from failure
        if told.over or not worker.alive:
            if watch.late.get(index) == told.number:
                del watch.late[index]
            if told.number == watch.run:
                watch.pending.discard(index)
            if not worker.alive:
                watch.late.pop(index, None)
                watch.only_the_living()
        return told if told.number == watch.run else None

    def leave(self) -> None:
        """Nobody waits for the run at hand any more: lanes that are at work end the step at hand, and are late."""
        watch = self._watch
        self.look_at_late()  # those that have just ended, too
        for index in sorted(watch.pending):
            watch.late[index] = watch.run  # both at once, after an interrupt: `settle` ends both
        self.stop()
        watch.pending.clear()

    def stop(self) -> None:
        """Lanes that are at work need not begin another step of the run at hand."""
        watch = self._watch
        for index in sorted(watch.pending):
            if watch.workers[index].alive:
                watch.workers[index].stop_run(watch.run)

    def look_at_late(self) -> None:
        """Take what late lanes have said; waits for nobody. One that is found to have ended is `broken`."""
        for _ in range(_MOST_TOLD):  # one that tells without an end is not listened to for ever
            told = [index for index in self.ready(0.0) if index in self.late]
            if not told:
                return
            for index in told:
                with contextlib.suppress(EsenError):
                    self.take_step(index)

    def catch_up(self, deadline: Deadline) -> None:
        """Wait until no lane is late.

        Raises:
            WorkerTimeout: The deadline passed; the lanes that are late are ended.
        """
        watch = self._watch
        self.look_at_late()
        began, late = time.monotonic(), sorted(self.late)
        names = ", ".join(name for index in late for name in watch.lanes[index].members)
        words = f"lanes that were late from an earlier call: {names}"
        while self.late and not watch.broken:
            if deadline.left_s <= 0:
                watch.end(self.late)
                raise deadline.passed(words)
            self.ready(min(deadline.at_s, time.monotonic() + _SLICE_S))
            self.look_at_late()
        if late:
            self._caught_up = f"Before it began, it waited {format_seconds(time.monotonic() - began)} for {words}."

    def told_caught_up(self) -> str:
        """How long was waited for which late lanes since this was asked last, a sentence; or ""."""
        told, self._caught_up = self._caught_up, ""
        return told
