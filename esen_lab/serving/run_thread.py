"""The one thread that runs batches: the event loop goes on reading requests meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from queue import Empty, SimpleQueue

from esen_lab.common.resources import begin

_IDLE_S = 0.25  # then it looks whether lanes have ended
_JOIN_S = 1.0


class RunThread:
    """Does one thing after another. May be asked from any thread.

    Args:
        around: Entered by the thread for all its life: what its caller had set.
        idle: Called whenever nothing was to do for a moment.
    """

    def __init__(self, around: AbstractContextManager[object], idle: Callable[[], object]) -> None:
        self._asked: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._around = around
        self._idle = idle
        self._then: Callable[[], object] = lambda: None
        self._thread = threading.Thread(target=self._work, name="esen_lab serving runs", daemon=True)

    def start(self) -> None:
        """Begin.

        Raises:
            DeviceError: The system gives no more threads.
        """
        begin(self._thread)

    def do(self, work: Callable[[], object]) -> None:
        """Have it done after all before it; it raises nothing."""
        self._asked.put(work)

    @property
    def waits(self) -> bool:
        """Whether something waits to be done."""
        return not self._asked.empty()

    def end(self, then: Callable[[], object]) -> None:
        """What was asked for before is done, then the thread ends; called once.

        Args:
            then: Called by the thread as its last: an interpreter that ends gives no other thread that could wait.
        """
        self._then = then
        self._asked.put(None)

    def join(self) -> None:
        """Wait for a thread that has called `then`."""
        self._thread.join(timeout=_JOIN_S)

    def _work(self) -> None:
        self._do_all()
        self._then()

    def _do_all(self) -> None:
        with self._around:
            while True:
                try:
                    work = self._asked.get(timeout=_IDLE_S)
                except Empty:
                    self._idle()
                    continue
                if work is None:
                    return
                work()
