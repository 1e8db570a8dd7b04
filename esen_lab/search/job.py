"""A search in the background: the caller goes on, watches the best so far, and takes it when it likes."""

from __future__ import annotations

import threading
from collections.abc import Callable

from esen_lab.errors import WorkerTimeout
from esen_lab.search.allocation import Allocation
from esen_lab.search.watch import Progress


class SearchJob:
    """One search in a thread of its own. Its methods may be called from any thread.

    Args:
        run: Called once, in the thread, with `on_progress=` and `stop=`: `allocate` or `search` with all else bound.
    """

    def __init__(self, run: Callable[..., Allocation]) -> None:
        self._stop = threading.Event()
        self._finished = threading.Event()
        self._progress = Progress(
            elapsed_s=0.0, jct_s=None, bound_s=0.0, evaluations=0, proven=False, message="starting"
        )
        self._allocation: Allocation | None = None
        self._error: BaseException | None = None
        self._run = run
        # A daemon: a search holds nothing that an exit must wait for.
        self._thread = threading.Thread(target=self._work, name="esen-search", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            self._allocation = self._run(on_progress=self._keep, stop=self._stop)
        except BaseException as error:
            self._error = error
        finally:
            self._finished.set()

    def _keep(self, progress: Progress) -> None:
        self._progress = progress

    @property
    def done(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self._finished.is_set()

    def snapshot(self) -> Progress:
        """Where it stands now."""
        return self._progress

    def cancel(self) -> None:
        """Ask it to stop; `result` then returns the best so far. Returns at once."""
        self._stop.set()

    def result(self, timeout: float | None = None) -> Allocation:
        """Wait for the plan.

        Args:
            timeout: Seconds to wait at most; None for as long as it takes.

        Raises:
            WorkerTimeout: It is still searching after `timeout` seconds; it goes on.
            EsenError: What the search itself raised.
        """
        if not self._finished.wait(timeout):
            raise WorkerTimeout(
                "The search has a result when it is done",
                given=f"it is still searching after {timeout:g} s",
                hint="Wait longer, look at snapshot(), or cancel() it and take its best so far.",
            )
        if self._thread is not threading.current_thread():
            self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._allocation is not None
        return self._allocation
