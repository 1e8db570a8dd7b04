"""Which of a plan's lanes are alive, at work and late; what they say is waited for here, and here they are ended.

One record for whoever wakes and hears lanes: a plain run (`lane_group.py`), and one that is told step by step
(`stepwise.py`). So an interrupt in either leaves one place that says who may still be at work.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from select import POLLIN, poll

from esen_lab.common.resources import aside
from esen_lab.errors import EsenError, WorkerDied
from esen_lab.lanes import ForkServer, Worker
from esen_lab.planner.plan import Lane

SETTLE_S = 1.0
"""How long lanes may finish what they are at after an interrupt, before they are ended."""


class LaneWatch:
    """Used by one thread at a time, but for `end` and `give_up`.

    Args:
        workers: One per lane, loaded; the list is shared by all that use these lanes.
        lanes: The plan's.
        fork_server: Started the workers; started anew, it takes them along.

    Attributes:
        workers: As given.
        lanes: As given.
        run: The number of the last run: an answer to another one is dropped.
        stepwise: Whether that one is told step by step.
        pending: Lanes that were woken for it and have not answered.
        late: Lanes that are at work for a run that nobody waits for any more, and the number of that run. Their input
            is not to be overwritten, nothing is to be asked of them, and what they tell is dropped.
    """

    def __init__(self, workers: list[Worker], lanes: Sequence[Lane], fork_server: ForkServer) -> None:
        self.workers = workers
        self.lanes = lanes
        self._fork_server = fork_server
        self._given_up = ""
        self.run = 0
        self.stepwise = False
        self.pending: set[int] = set()
        self.late: dict[int, int] = {}
        self.only_the_living()

    def only_the_living(self) -> None:
        """Make the poller anew: the descriptor of a worker that ended is closed, and may come back as another's."""
        self._poller = poll()
        self._by_fd: dict[int, int] = {}
        self._listened_to: set[int] = set()
        for index, worker in enumerate(self.workers):
            if worker.alive:
                self._listened_to.add(index)
                self._poller.register(worker.fileno(), POLLIN)
                self._by_fd[worker.fileno()] = index
                if worker.process_fd >= 0:
                    self._poller.register(worker.process_fd, POLLIN)  # a child of it may hold its socket open
                    self._by_fd[worker.process_fd] = index

    def replace(self, index: int, worker: Worker) -> None:
        """Another process is this lane from now on, loaded, in the place of one that has ended."""
        self.workers[index] = worker
        self.pending.discard(index)
        self.late.pop(index, None)
        self.only_the_living()

    def heard(self, timeout_ms: float) -> list[int]:
        """Lanes that have something to say, after at most so long; one may come twice, its process having ended.

        One that had ended before anybody heard of it, such as beside another one, is heard at once: nothing of it is
        left to wait for.
        """
        if not self._listened_to >= self.pending:
            return sorted(self.pending - self._listened_to)
        return [self._by_fd[fd] for fd, _ in self._poller.poll(timeout_ms)]

    @property
    def given_up(self) -> str:
        """Why no lane can run any more, whoever lives, or ""."""
        if not self._given_up and self._fork_server.cut_off:
            self._given_up = "the process that starts lanes was cut off"
        return self._given_up

    @property
    def broken(self) -> str:
        """Why the lanes cannot run any more, or ""."""
        if not self._given_up:
            dead = [worker.label for worker in self.workers if not worker.alive]
            if dead:
                return f"{', '.join(dead)} ended"  # said anew each time: one may be started in its place
        return self.given_up

    def give_up(self, why: str) -> None:
        """They are broken from now on; the first reason stays."""
        self._given_up = self._given_up or why

    def begin(self, *, stepwise: bool) -> int:
        """Another run begins; returns its number."""
        self.run += 1
        self.stepwise = stepwise
        return self.run

    def named(self, failure: EsenError, index: int) -> EsenError:
        """The same failure with the sub-models of its lane, where that has ended."""
        if not self.workers[index].alive:
            self.only_the_living()
        if isinstance(failure, WorkerDied):
            members = ", ".join(self.lanes[index].members)
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
        for index in range(len(self.workers)) if late is None else late:
            worker = self.workers[index]
            aside(worker.kill, "esen_lab end a lane")

    def settle(self) -> None:
        """After an interrupt: let lanes finish what they are at for a moment, and end those that do not."""
        pending = self.pending
        until = time.monotonic() + SETTLE_S
        try:
            while pending and (left := until - time.monotonic()) > 0:
                for index in self.heard(left * 1000):
                    try:
                        if index in pending and not self._over(index):
                            continue
                    except EsenError:  # what it reports belongs to a run that nobody waits for any more
                        self.only_the_living()
                    pending.discard(index)
                    self.late.pop(index, None)
        finally:
            # Also where a second interrupt ends the wait: lanes that are still at work would read the next input.
            for index in sorted(pending):
                self.give_up("a lane was ended in the middle of a run")
                self.workers[index].close(timeout_s=0)
                self.late.pop(index, None)
            pending.clear()

    def _over(self, index: int) -> bool:
        """Take what a lane has to say; whether it has ended the last run with it."""
        if not self.stepwise:
            return self.workers[index].take_run(self.run) is not None
        told = self.workers[index].take_step()
        return told.over and told.number == self.run
