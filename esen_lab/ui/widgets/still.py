"""The still form of something that moves in a page: what the notebook's file holds of it, kept current."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

from esen_lab.common.locks import Lock
from esen_lab.common.resources import begin
from esen_lab.errors import DeviceError
from esen_lab.ui.views import View
from esen_lab.ui.widgets.live_displays import Live

REST = 50.0  # times what a drawing took: a long history is drawn less often


class Still:
    """Redraws a still form after changes, at most every `interval_s`; the last one when it is closed.

    Args:
        live: The output that holds it.
        draw: What it is to show now. Called in a thread of its own.
        interval_s: Seconds between a change and the next drawing: changes meanwhile are drawn with it.
    """

    def __init__(self, live: Live, draw: Callable[[], View], interval_s: float = 1.0) -> None:
        self._live = live
        self._draw = draw
        self._interval_s = interval_s
        self._lock = Lock()
        self._timer: threading.Timer | None = None
        self._closed = False
        self._took_s = 0.0

    def changed(self, *_: object) -> None:
        """There is something new. Cheap, from any thread."""
        with self._lock:
            if self._timer is not None or self._closed:
                return
            timer = threading.Timer(max(self._interval_s, REST * self._took_s), self._redraw)
            timer.name, timer.daemon = "esen-still", True
            with contextlib.suppress(DeviceError):  # the system gives no more threads: the next change tries again
                begin(timer)
                self._timer = timer

    def _redraw(self) -> None:
        with self._lock:
            self._timer = None
            if self._closed:
                return
            begun_s = time.perf_counter()
            with contextlib.suppress(Exception):  # a notebook that goes away: its file has the state before
                self._live.update(self._draw())
            self._took_s = time.perf_counter() - begun_s

    def close(self, final: View | None = None) -> None:
        """Show `final`, or what there is now, and stop. May be called again."""
        with self._lock:
            timer, self._timer = self._timer, None
            if self._closed:
                return
            self._closed = True
        if timer is not None:
            timer.cancel()
            if timer is not threading.current_thread():
                timer.join(2.0)
        with contextlib.suppress(Exception):
            self._live.update(self._draw() if final is None else final, last=True)
