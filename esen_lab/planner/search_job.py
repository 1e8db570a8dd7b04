"""A search in the background: the caller goes on, watches the best so far, and takes it when it likes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from esen_lab.common.jobs import Job
from esen_lab.planner.search_state import SearchProgress

Result = TypeVar("Result")


class SearchJob(Job[Result, SearchProgress], Generic[Result]):
    """One search in a thread of its own. Cancelled, its `result` is the best until then.

    Args:
        run: Called once, in the thread, with `on_progress=`, `on_better=` and `stop=`: `allocate` or `search` with all
            else bound.
        title: What is going on, for people.
        start: Whether it begins now, or when `start` is called.
    """

    def __init__(self, run: Callable[..., Result], *, title: str = "Search", start: bool = True) -> None:
        super().__init__(
            "search",
            unfinished="The search has a result when it is done",
            hint="Wait longer, look at snapshot(), or cancel() it and take its best so far.",
        )
        self.title = title
        self._progress = SearchProgress(
            elapsed_s=0.0, jct_s=None, bound_s=0.0, evaluations=0, proven=False, message="starting"
        )
        self._newest: list[Result] = []  # the best one alone
        self._told_best: Result | None = None
        self._run_search = run
        if start:
            self.start()

    def _work(self) -> None:
        self._keep_best(self._run_search(on_progress=self._keep, on_better=self._keep_best, stop=self._stop))

    def _standing(self) -> str:
        return "it is still searching"

    def outcome(self) -> Result:
        """What the search ended with; raises what it raised."""
        if self._error is not None:
            raise self._error
        return self._newest[0]

    def _keep(self, progress: SearchProgress) -> None:
        self._progress = progress
        self._changed()

    def _keep_best(self, best: Result) -> None:
        self._newest[:] = [best]
        self._changed()
        self._told_best = best

    @property
    def best(self) -> Result | None:
        """The best so far, or what the search ended with; None before the first. Those who listen see it first."""
        return self._newest[0] if self._is_mine and self._newest else self._told_best

    def snapshot(self) -> SearchProgress:
        """Where it stands now."""
        return self._progress
