"""What users ask of a plan editor from a page: done at once, or beside where it takes time; refusals are said."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from esen_lab.common.locks import Lock
from esen_lab.common.resources import begin
from esen_lab.errors import EsenError


class Acts:
    """Does what is asked, one after another or in threads of their own.

    Args:
        refused: Called with what could not be done, in the thread that tried.
    """

    def __init__(self, refused: Callable[[EsenError, Any], object]) -> None:
        self._refused = refused
        self._lock = Lock()
        self._threads: list[threading.Thread] = []

    def now(self, act: Callable[[], Any], where: Any = None) -> bool:
        """Do it here; whether it could be done. `where` goes to `refused`."""
        try:
            act()
        except EsenError as problem:
            self._refused(problem, where)
            return False
        return True

    def beside(self, act: Callable[[], Any], where: Any = None) -> None:
        """Do it in a thread of its own: callbacks of widgets must not take time."""
        thread = threading.Thread(target=self.now, args=(act, where), name="esen-tune", daemon=True)
        try:
            with self._lock:
                begin(thread)
                self._threads = [*(t for t in self._threads if t.is_alive()), thread]
        except EsenError as problem:  # the system gives no more threads
            self._refused(problem, where)

    def settle(self, timeout_s: float = 2.0) -> None:
        """Wait for what goes on beside, a little."""
        with self._lock:
            threads, self._threads = self._threads, []
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(timeout_s)
