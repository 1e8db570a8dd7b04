"""A search in the background: the caller goes on, watches the best so far, and takes it when it likes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from esen_lab.errors import WorkerTimeout
from esen_lab.search.watch import Progress
from esen_lab.showing import Shown

Result = TypeVar("Result")


class SearchJob(Shown, Generic[Result]):
    """One search in a thread of its own. Its methods may be called from any thread.

    Args:
        run: Called once, in the thread, with `on_progress=`, `on_better=` and `stop=`: `allocate` or `search` with all
            else bound.
        title: What is going on, for people.
    """

    def __init__(self, run: Callable[..., Result], *, title: str = "Search") -> None:
        self.title = title
        self._stop = threading.Event()
        self._finished = threading.Event()
        self._progress = Progress(
            elapsed_s=0.0, jct_s=None, bound_s=0.0, evaluations=0, proven=False, message="starting"
        )
        self._best: Result | None = None
        self._outcome: list[Result] = []
        self._error: BaseException | None = None
        self._run = run
        # A daemon: a search holds nothing that an exit must wait for.
        self._thread = threading.Thread(target=self._work, name="esen-search", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            self._outcome.append(self._run(on_progress=self._keep, on_better=self._keep_best, stop=self._stop))
        except BaseException as error:
            self._error = error
        finally:
            self._finished.set()

    def _keep(self, progress: Progress) -> None:
        self._progress = progress

    def _keep_best(self, best: Result) -> None:
        self._best = best

    @property
    def best(self) -> Result | None:
        """The best so far, or what the search ended with; None before the first."""
        return self._outcome[0] if self._outcome else self._best

    @property
    def done(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self._finished.is_set()

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked it to stop."""
        return self._stop.is_set()

    @property
    def error(self) -> BaseException | None:
        """What it raised, once it is done; None where it has a result or is still searching."""
        return self._error if self.done else None

    def snapshot(self) -> Progress:
        """Where it stands now."""
        return self._progress

    def cancel(self) -> None:
        """Ask it to stop; `result` then returns the best so far. Returns at once."""
        self._stop.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended, in whatever way, or `timeout` seconds; returns whether it has."""
        return self._finished.wait(timeout)

    def result(self, timeout: float | None = None) -> Result:
        """Wait for the plan.

        Args:
            timeout: Seconds to wait at most; None for as long as it takes.

        Raises:
            WorkerTimeout: It is still searching after `timeout` seconds; it goes on.
            EsenError: What the search itself raised.
        """
        if not self.wait(timeout):
            raise WorkerTimeout(
                "The search has a result when it is done",
                given=f"it is still searching after {timeout:g} s",
                hint="Wait longer, look at snapshot(), or cancel() it and take its best so far.",
            )
        if self._thread is not threading.current_thread():
            self._thread.join()
        if self._error is not None:
            raise self._error
        return self._outcome[0]
