"""The lanes of one plan as one: woken together, waited for together, ended together.

    wake      each lane gets a few bytes, and starts at once
    collect   waits for the answer of every lane
    settle    what comes in the place of `collect` after an interrupt: lanes finish, or are ended
    leave     what comes in its place where an answer does not wait for all: lanes that are at work are late
    catch_up  waits until no lane is late
    end       what a deadline does: lanes that have not answered are ended

Where the lanes leave a core free, this process is awake for the last moments before the answer is due. One that sleeps
until then pays several times what its part of the work costs, for cold caches and for waking.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Sequence
from select import POLLIN, poll

from esen_lab.common.trees import Tree
from esen_lab.common.units import format_seconds
from esen_lab.errors import EsenError, WorkerDied, WorkerTimeout
from esen_lab.lanes import ForkServer, StepTold, Worker
from esen_lab.lanes.waking import WakingOrder
from esen_lab.planner.plan import Lane
from esen_lab.planner.steps import Step, is_plain
from esen_lab.run.deadline import Deadline
from esen_lab.run.lane_steps import answers_of_members

SETTLE_S = 1.0
"""How long lanes may finish what they are at after an interrupt, before they are ended."""

_SLICE_S = 0.25  # of a wait: an interrupt may reach another thread
_FINE_S = 0.001
_MOST_TOLD = 10_000  # by late lanes, while somebody only looks
_FINEST_S = 0.0001
# With a core to spare, the last moments before the expected answer are spent looking instead of sleeping.
_LOOK_PART = 0.05
_LOOK_LEAST_S = 0.0002
_LOOK_MOST_S = 0.001
_LOOK_FROM_S = 0.003  # after a shorter sleep there is nothing to gain


class DiedLate(WorkerDied):
    """A lane ended while it was still at an earlier run: this one is not to blame, and may be made with new lanes."""


class LaneGroup:
    """The workers of one plan. Used by one thread at a time, but for `end` and `give_up`.

    Args:
        workers: One per lane, loaded.
        lanes: The plan's.
        fork_server: Started the workers; started anew, it takes them along.
        core_to_spare: Whether this process can stay awake without taking a core from a lane.

    Attributes:
        lasted_s: From the wake-ups to the last answer, last time; 0 where that is not known for the input at hand.
        derived: Whether a lane runs groups of sub-models, or parts of a batch.
        late: Lanes that are at work for a run that nobody waits for any more, and the number of that run. Their input
            is not to be overwritten, nothing is to be asked of them, and what they tell is dropped.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        lanes: Sequence[Lane],
        fork_server: ForkServer,
        *,
        core_to_spare: bool,
    ) -> None:
        self._workers = workers
        self._lanes = lanes
        self._derived = {n: Step.of(n) for lane in lanes for n in lane.members if not is_plain(n)}
        self.derived = bool(self._derived)
        self._fork_server = fork_server
        self._core_to_spare = core_to_spare
        self.lasted_s = 0.0
        self._broken = ""
        self._run = 0  # the number of the last run: an answer to another one is dropped
        self._pending: set[int] = set()  # lanes that were woken and have not answered
        self._stepwise = False  # whether the last run is told step by step
        self.late: dict[int, int] = {}
        self._caught_up = ""
        self._slowest_first = list(range(len(workers)))
        self._waking = WakingOrder([worker.pid for worker in workers])
        self._watch_only_the_living()

    def _watch_only_the_living(self) -> None:
        """Make the poller anew: the descriptor of a worker that ended is closed, and may come back as another's."""
        self._poller = poll()
        self._by_fd = {}
        for index, worker in enumerate(self._workers):
            if worker.alive:
                self._poller.register(worker.fileno(), POLLIN)
                self._by_fd[worker.fileno()] = index
                if worker.process_fd >= 0:
                    self._poller.register(worker.process_fd, POLLIN)  # a child of it may hold its socket open
                    self._by_fd[worker.process_fd] = index

    @property
    def broken(self) -> str:
        """Why the lanes cannot run any more, or ""."""
        if not self._broken:
            dead = [worker.label for worker in self._workers if not worker.alive]
            if dead:
                return f"{', '.join(dead)} ended"  # said anew each time: one may be started in its place
            if self._fork_server.cut_off:
                self._broken = "the process that starts lanes was cut off"
        return self._broken

    def give_up(self, why: str) -> None:
        """They are broken from now on; the first reason stays."""
        self._broken = self._broken or why

    def check(self, deadline: Deadline) -> None:
        """Go on only where all lanes can run and none is at work; late ones are waited for.

        Raises:
            WorkerDied: They cannot.
            WorkerTimeout: See `catch_up`.
        """
        if self.late and not self.broken:
            self.catch_up(deadline)
            if self.broken:
                raise DiedLate(f"A lane ended while it was at an earlier run: {self.broken}", hint="Run again.")
        if self.broken:
            raise WorkerDied(f"This plan's lanes cannot run: {self.broken}", hint="Start the plan again.")
        if self._pending:  # an interrupt came where nothing could settle them: they may still read the input
            self.settle()
            if self.broken:
                raise WorkerDied(f"This plan's lanes cannot run: {self.broken}", hint="Run again: they start anew.")

    def check_but_for_dead(self, *, allowed: bool) -> None:
        """Go on where lanes can run; where it is allowed, some of them may have ended.

        Raises:
            WorkerDied: They cannot.
        """
        given_up = self._broken or ("the process that starts lanes was cut off" if self._fork_server.cut_off else "")
        if given_up:
            raise WorkerDied(f"This plan's lanes cannot run: {given_up}", hint="Start the plan again.")
        if self.broken and not (allowed and any(worker.alive for worker in self._workers)):
            raise DiedLate(f"This plan's lanes cannot run: {self.broken}", hint="Start the plan again.")

    def wake(self, seed: int | None) -> None:
        """Have every lane run; `collect` or `settle` follows.

        Args:
            seed: Of the run's random numbers; None where no sub-model draws any.
        """
        self._run += 1
        self._stepwise = False
        pending = self._pending
        try:
            # Each wake-up takes a moment: the one that matters goes first.
            for index in self._waking.of(self._slowest_first):
                # Noted before it is woken: an interrupt in between costs a lane, which `settle` waits for in vain and
                # ends. The other way round one would be at work that nobody waits for, while its input is overwritten.
                pending.add(index)
                self._workers[index].start_run(self._run, seed)
        except BaseException:
            # One that had ended when it was to be woken answers nothing.
            pending.intersection_update([index for index in pending if self._workers[index].alive])
            self.settle()
            raise

    def collect(self, deadline: Deadline, rehearse: Callable[[], object]) -> list[bytes]:
        """Wait for every lane's packed times, in the order of the lanes.

        Args:
            deadline: Lanes that have not answered then are ended.
            rehearse: Called with a core to spare, shortly before the answers are due: brings what follows into caches.

        Raises:
            WorkerTimeout: The deadline passed; the lanes are broken.
            EsenError: A sub-model raised, or a lane has ended.
        """
        timings: dict[int, bytes] = {}
        pending = self._pending
        problem: EsenError | None = None
        try:
            # 1. With a core to spare: asleep for most of the time, awake and warm at its end.
            if self._core_to_spare and self.lasted_s > _LOOK_FROM_S:
                self._look_out(min(self.lasted_s, deadline.left_s), rehearse)
            while pending:
                for index in self._answered(deadline):
                    # 2. Twice in one answer of the poller: its socket, and its process, which has ended.
                    if index not in pending:
                        continue
                    try:
                        timing = self._workers[index].take_run(self._run)
                    except EsenError as failure:
                        # 3. Kept, not raised: the others are waited for first. Lanes that are at work when the next
                        # input is written would read half of it, and their answers would come to the next run.
                        problem = problem or self._named(failure, index)
                        pending.discard(index)
                        continue
                    # 4. None: that was an answer to a run that was interrupted. Its own is still to come.
                    if timing is not None:
                        pending.discard(index)
                        timings[index] = timing
        except WorkerTimeout:
            # 5. Nobody waits any longer for them, also not for their ends.
            self.end(pending)
            raise
        except BaseException:
            # 6. An interrupt, between any two of the lines above: `pending` says who may still be at work. One that has
            # answered and is still noted is ended, which costs a start; one too few would cost a right answer.
            self.settle()
            raise
        if problem is not None:
            raise problem
        return [timings[index] for index in range(len(self._workers))]

    def _look_out(self, expected_s: float, rehearse: Callable[[], object]) -> None:
        """Wait until a lane answers, or for a moment longer than expected; the last of it awake and warm."""
        margin = min(max(expected_s * _LOOK_PART, _LOOK_LEAST_S), _LOOK_MOST_S)
        due = time.perf_counter() + expected_s
        while (left := due - margin - time.perf_counter()) > 0.001:
            if self._poller.poll(int(min(left, _SLICE_S) * 1000)):
                return
        rehearse()
        while not self._poller.poll(0) and time.perf_counter() < due + margin:
            pass

    def _answered(self, deadline: Deadline) -> list[int]:
        """Lanes that have an answer to take; waits for a moment at most, so maybe none yet."""
        left_s = deadline.at_s - time.monotonic()
        # In slices: an interrupt may reach another thread, and a longer wait here would not notice it.
        ready = self._poller.poll(max(0.0, min(left_s, _SLICE_S)) * 1000)
        if not ready and left_s <= _SLICE_S:
            late = [name for index in sorted(self._pending) for name in self._lanes[index].members]
            raise deadline.passed(f"the lane of {', '.join(late)}")
        return [index for index in (self._by_fd[fd] for fd, _ in ready) if index in self._pending]

    def _named(self, failure: EsenError, index: int) -> EsenError:
        """The same failure with the sub-models of its lane, where that has ended."""
        if not self._workers[index].alive:
            self._watch_only_the_living()
        if isinstance(failure, WorkerDied):
            members = ", ".join(self._lanes[index].members)
            return WorkerDied(
                f"{failure.rule.rstrip('.')} (it holds {members})",
                worker_traceback=failure.worker_traceback,
                log=failure.log,
                hint="Run again: the lanes are started anew.",
            )
        return failure

    def end(self, late: Collection[int] | None = None) -> None:
        """A deadline has passed: end these lanes, or all, without waiting for their ends."""
        self.give_up("a lane did not answer before a deadline")
        for index in range(len(self._workers)) if late is None else late:
            worker = self._workers[index]
            threading.Thread(target=worker.kill, name="esen_lab end a lane", daemon=True).start()

    def settle(self) -> None:
        """After an interrupt: let lanes finish what they are at for a moment, and end those that do not."""
        pending = self._pending
        until = time.monotonic() + SETTLE_S
        try:
            while pending and (left := until - time.monotonic()) > 0:
                for fd, _ in self._poller.poll(left * 1000):
                    index = self._by_fd[fd]
                    try:
                        if index in pending and not self._over(index):
                            continue
                    except EsenError:  # what it reports belongs to a run that nobody waits for any more
                        self._watch_only_the_living()
                    pending.discard(index)
                    self.late.pop(index, None)
        finally:
            # Also where a second interrupt ends the wait: lanes that are still at work would read the next input.
            for index in sorted(pending):
                self.give_up("a lane was ended in the middle of a run")
                self._workers[index].close(timeout_s=0)
                self.late.pop(index, None)
            pending.clear()

    def _over(self, index: int) -> bool:
        """Take what a lane has to say; whether it has ended the last run with it."""
        if not self._stepwise:
            return self._workers[index].take_run(self._run) is not None
        told = self._workers[index].take_step()
        return told.over and told.number == self._run

    # --- step by step, and lanes that are late -------------------------------------------------------------------

    def begin_stepwise(self) -> None:
        """A run begins that is told step by step; lanes are woken by `rouse`, the slowest first.

        Raises:
            WorkerDied: Lanes that were at work after an interrupt had to be ended.
        """
        if self._pending:
            self.settle()
        self._run += 1
        self._stepwise = True

    @property
    def at_rest(self) -> list[int]:
        """Lanes that can be woken, the one that takes longest first."""
        lanes = self._waking.of(self._slowest_first)
        busy = self._pending
        return [n for n in lanes if n not in self.late and n not in busy and self._workers[n].alive]

    @property
    def at_work(self) -> set[int]:
        """Lanes that were woken for the run at hand and have not ended it."""
        return self._pending

    def rouse(self, index: int, seed: int | None) -> None:
        """Wake one lane for the run at hand.

        Raises:
            WorkerDied: It has ended.
        """
        self._pending.add(index)  # before it is woken: see `wake`
        try:
            self._workers[index].start_run(self._run, seed, stepwise=True)
        except EsenError:
            self._pending.discard(index)
            self._watch_only_the_living()
            raise

    def ready(self, until_s: float) -> list[int]:
        """Lanes that have something to say; waits until a moment of `time.monotonic` at most, to a tenth of a ms."""
        left_s = until_s - time.monotonic()
        if left_s > _FINE_S:  # the system counts in whole milliseconds, upwards
            found = self._poller.poll(int(min(left_s, _SLICE_S) * 1000))
        else:
            found = self._poller.poll(0)
            if not found and left_s > 0:
                time.sleep(min(left_s, _FINEST_S))
        return sorted({self._by_fd[fd] for fd, _ in found})

    def take_step(self, index: int) -> StepTold | None:
        """Take one thing that a lane has to say; None where it was of a run that nobody waits for.

        Raises:
            EsenError: The lane has ended, or sends what no lane sends.
        """
        try:
            told = self._workers[index].take_step()
        except EsenError as failure:
            self._pending.discard(index)
            self.late.pop(index, None)
            raise self._named(failure, index) from failure
        if told.over or not self._workers[index].alive:
            if self.late.get(index) == told.number:
                del self.late[index]
            if told.number == self._run:
                self._pending.discard(index)
            if not self._workers[index].alive:
                self.late.pop(index, None)
                self._watch_only_the_living()
        return told if told.number == self._run else None

    def leave(self) -> None:
        """Nobody waits for the run at hand any more: lanes that are at work end the step at hand, and are late."""
        self.look_at_late()  # those that have just ended, too
        for index in sorted(self._pending):
            self.late[index] = self._run  # both at once, after an interrupt: `settle` ends both
        self.stop()
        self._pending.clear()

    def stop(self) -> None:
        """Lanes that are at work need not begin another step of the run at hand."""
        for index in sorted(self._pending):
            if self._workers[index].alive:
                self._workers[index].stop_run(self._run)

    def steps_of_lane(self, index: int) -> tuple[str, ...]:
        """What a lane runs."""
        return self._lanes[index].members

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
        self.look_at_late()
        began, late = time.monotonic(), sorted(self.late)
        words = (
            f"lanes that were late from an earlier call: {', '.join(n for i in late for n in self._lanes[i].members)}"
        )
        while self.late and not self.broken:
            if deadline.left_s <= 0:
                self.end(self.late)
                raise deadline.passed(words)
            self.ready(min(deadline.at_s, time.monotonic() + _SLICE_S))
            self.look_at_late()
        if late:
            self._caught_up = f"Before it began, it waited {format_seconds(time.monotonic() - began)} for {words}."

    def told_caught_up(self) -> str:
        """How long was waited for which late lanes since this was asked last, a sentence; or ""."""
        told, self._caught_up = self._caught_up, ""
        return told

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
