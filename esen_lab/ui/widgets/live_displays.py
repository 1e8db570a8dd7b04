"""Live displays: of jobs in the background, which one thread listens to, and of slow work in the running cell."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from esen_lab.common.locks import Lock
from esen_lab.common.resources import begin
from esen_lab.ui.views import Progress, View

INTERVAL_S = 0.25  # between two updates: quick enough to look alive, slow enough to cost nothing
TICK_S = 1.0  # without news: the time that is left has changed
_END_S = 5.0


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
    deaf: Callable[[], None] | None = None


class Follower:
    """Listens to jobs and updates their displays: several jobs, one thread, one display each that is never appended to.

    Args:
        interval_s: Seconds between two updates, at least; what a job ends with is shown at once.
        tick_s: Seconds after which a display is drawn anew without news of its job.
    """

    def __init__(self, interval_s: float = INTERVAL_S, tick_s: float = TICK_S) -> None:
        self._interval_s = interval_s
        self._tick_s = tick_s
        self._lock = Lock()
        self._followed: list[_Followed] = []
        self._news = threading.Event()
        self._hurry = threading.Event()  # a job has ended, or nobody is to be followed any more
        self._closing = False
        self._thread: threading.Thread | None = None

    def follow(self, job: Any, live: Live, draw: Callable[[Any], View], shown: View | None = None) -> threading.Event:
        """Keep `live`, which shows `shown`, current with `draw(job.snapshot())` until the job is done.

        Args:
            job: An `esen_lab.common.jobs.Job`.
            live: The display.
            draw: Called in the follower's thread.
            shown: What the display shows now.

        Returns:
            An event that is set when the last state has been drawn, or nobody follows any more.

        Raises:
            DeviceError: The system gives no thread for it: nobody follows.
        """
        deaf: Callable[[], None] = job.listen(self._hear)
        followed = _Followed(job=job, live=live, draw=draw, shown=shown, deaf=deaf)
        try:
            with self._lock:
                if self._thread is None:
                    self._closing = False
                    # A daemon, so that a kernel that is told to exit never waits for a job to end.
                    thread = threading.Thread(target=self._run, name="esen-progress", daemon=True)
                    begin(thread)
                    self._thread = thread
                self._followed.append(followed)
        except BaseException:
            deaf()
            raise
        self._news.set()
        return followed.ended

    def _hear(self, job: Any) -> None:
        if job.state.over:
            self._hurry.set()
        self._news.set()

    def close(self, timeout_s: float = 2.0) -> None:
        """Stop following: displays stay as they are, the thread ends. Idempotent."""
        with self._lock:
            thread = self._thread
            self._closing = True
        self._hurry.set()
        self._news.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            with self._lock:
                for followed in self._followed:
                    if self._closing:
                        followed.ended.set()
                    if followed.ended.is_set() and followed.deaf is not None:
                        followed.deaf()
                self._followed = [followed for followed in self._followed if not followed.ended.is_set()]
                if not self._followed:
                    self._thread = None
                    return
                current = list(self._followed)
            for followed in current:
                _look(followed)
            if not all(followed.ended.is_set() for followed in current):
                self._hurry.wait(self._interval_s)
                self._hurry.clear()
                self._news.wait(self._tick_s)
                self._news.clear()


def _look(followed: _Followed) -> None:
    job = followed.job
    try:
        # Looked at before the snapshot, so that the last snapshot drawn is a complete one.
        over = job.state.over and job.wait(_END_S)
        view = followed.draw(job.snapshot())
        if over or view != followed.shown:
            followed.live.update(view, last=over)
            followed.shown = view
    except Exception as problem:  # a display that cannot be drawn must not look as if the job stood still
        over = True
        _tell(followed.live, f"This display stopped: {type(problem).__name__}: {problem}")
    if over:
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

    def tell(self, done: int, total: int, words: str, so_far: View | None = None) -> None:
        """How far the work is; and, below that, what has come of it so far."""
        if self._clock() < self._next_s:
            return
        known = () if so_far is None else so_far.blocks
        view = View(title=self._title, blocks=(Progress(done=done, total=total, words=words), *known))
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
