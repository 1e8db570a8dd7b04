"""The lanes of one plan as one: woken together, waited for together, ended together.

    wake      each lane gets a few bytes, and starts at once
    collect   waits for the answer of every lane
    stepwise  what comes in the place of all that where an answer does not wait for every lane (`stepwise.py`)
    watch     who is alive, at work and late; lets lanes finish after an interrupt, and ends them (`lane_watch.py`)

Where the lanes leave a core free, this process is awake for the last moments before the answer is due. One that sleeps
until then pays several times what its part of the work costs, for cold caches and for waking.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Collection, Sequence

from esen_lab.common.trees import Tree
from esen_lab.errors import EsenError, WorkerDied, WorkerTimeout
from esen_lab.lanes import ForkServer, Worker
from esen_lab.planner.plan import Lane
from esen_lab.planner.steps import derived_of
from esen_lab.run.deadline import Deadline
from esen_lab.run.lane_steps import answers_of_members
from esen_lab.run.lane_watch import LaneWatch
from esen_lab.run.stepwise import StepwiseLanes

_SLICE_S = 0.25  # of a wait: an interrupt may reach another thread
# With a core to spare, the last moments before the expected answer are spent looking instead of sleeping.
_LOOK_PART = 0.05
_LOOK_LEAST_S = 0.0002
_LOOK_MOST_S = 0.001
_LOOK_FROM_S = 0.003  # after a shorter sleep there is nothing to gain


class DiedLate(WorkerDied):
    """A lane ended while it was still at an earlier run: this one is not to blame, and may be made with new lanes."""


class LaneGroup:
    """The workers of one plan, or of one of its stages. Used by one thread at a time.

    Args:
        workers: One per lane, loaded; the list is shared by all that use these lanes.
        lanes: The plan's.
        fork_server: Started the workers; started anew, it takes them along.
        core_to_spare: Whether this process can stay awake without taking a core from a lane.

    Attributes:
        lasted_s: From the wake-ups to the last answer, last time; 0 where that is not known for the input at hand.
        drew: Steps that were seen to draw random numbers, which their examples did not show.
        derived: Whether a lane runs groups of sub-models, or parts of a batch.
        stepwise: The same lanes for runs that do not wait for all of them.
        watch: Who of them is alive, at work and late.
    """

    def __init__(
        self,
        workers: list[Worker],
        lanes: Sequence[Lane],
        fork_server: ForkServer,
        *,
        core_to_spare: bool,
    ) -> None:
        self._workers = workers
        self._lanes = lanes
        self.watch = LaneWatch(workers, lanes, fork_server)
        self.stepwise = StepwiseLanes(self.watch, lambda: self._waking.of(self._slowest_first))
        self._derived = derived_of(name for lane in lanes for name in lane.members)
        self.derived = bool(self._derived)
        self._core_to_spare = core_to_spare
        self.lasted_s = 0.0
        self.drew: set[str] = set()
        self._slowest_first = list(range(len(workers)))
        self._waking = WakingOrder([worker.pid for worker in workers])

    def replace(self, index: int, worker: Worker) -> None:
        """Another process is this lane from now on, loaded, in the place of one that has ended."""
        self.watch.replace(index, worker)
        self._waking = WakingOrder([worker.pid for worker in self._workers])

    def take_drew(self) -> Collection[str]:
        """Steps that were seen to draw since this was asked last: see `drew`."""
        drew, self.drew = self.drew, set()
        return drew

    def check(self, deadline: Deadline) -> None:
        """Go on only where all lanes can run and none is at work; late ones are waited for.

        Raises:
            WorkerDied: They cannot.
            WorkerTimeout: See `catch_up`.
        """
        watch = self.watch
        if watch.late and not watch.broken:
            self.stepwise.catch_up(deadline)
            if watch.broken:
                raise DiedLate(f"A lane ended while it was at an earlier run: {watch.broken}", hint="Run again.")
        if watch.broken:
            raise WorkerDied(f"This plan's lanes cannot run: {watch.broken}", hint="Start the plan again.")
        if watch.pending:  # an interrupt came where nothing could settle them: they may still read the input
            watch.settle()
            if watch.broken:
                raise WorkerDied(f"This plan's lanes cannot run: {watch.broken}", hint="Run again: they start anew.")

    def check_but_for_dead(self, *, allowed: bool) -> None:
        """Go on where lanes can run; where it is allowed, some of them may have ended.

        Raises:
            WorkerDied: They cannot.
        """
        if self.watch.given_up:
            raise WorkerDied(f"This plan's lanes cannot run: {self.watch.given_up}", hint="Start the plan again.")
        if self.watch.broken and not (allowed and any(worker.alive for worker in self._workers)):
            raise DiedLate(f"This plan's lanes cannot run: {self.watch.broken}", hint="Start the plan again.")

    def wake(self, seed: int | None) -> None:
        """Have every lane run; `collect` follows, or `LaneWatch.settle` after an interrupt.

        Args:
            seed: Of the run's random numbers; None where no sub-model draws any.
        """
        run, pending = self.watch.begin(stepwise=False), self.watch.pending
        try:
            # Each wake-up takes a moment: the one that matters goes first.
            for index in self._waking.of(self._slowest_first):
                # Noted before it is woken: an interrupt in between costs a lane, which `settle` waits for in vain and
                # ends. The other way round one would be at work that nobody waits for, while its input is overwritten.
                pending.add(index)
                self._workers[index].start_run(run, seed)
        except BaseException:
            # One that had ended when it was to be woken answers nothing.
            pending.intersection_update([index for index in pending if self._workers[index].alive])
            self.watch.only_the_living()
            self.watch.settle()
            raise

    def meanwhile(self, act: Callable[[], object]) -> None:
        """Do something while the lanes work; whatever it raises, none is left at work."""
        try:
            act()
        except BaseException:
            self.watch.settle()
            raise

    def collect(
        self,
        deadline: Deadline,
        rehearse: Callable[[], object],
        one_is_done: Callable[[], object] | None = None,
    ) -> list[bytes]:
        """Wait for every lane's packed times, in the order of the lanes.

        Args:
            deadline: Lanes that have not answered then are ended.
            rehearse: Called with a core to spare, shortly before the answers are due: brings what follows into caches.
            one_is_done: Called once, when the first lane has answered.

        Raises:
            WorkerTimeout: The deadline passed; the lanes are broken.
            EsenError: A sub-model raised, or a lane has ended.
        """
        timings: dict[int, bytes] = {}
        pending = self.watch.pending
        problem: EsenError | None = None
        try:
            # 1. With a core to spare: asleep for most of the time, awake and warm at its end.
            if self._core_to_spare and self.lasted_s > _LOOK_FROM_S:
                self._look_out(min(self.lasted_s, deadline.left_s), rehearse)
            while pending:
                failed = self._take(self._answered(deadline), timings)
                problem = problem or failed
                if one_is_done is not None and len(pending) < len(self._workers):
                    one_is_done()
                    one_is_done = None
        except WorkerTimeout:
            # 2. Nobody waits any longer for them, also not for their ends.
            self.watch.end(pending)
            raise
        except BaseException:
            # 3. An interrupt, between any two of the lines above: `pending` says who may still be at work. One that has
            # answered and is still noted is ended, which costs a start; one too few would cost a right answer.
            self.watch.settle()
            raise
        if problem is not None:
            raise problem
        return [timings[index] for index in range(len(self._workers))]

    def _take(self, answered: Sequence[int], timings: dict[int, bytes]) -> EsenError | None:
        """Take what these lanes have answered; returns the first failure of one."""
        watch, pending = self.watch, self.watch.pending
        problem: EsenError | None = None
        for index in answered:
            # 1. Twice in one answer of the poller: its socket, and its process, which has ended.
            if index not in pending:
                continue
            try:
                timing = self._workers[index].take_run(watch.run)
            except EsenError as failure:
                # 2. Kept, not raised: the others are waited for first. Lanes that are at work when the next input is
                # written would read half of it, and their answers would come to the next run.
                problem = problem or watch.named(failure, index)
                pending.discard(index)
                continue
            # 3. None: that was an answer to a run that was interrupted. Its own is still to come.
            if timing is not None:
                pending.discard(index)
                timings[index] = timing
        return problem

    def _look_out(self, expected_s: float, rehearse: Callable[[], object]) -> None:
        """Wait until a lane answers, or for a moment longer than expected; the last of it awake and warm."""
        margin = min(max(expected_s * _LOOK_PART, _LOOK_LEAST_S), _LOOK_MOST_S)
        due = time.perf_counter() + expected_s
        while (left := due - margin - time.perf_counter()) > 0.001:
            if self.watch.heard(int(min(left, _SLICE_S) * 1000)):
                return
        rehearse()
        while not self.watch.heard(0) and time.perf_counter() < due + margin:
            pass

    def _answered(self, deadline: Deadline) -> list[int]:
        """Lanes that have an answer to take; waits for a moment at most, so maybe none yet."""
        left_s = deadline.at_s - time.monotonic()
        # In slices: an interrupt may reach another thread, and a longer wait here would not notice it.
        ready = self.watch.heard(max(0.0, min(left_s, _SLICE_S)) * 1000)
        if not ready and left_s <= _SLICE_S:
            late = [name for index in sorted(self.watch.pending) for name in self._lanes[index].members]
            raise deadline.passed(f"the lane of {', '.join(late)}")
        return [index for index in ready if index in self.watch.pending]

    def steps_of_lane(self, index: int) -> tuple[str, ...]:
        """What a lane runs."""
        return self._lanes[index].members

    def order_by(self, lasted_s: Sequence[float]) -> None:
        """Wake them by this from now on, the slowest first.

        Args:
            lasted_s: For each lane, how long it was busy last time.
        """
        self._slowest_first.sort(key=lambda index: -lasted_s[index])

    def outputs(self, names: Sequence[str]) -> dict[str, Tree]:
        """What each sub-model answered last, in the order of `names`, as views that the next run overwrites.

        Only the answer of one whose batch was split is a copy.
        """
        found: dict[str, Tree] = {}
        for lane, worker in zip(self._lanes, self._workers, strict=True):
            found.update(zip(lane.members, worker.outputs(), strict=True))
        if self._derived:
            found = answers_of_members(found, self._derived)
        return {name: found[name] for name in names if name in found}


class WakingOrder:
    """Knows the cores of each lane, and on which core the calling thread runs.

    A lane that is woken may take the core of the thread that wakes it, at once and for milliseconds, above all when
    that thread has just computed. The lanes after it would then be woken late.

    Args:
        pids: The process of each lane; this process's own for one that is no process.
    """

    def __init__(self, pids: Sequence[int]) -> None:
        self._cores = [_cores_of(pid) for pid in pids]
        self._here: Callable[[], int] | None = getattr(ctypes.CDLL(None), "sched_getcpu", None)

    def of(self, lanes: Sequence[int]) -> Sequence[int]:
        """The same lanes in the same order, but those that may take the core we are on at the end."""
        if self._here is None or len(lanes) < 2:
            return lanes
        here = self._here()
        return sorted(lanes, key=lambda lane: here in self._cores[lane])


def _cores_of(pid: int) -> set[int]:
    try:
        return os.sched_getaffinity(pid) if pid != os.getpid() else set()
    except (AttributeError, OSError):  # not Linux, or it has just ended
        return set()
