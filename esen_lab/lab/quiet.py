"""Work that can wait lets runs go first: it would take a core from a lane, and its time from a run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

QUIET_S = 0.5  # without a run
MOST_S = 10.0  # of waiting: runs may never end, and a kernel may be killed


class QuietMoments:
    """Says when nothing has run for a moment. May be used from any thread.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ran_s = float("-inf")
        self._hurry = threading.Event()

    def ran(self) -> None:
        """There was a run just now."""
        self._ran_s = self._clock()

    def hurry(self) -> None:
        """End the wait that is under way, and let none begin until `rest`."""
        self._hurry.set()

    def rest(self) -> None:
        """Let work wait again."""
        self._hurry.clear()

    def wait(self) -> None:
        """Return `QUIET_S` after the last run, or after `MOST_S`."""
        give_up_s = self._clock() + MOST_S
        while True:
            now_s = self._clock()
            left_s = min(self._ran_s + QUIET_S, give_up_s) - now_s
            if left_s <= 0 or self._hurry.wait(left_s):
                return
