"""The worker of one share, in which sub-models are measured one after another, and what it is given."""

from __future__ import annotations

import traceback
from types import TracebackType
from typing import TYPE_CHECKING

from esen_lab.common.resources import aside
from esen_lab.errors import EsenError, ModelError, UsageError
from esen_lab.lanes.backends import wrapped_submodel

if TYPE_CHECKING:
    from esen_lab.devices import Device
    from esen_lab.ensemble import SubModel
    from esen_lab.lanes import ForkServer, Worker
    from esen_lab.lanes.settings import Settings


class Level:
    """The worker of one share: started when first needed, replaced when it died, closed at the end.

    Args:
        device: Where.
        fork_server: Starts it.
        units: The share.
        settings: What is measured under, whatever the session sets meanwhile.

    Attributes:
        problem: Why no worker could be started; None where one could, or nobody has asked for one.
        loaded: What its worker holds, for whoever measures it more than once: added by him, and gone with the worker.
    """

    def __init__(self, device: Device, fork_server: ForkServer, units: int, settings: Settings | None) -> None:
        self._device = device
        self._fork_server = fork_server
        self._units = units
        self._settings = settings
        self._worker: Worker | None = None
        self.problem: EsenError | None = None
        self.loaded: set[str] = set()

    def worker(self) -> Worker:
        """A worker that is alive.

        Raises:
            EsenError: It could not be started; a level that failed once is not tried again.
        """
        if self.problem is not None:
            raise self.problem
        lost = self._device.lost()
        if lost:
            self._close()  # what it runs on is no longer what its figures would say; a new one says what to do
        if self._worker is None or not self._worker.alive:
            self._close()
            try:
                (placement,) = self._device.place((self._units,))
                label = f"profile worker with {self._units} units"
                self._worker = self._fork_server.worker(placement, label=label, settings=self._settings)
            except EsenError as problem:
                self.problem = problem
                raise
        return self._worker

    def forget(self, *names: str) -> None:
        """Free the memory of sub-models, or the whole worker where it cannot be asked any more."""
        for name in names:
            self.loaded.discard(name)
            if self._worker is None:
                continue
            try:
                if self._worker.alive:
                    self._worker.unload(name)
            except EsenError:
                self._close()

    def _close(self) -> None:
        worker, self._worker = self._worker, None
        self.loaded.clear()
        if worker is not None:
            worker.close()

    def __enter__(self) -> Level:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()


class OtherCode(UsageError):  # noqa: N818  what is so
    """A worker would measure other code than the notebook runs."""


def end_building(worker: Worker) -> None:
    """End a worker that is in the middle of building, without waiting for it.

    The worker itself knows how: one in this process has no process to kill, and a client of MPS must not be killed.
    """
    aside(worker.kill, "esen_lab end a worker")


def packed(submodel: SubModel, backend: str = "eager") -> bytes:
    """A sub-model's payload, executed by a backend.

    Raises:
        ModelError: It cannot be packed.
    """
    try:
        return wrapped_submodel(submodel, backend)
    except EsenError:
        raise
    except Exception as problem:
        raise ModelError(
            f"It cannot be packed for a worker: {type(problem).__name__}: {problem}",
            worker_traceback=traceback.format_exc(),
        ) from problem
