"""Live displays: of jobs in the background, kept current by one thread, and of slow work in the running cell."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from esen_lab.notebook.views import Progress, View

INTERVAL_S = 0.25  # quick enough to look alive, slow enough to cost nothing


class Live(Protocol):
    """Something shown that can be replaced in place."""

    def update(self, view: View, *, last: bool = False) -> None:
        """Replace what is shown, for the `last` time perhaps. May be called from any thread."""


@dataclass(slots=True, eq=False)
class _Followed:
    job: Any
    live: Live
    draw: Callable[[Any], View]
    shown: View | None = None
    ended: threading.Event = field(default_factory=threading.Event)


class Follower:
    """Polls jobs and updates their displays: several jobs, one thread, one display each that is never appended to.

    A job has `done` (bool) and `snapshot()`; both are called from the follower's thread.

    Args:
        interval_s: Seconds between two looks.
    """

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._followed: list[_Followed] = []
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def follow(self, job: Any, live: Live, draw: Callable[[Any], View], shown: View | None = None) -> threading.Event:
        """Keep `live`, which shows `shown`, current with `draw(job.snapshot())` until the job is done.

        Returns:
            An event that is set when the last state has been drawn, or nobody follows any more.
        """
        followed = _Followed(job=job, live=live, draw=draw, shown=shown)
        with self._lock:
            self._followed.append(followed)
            if self._thread is None:
                self._closing.clear()
                # A daemon, so that a kernel that is told to exit never waits for a job to end.
                self._thread = threading.Thread(target=self._run, name="esen-progress", daemon=True)
                self._thread.start()
        return followed.ended

    def close(self, timeout_s: float = 2.0) -> None:
        """Stop following: displays stay as they are, the thread ends. Idempotent."""
        with self._lock:
            thread = self._thread
            self._closing.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            with self._lock:
                for followed in self._followed:
                    if self._closing.is_set():
                        followed.ended.set()
                self._followed = [followed for followed in self._followed if not followed.ended.is_set()]
                if not self._followed:
                    self._thread = None
                    return
                current = list(self._followed)
            for followed in current:
                _look(followed)
            if not all(followed.ended.is_set() for followed in current):
                self._closing.wait(self._interval_s)


def _look(followed: _Followed) -> None:
    try:
        # `done` is read before the snapshot, so that the last snapshot drawn is a complete one.
        done = followed.job.done
        view = followed.draw(followed.job.snapshot())
        if done or view != followed.shown:
            followed.live.update(view, last=done)
            followed.shown = view
    except Exception as problem:  # a display that cannot be drawn must not look as if the job stood still
        done = True
        _tell(followed.live, f"This display stopped: {type(problem).__name__}: {problem}")
    if done:
        followed.ended.set()


def _tell(live: Live, message: str) -> None:
    try:
        live.update(View(notes=(message,)), last=True)
    except Exception:  # the notebook itself is gone, so nobody is left to tell
        return


class Slow:
    """A display for work in the running cell: appears once it takes noticeable time, and is replaced by the result.

    Args:
        title: What is going on.
        show: Puts a view under the cell.
        live: Puts a view under the cell that can be replaced.
        clock: Seconds that only grow.
    """

    PATIENCE_S = 0.5
    LEAST_S = 0.1  # between two updates

    def __init__(
        self,
        title: str,
        show: Callable[[View], None],
        live: Callable[[View], Live],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._title = title
        self._show = show
        self._make_live = live
        self._clock = clock
        self._live: Live | None = None
        self._next_s = clock() + self.PATIENCE_S

    def tell(self, done: int, total: int, words: str) -> None:
        """How far the work is."""
        if self._clock() < self._next_s:
            return
        view = View(title=self._title, blocks=(Progress(done=done, total=total, words=words),))
        if self._live is None:
            self._live = self._make_live(view)
        else:
            self._live.update(view)
        self._next_s = self._clock() + self.LEAST_S

    def stop(self) -> None:
        """Say that the work has ended without a result, so that nobody takes the display for a living one."""
        if self._live is not None:
            self._live.update(View(title=f"{self._title}: stopped"), last=True)

    def finish(self, view: View) -> None:
        """Show the result, in the place of the progress where there was some."""
        if self._live is None:
            self._show(view)
        else:
            self._live.update(view, last=True)
