"""The last moments before an answer is due: this process has nothing else to do then that could wait.

    the interpreter   threads that compute give it up after half a millisecond, not after five as usual
    garbage           a look at all objects, which may take a hundred milliseconds, is put off

Both are the process's own: they hold for as long as some run is in its last moments, and are put back after.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from esen_lab.common.locks import Lock

PROMPT_S = 0.05
"""How long the last moments are."""

_SWITCH_S = 0.0005
_HALF_A_UNIT_S = 5e-7  # the interpreter cuts off to whole microseconds, and what it was would shrink


class _Process:
    """What this process does otherwise in such moments. An interrupt may leave it so: the next one puts it back."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._inside = 0
        self._before: tuple[float, bool] | None = None  # the switch interval, and whether garbage is collected

    def enter(self) -> None:
        """One more is in its last moments."""
        with self._lock:
            self._inside += 1
            if self._before is None:
                self._before = (sys.getswitchinterval(), gc.isenabled())
                if self._before[0] > _SWITCH_S:
                    sys.setswitchinterval(_SWITCH_S)
                gc.disable()

    def leave(self) -> None:
        """One is through, or was interrupted where it entered."""
        with self._lock:
            self._inside = max(0, self._inside - 1)
            if not self._inside and self._before is not None:
                if self._before[1]:
                    gc.enable()
                if self._before[0] > _SWITCH_S:
                    sys.setswitchinterval(self._before[0] + _HALF_A_UNIT_S)
                self._before = None


_PROCESS = _Process()


@contextmanager
def prompt() -> Iterator[None]:
    """Inside, this thread gets the interpreter soon, and no garbage is collected. Several may be inside at once."""
    try:
        _PROCESS.enter()
        yield
    finally:
        _PROCESS.leave()
