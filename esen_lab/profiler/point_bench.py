"""Where a point is taken: nothing else is at work on the device, a sub-model is built in a worker, and timed there.

A point that was measured while other programs took the cores (`Point.loaded`) is measured again after a moment, up to
twice, and the quietest of the three counts. Two points in a row for which that did not help end such attempts: a
machine that stays busy is not waited for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from esen_lab.common.jobs import JobState
from esen_lab.common.locks import Lock
from esen_lab.errors import Cancelled
from esen_lab.files.machine_lock import MachineLock, MachineLocks
from esen_lab.lanes.plain import as_answer
from esen_lab.profiler.level import OtherCode, end_building
from esen_lab.profiler.records import is_loaded
from esen_lab.profiler.timing import Timing

if TYPE_CHECKING:
    from esen_lab.devices import Device
    from esen_lab.ensemble import SubModel
    from esen_lab.lanes import Worker

MEASURE = "esen_lab.profiler.timing:measure"
DeviceLock = Callable[[], AbstractContextManager[object]]
_MOST_ATTEMPTS = 3  # at a point, while the machine is busy
_MOMENT_S = 0.3  # between them: most bursts of other programs are over then
_BUSY_TOLERATED = 2  # points in a row that no attempt made quiet


class PointBench:
    """One per job, used by its thread; `end_building` may be called by any.

    Args:
        device: Where.
        measuring: The locks that other processes which measure hold.
        device_lock: Makes what is held around each point.
        stop: Set when the job is to end.
        clock: Seconds that only grow.
        now: Told the job's state and what is measured, whenever that changes.
        note: Told what a user should know.
        evicted: Whether sub-models evict each other's weights: see `caches.weights_evicted`.
    """

    def __init__(
        self,
        device: Device,
        *,
        measuring: MachineLock | MachineLocks,
        device_lock: DeviceLock,
        stop: threading.Event,
        clock: Callable[[], float],
        now: Callable[[JobState, str], None],
        note: Callable[[str], None],
        evicted: bool = False,
    ) -> None:
        self._device = device
        self._measuring = measuring
        self._device_lock = device_lock
        self._stop = stop
        self.clock = clock
        self._now = now
        self._note = note
        self._evicted = evicted
        self._lock = Lock()
        self._building: Worker | None = None
        self._stayed_busy = 0  # points in a row that were loaded at every attempt

    def check(self) -> None:
        """Go on, unless the job is to end.

        Raises:
            Cancelled: It is.
        """
        if self._stop.is_set():
            raise Cancelled("The profile was stopped on request")

    def end_building(self) -> None:
        """End a worker that is building: that does not listen to cancellation, and a factory may take for ever."""
        with self._lock:
            if self._building is not None:
                end_building(self._building)

    def share(self, units: int) -> str:
        """A share in words."""
        return f"{units} of {self._device.units} units"

    @contextmanager
    def alone(self, current: str) -> Iterator[None]:
        """Nothing else measures or runs on the device: the machine-wide lock, then the device lock.

        In this order: another process may measure for minutes, and who holds the device lock keeps runs waiting.
        """
        with self._measuring.held(self._stop, on_wait=lambda: self._now(JobState.WAITING, current)):
            if self._measuring.note:
                self._note(f"Another notebook that measures now would spoil the figures: {self._measuring.note}.")
            self._now(JobState.WAITING, current)
            with self._device_lock():
                self.check()
                self._now(JobState.RUNNING, current)
                try:
                    yield
                finally:
                    self._now(JobState.RUNNING, "")

    def load(self, submodel: SubModel, label: str, payload: bytes, worker: Worker, timeout_s: float) -> None:
        """Build a sub-model in a worker, which calls it `label` from then on."""
        with self._lock:
            self.check()
            self._building = worker
        try:
            other_code = worker.load(label, payload, submodel.example, traits=submodel.traits, timeout_s=timeout_s)
        finally:
            with self._lock:
                self._building = None
        if other_code:
            others = ", ".join(other_code[:3]).replace(":", ".")
            raise OtherCode(
                f"A point is of the code that runs in this process; {others} is not so elsewhere",
                given="a file that was edited after it was imported, or a function that was replaced",
                hint="Reload the module, make the network anew and register it, or restart the kernel.",
            )

    def timed(self, name: str, worker: Worker, budget_s: float, deadline: float) -> Timing:
        """Time a sub-model that was built there, once."""
        answer = worker.call(
            MEASURE,
            name,
            timeout_s=max(0.0, deadline - self.clock()),
            cancelled=self._stop,
            budget_s=budget_s,
            # A simulated device replays its times, whatever the machine does.
            load=not self._device.identity.simulated,
            before=not self._device.identity.simulated,
            evicted=self._evicted,
        )
        return as_answer(answer, Timing)

    def timing(self, name: str, worker: Worker, budget_s: float, deadline: float) -> Timing:
        """What was measured; of several attempts on a busy machine, at the quietest one."""
        attempts: list[Timing] = []
        while True:
            began = self.clock()
            found = self.timed(name, worker, budget_s, deadline)
            attempts.append(found)
            lasted_s = self.clock() - began
            if not is_loaded(_load_of(found)):
                self._stayed_busy = 0
                return found
            tired = self._stayed_busy >= _BUSY_TOLERATED or len(attempts) == _MOST_ATTEMPTS
            if tired or self.clock() + _MOMENT_S + 2 * lasted_s > deadline:
                self._stayed_busy += 1
                return min(attempts, key=_load_of)
            if self._stop.wait(_MOMENT_S):
                self.check()


def _load_of(found: Timing) -> float:
    """The load that a timing was taken under; 0 where that was not read."""
    load = found.readings.get("load")
    return load if isinstance(load, float) else 0.0
